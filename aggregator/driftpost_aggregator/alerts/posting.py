"""Messages over HTTP: Slack and what understands its webhooks, and signed CloudEvents for everything else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone

from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from driftpost_aggregator.alerts.change import Change
from driftpost_aggregator.alerts.channels import Channel
from driftpost_aggregator.delivery.payloads import CLOUD_EVENT, JSON
from driftpost_aggregator.delivery.schedule import Answer
from driftpost_aggregator.delivery.signing import read_secrets, signed_headers
from driftpost_aggregator.delivery.webhook import post, read_token
from driftpost_aggregator.errors import ConfigurationError

EVENT_TYPE = "io.driftpost.incidents.changed.v1"
# Slack cuts longer texts.
_MAX_TEXT = 3_000


def slack_body(text: str) -> bytes:
    """What Slack's incoming webhooks take: a text, in which three characters mean something (&, <, >)."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return json.dumps({"text": escaped[:_MAX_TEXT]}, ensure_ascii=False).encode()


def event_body(
    message: str, changes: Sequence[Change], *, fleet: str, public_url: str | None, now_ms: int
) -> bytes:
    """Some changes as one CloudEvent."""
    event = CloudEvent(
        attributes={
            "specversion": "1.0",
            "id": message,
            "source": f"/driftpost/fleets/{fleet}",
            "type": EVENT_TYPE,
            "time": datetime.fromtimestamp(now_ms / 1000, timezone.utc),
            "datacontenttype": "application/json",
        },
        data={
            "fleet": fleet,
            "changes": [{**change.to_dict(), "link": change.link(public_url)} for change in changes],
        },
    )
    return JSONFormat().write(event)


async def send_slack(channel: Channel, text: str, now_ms: int) -> Answer:
    """Send a text to a Slack-compatible webhook."""
    assert channel.url_file is not None, "checked with the settings"
    try:
        url = read_token("alerts.channels.url_file", channel.url_file)
    except ConfigurationError as error:
        return Answer(None, str(error))
    return await post(
        url,
        slack_body(text),
        {"content-type": JSON},
        allow_private=channel.allow_private,
        timeout_s=channel.timeout_s,
        now_ms=now_ms,
    )


async def send_event(channel: Channel, message: str, body: bytes, now_ms: int) -> Answer:
    """Send a signed CloudEvent."""
    assert channel.secret_file is not None, "checked with the settings"
    try:
        headers = signed_headers(read_secrets(channel.secret_file), message, body, now_ms)
    except ConfigurationError as error:
        return Answer(None, str(error))
    return await post(
        channel.url,
        body,
        {**headers, "content-type": CLOUD_EVENT},
        allow_private=channel.allow_private,
        timeout_s=channel.timeout_s,
        now_ms=now_ms,
    )
