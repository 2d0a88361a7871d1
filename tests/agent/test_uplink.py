"""A guard inside an application, its link, and an aggregator that commits what arrives."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.bundles import tabular_rows
from driftpost import Guard, StoreUnusable
from driftpost_agent.uplink import Uplink
from driftpost_models.bundle import Bundle
from driftpost_sketches.window import Window
from driftpost_sync.messages import DescribeBody, LedgerBody, WindowBody
from driftpost_sync.topics import Identity
from mosquitto import needs_mosquitto, running_mosquitto
from wire import CLOCK, World, wait_until


@needs_mosquitto
def test_every_row_arrives_once_is_acknowledged_and_described(mlp_bundle: Bundle, tmp_path: Path) -> None:
    with ExitStack() as stack:
        world = World(stack.enter_context(running_mosquitto()), stack)
        aggregator = world.aggregator()
        guard = stack.enter_context(Guard(mlp_bundle, store=tmp_path / "guard.db", clock=CLOCK))
        uplink = Uplink.of_guard(
            guard, world.settings(), Identity("test", "app-1"), {"site": "lab"}, clock=CLOCK
        )
        store = guard.store
        assert store is not None
        assert not uplink.window_acknowledged()
        for number in range(3):
            guard.run(tabular_rows(50, seed=number))
            guard.flush()
        uplink.queue_ledger()
        uplink.wake()
        wait_until(lambda: store.outbox_pending().messages == 0, "everything is acknowledged")
        assert uplink.window_acknowledged()
        aggregator.want = ("describe", "ledger", "something new", "describe:unknown")
        guard.run(tabular_rows(7))
        guard.flush()
        uplink.wake()
        wait_until(lambda: kinds(aggregator.envelopes).count("describe") >= 2, "the description comes again")
        wait_until(lambda: store.outbox_pending().messages == 0, "the rest is acknowledged")
        assert aggregator.presence["app-1"].bundle == mlp_bundle.id
        assert aggregator.presence["app-1"].attributes == {"site": "lab"}
        assert uplink.problem()[0] == ""
        assert uplink.stop(5.0)
        bodies = [(item.kind, item.body) for envelope in aggregator.envelopes for item in envelope.items]
        windows = {body for kind, body in bodies if kind == "window"}
        total = sum(Window.from_bytes(WindowBody.from_bytes(body).window).rows for body in windows)
        assert total == 157
        assert DescribeBody.from_bytes(dict(bodies)["describe"]).window_s == guard.window_seconds
        assert LedgerBody.from_bytes(dict(bodies)["ledger"]).balanced
        assert store.outbox_ledger().acked.rows == 157
        assert aggregator.malformed == []


def kinds(envelopes: list) -> list[str]:
    return [item.kind for envelope in envelopes for item in envelope.items]


def test_a_guard_without_a_store_has_nothing_to_send(mlp_bundle: Bundle) -> None:
    from driftpost_sync.mqtt_settings import MqttSettings

    with Guard(mlp_bundle, threaded=False) as guard, pytest.raises(StoreUnusable, match="store="):
        Uplink.of_guard(guard, MqttSettings(), Identity("f", "d"), {})
