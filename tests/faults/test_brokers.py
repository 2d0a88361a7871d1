"""Whatever a broker does, rows stay until the aggregator has them, and go once it lets them."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from driftpost_sync.coarsen import coarsen
from driftpost_sync.drain import REASONS, Drain
from driftpost_sync.outbox import Outbox
from driftpost_sync.outbox_schema import create_tables
from faults.scripted_broker import Script, ScriptedBroker
from wire import Device, World, wait_until

TOO_LARGE = 0x95
TWIN = 0x8E
# What a broker may answer a PUBLISH with, after the standard.
PUBACK = (0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99)
# With what it may refuse a CONNECT; 0x84 is a version, which is negotiated.
CONNACK = (0x80, 0x83, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x97, 0x9C, 0x9D, 0x9F)
# With what it may end a connection.
DISCONNECT = (0x81, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x93, 0x96, 0x97, 0x98, 0x9C, 0x9D, 0x9F)


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    made = ScriptedBroker()
    yield made
    made.close()


@pytest.fixture
def device(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    # Minutes of waiting, in which a test has nothing to see.
    monkeypatch.setattr("driftpost_sync.drain.HOLD_BASE_MS", 20)
    monkeypatch.setattr("driftpost_sync.drain.HOLD_CAP_MS", 200)
    monkeypatch.setattr("driftpost_sync.drain.DEFER_MS", 500)
    monkeypatch.setattr("driftpost_sync.line.TWIN_WAIT_MS", 300)
    with ExitStack() as stack:
        world = World(broker, stack)
        yield world.device(start=False, settings={"protocol": "5", "ack_timeout_s": 0.2})


def healed(broker: ScriptedBroker, device: Device, rows: int) -> None:
    """It behaves again: everything arrives, each once, and the accounts balance."""
    broker.script = Script()
    device.link.wake()
    wait_until(lambda: device.pending() == 0, "everything is acknowledged", 20)
    assert len(broker.committed) == rows
    balanced(device)


def balanced(device: Device) -> None:
    with device.outbox() as outbox:
        total = outbox.total()
    assert total.recorded.rows == total.acked.rows + total.pending.rows + total.quarantined.rows


@pytest.mark.parametrize("code", PUBACK, ids=hex)
def test_a_message_that_the_broker_refuses_is_kept_and_sent_again_without_haste(
    broker: ScriptedBroker, device: Device, code: int
) -> None:
    broker.script.puback = code
    device.record(3)
    device.link.start()
    wait_until(lambda: broker.publishes >= 2, "tried again")
    assert broker.publishes < 100, "not hammered"
    assert device.pending() == 3
    assert not broker.committed
    if code in REASONS:
        wait_until(lambda: device.link.status().trouble == REASONS[code], "says why")
    healed(broker, device, 3)


@pytest.mark.parametrize("code", CONNACK, ids=hex)
def test_a_device_that_is_not_let_in_keeps_everything_and_comes_back_with_growing_waits(
    broker: ScriptedBroker, device: Device, code: int
) -> None:
    broker.script.connack = code
    device.record(3)
    device.link.start()
    wait_until(lambda: broker.connects >= 3, "tried again")
    begun, before = time.monotonic(), broker.connects
    time.sleep(0.5)
    assert broker.connects - before <= 1 + 40 * (time.monotonic() - begun)
    assert "refused" in device.link.status().last_error
    assert device.pending() == 3
    healed(broker, device, 3)


@pytest.mark.parametrize("code", DISCONNECT, ids=hex)
def test_a_connection_that_is_ended_with_a_reason_costs_nothing(
    broker: ScriptedBroker, device: Device, code: int
) -> None:
    broker.script.disconnect = code
    device.record(3)
    device.link.start()
    wait_until(lambda: broker.publishes >= 2, "tried again")
    assert device.pending() == 3
    healed(broker, device, 3)


def test_a_message_too_large_for_the_broker_is_set_aside_with_the_reason_and_the_account_balances(
    broker: ScriptedBroker, device: Device
) -> None:
    broker.script.disconnect = TOO_LARGE
    device.record(2)
    device.link.start()
    wait_until(lambda: device.pending() == 0, "set aside")
    with device.outbox() as outbox:
        assert outbox.total().quarantined.rows == outbox.total().recorded.rows
    assert "too large" in device.query("SELECT reason FROM quarantine")[0][0]
    balanced(device)


def test_a_twin_is_counted_and_waited_for(broker: ScriptedBroker, device: Device) -> None:
    broker.script.disconnect = TWIN
    device.record(3)
    device.link.start()
    wait_until(lambda: device.link.status().twins >= 2, "noticed")
    assert device.pending() == 3
    healed(broker, device, 3)


def test_a_broker_that_accepts_and_forgets_settles_nothing(broker: ScriptedBroker, device: Device) -> None:
    broker.script.deliver = False
    device.record(5)
    device.link.start()
    wait_until(lambda: "does not answer" in device.link.status().trouble, "noticed")
    assert device.pending() == 5
    healed(broker, device, 5)


def test_nonsense_after_the_greeting_ends_a_connection_and_not_the_link(
    broker: ScriptedBroker, device: Device
) -> None:
    draw = random.Random(1)
    device.record(5)
    broker.script.garbage = draw.randbytes(40)
    device.link.start()
    for _ in range(10):
        before = broker.connects
        broker.script.garbage = draw.randbytes(draw.randint(1, 200))
        deadline = time.monotonic() + 0.25
        while broker.connects == before and time.monotonic() < deadline:
            time.sleep(0.01)
    assert device.link._thread.is_alive()
    balanced(device)
    broker.script = Script()
    wait_until(lambda: device.pending() == 0, "everything is acknowledged", 20)
    assert len(broker.committed) == 5


def test_an_aggregator_that_is_silent_for_days_is_asked_ever_more_rarely_and_misses_nothing() -> None:
    """Three days in fast-forward: five-minute windows, a broker that takes everything, no answer."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    create_tables(db)
    outbox = Outbox.open(db, random.Random(1), mono=0)
    drain = Drain(
        ack_timeout_ms=15_000,
        message_bytes=32_768,
        inflight_bytes=262_144,
        backlog_bytes_per_s=65_536,
        random=random.Random(2),
    )
    drain.connected(65_535, None)
    now = mid = probes = 0
    next_window = 0
    days = 3 * 86_400_000
    while now < days:
        if now >= next_window:
            outbox.live = not drain.silent
            outbox.put("window", b"w" * 500, mono=now, windows=1, rows=10)
            coarsen(db, outbox, 1 << 20, now=now)
            next_window += 300_000
        drain.expire(now)
        allowance = drain.allowance(now)
        if allowance is not None:
            batch = outbox.next_batch(
                allowance.max_bytes, now=now, exclude=drain.not_now(now), live_since=0, probe=drain.silent
            )
            if batch is not None:
                mid, probes = mid + 1, probes + 1
                drain.sent(mid, batch, batch.wire_bytes, now)
                drain.published(mid, 0, now)
        now = min(next_window, now + max(1, drain.wait_ms(now) or 300_000))
    assert drain.silent
    assert probes <= 3 * 24 * 6 * 1.5, "one in ten minutes, with jitter"
    total = outbox.total()
    assert total.pending.rows == total.recorded.rows == 10 * 3 * 288
    arrived = 0
    while (batch := outbox.next_batch(32_768, now=now)) is not None:
        arrived += sum(row.rows for row in batch.rows)
        outbox.acknowledge(batch.incarnation, [(row.seq, row.seq) for row in batch.rows])
    assert arrived == outbox.total().acked.rows == 10 * 3 * 288
    db.close()
