"""An MQTT topic of the fleet's broker; delivered when the broker has taken the message (PUBACK)."""

from __future__ import annotations

from collections.abc import Callable

import anyio.to_thread

from driftpost_aggregator.delivery.schedule import Answer
from driftpost_aggregator.delivery.targets import Target

# Publishes on a topic and waits some seconds; what went wrong, "" if the broker has it.
Post = Callable[[str, bytes, float], str]


async def deliver(target: Target, body: bytes, post: Post | None) -> Answer:
    """Publish an event with QoS 1."""
    if post is None:
        return Answer(None, "this process has no connection to a broker")
    error = await anyio.to_thread.run_sync(post, target.topic, body, target.timeout_s)
    return Answer(None, error) if error else Answer(200, "")
