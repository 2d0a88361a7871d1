"""What a webhook is sent: the event itself, or what starts a run of GitHub Actions, Airflow or Kubeflow.

Each wraps the same event, so that a pipeline finds the same fields wherever it is called. Sources: GitHub's
REST API ("Create a repository dispatch event": `event_type` of at most 100 characters, `client_payload` of at
most 10 properties), Airflow's stable REST API (`POST .../dagRuns`: `logical_date` must be there in version 2
and may be null), Kubeflow Pipelines' API v2beta1 (`POST /apis/v2beta1/runs`).
"""

from __future__ import annotations

import json
from typing import Any

from driftpost_aggregator.delivery.targets import Target

CLOUD_EVENT = "application/cloudevents+json; charset=UTF-8"
JSON = "application/json"
# Kubeflow shows names up to here.
_MAX_WORDS = 250


def payload(target: Target, request: str, body: bytes) -> tuple[str, bytes]:
    """Content type and bytes for a target.

    Args:
        target: a webhook.
        request: the event's id.
        body: the event in JSON.
    """
    if target.format == "cloudevent":
        return CLOUD_EVENT, body
    event: dict[str, Any] = json.loads(body)
    if target.format == "github":
        plain: dict[str, Any] = {
            "event_type": target.event_type[:100],
            "client_payload": {"request": request, "action": event["data"]["action"], "event": event},
        }
    elif target.format == "airflow":
        plain = {"dag_run_id": request, "conf": {"event": event}}
        if "/api/v1/" not in target.url:
            plain["logical_date"] = None
    else:
        plain = _kubeflow(target, request, event)
    return JSON, json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()


def _kubeflow(target: Target, request: str, event: dict[str, Any]) -> dict[str, Any]:
    reference = {"pipeline_id": target.pipeline_id}
    if target.pipeline_version_id:
        reference["pipeline_version_id"] = target.pipeline_version_id
    plain: dict[str, Any] = {
        "display_name": request,
        "description": str(event["data"]["incident"]["cause"])[:_MAX_WORDS],
        "pipeline_version_reference": reference,
        # Parameters are typed by the pipeline: one text is what any pipeline can declare.
        "runtime_config": {
            "parameters": {"request": request, "event": json.dumps(event, ensure_ascii=False)}
        },
    }
    if target.experiment_id:
        plain["experiment_id"] = target.experiment_id
    return plain
