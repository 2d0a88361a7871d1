"""The fleet's totals for Prometheus, in its text format; and health for a load balancer."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from driftpost_aggregator.store.database import reading
from driftpost_aggregator.web.answers import Json
from driftpost_aggregator.web.queries import fleet
from driftpost_aggregator.web.queries.fleet import Totals
from driftpost_aggregator.web.site import site_of

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _gauge(name: str, meaning: str, samples: dict[tuple[tuple[str, str], ...], float]) -> Iterator[str]:
    yield f"# HELP driftpost_{name} {meaning}"
    yield f"# TYPE driftpost_{name} gauge"
    for labels, value in samples.items():
        written = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
        yield f"driftpost_{name}{{{written}}} {value:.17g}"


def exposition(name: str, totals: Totals, listeners: int) -> str:
    """Totals in the Prometheus text format.

    Args:
        name: The fleet's, a label of every sample.
        totals: What to tell.
        listeners: Pages that are open.
    """
    fleet_label = ("fleet", name)
    covered = totals.coverage

    def by(key: str, values: dict[str, float]) -> dict[tuple[tuple[str, str], ...], float]:
        return {(fleet_label, (key, text)): value for text, value in values.items()}

    def one(value: float) -> dict[tuple[tuple[str, str], ...], float]:
        return {(fleet_label,): value}

    lines = [
        *_gauge(
            "devices",
            "Devices ever seen, by presence.",
            by("state", {"online": totals.online, "offline": totals.offline}),
        ),
        *_gauge("devices_drifting", "Devices with a finding that stands.", one(totals.drifting)),
        *_gauge("windows", "Windows stored.", one(totals.windows)),
        *_gauge("rows", "Inferences in stored windows.", one(totals.rows)),
        *_gauge(
            "incidents",
            "Incidents that stand, by scope and state.",
            {
                (fleet_label, ("scope", scope), ("state", state)): count
                for (scope, state), count in sorted(totals.incidents.items())
            },
        ),
        *_gauge(
            "retrain_requests",
            "Retrain requests by state.",
            by("state", {state: float(count) for state, count in sorted(totals.requests.items())}),
        ),
        *_gauge(
            "quarantined_last_day", "Messages refused in the last 24 hours.", one(totals.quarantined_day)
        ),
        *_gauge(
            "ledger_rows",
            "Inferences by the devices' ledgers.",
            by(
                "state",
                {
                    "recorded": covered.recorded_rows,
                    "acknowledged": covered.acked_rows,
                    "pending": covered.pending_rows,
                    "quarantined": covered.quarantined_rows,
                    "lost_at_start": covered.lost_rows_at_start,
                },
            ),
        ),
        *_gauge("dashboard_listeners", "Pages that receive live updates.", one(listeners)),
    ]
    return "\n".join(lines) + "\n"


def metrics(request: Request) -> Response:
    """`/metrics`"""
    site = site_of(request)
    with reading(site.engine) as connection:
        totals = site.totals.get("fleet", lambda: fleet.totals(connection, site.now_ms()))
    return PlainTextResponse(exposition(site.options.fleet, totals, site.watcher.listeners), media_type=_TYPE)


def health(request: Request) -> Response:
    """`/health`: 200 while the database answers, 503 otherwise."""
    site = site_of(request)
    try:
        with reading(site.engine) as connection:
            connection.execute(select(1))
    except SQLAlchemyError:
        return Json({"status": "the database does not answer"}, 503)
    return Json({"status": "ok"})
