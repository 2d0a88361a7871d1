from __future__ import annotations

import random

import pytest

from driftpost_sync.drain import (
    HOST_GATE_MS,
    MAX_ACK_TIMEOUT_MS,
    MAX_FLIGHTS,
    NO_SUBSCRIBER,
    NOT_AUTHORISED,
    PACKET_TOO_LARGE,
    Drain,
    Verdict,
    reason_text,
)
from driftpost_sync.outbox_row import Batch, OutboxRow

INCARNATION = 1 << 32


def drain(**changes) -> Drain:
    values = {
        "ack_timeout_ms": 10_000,
        "message_bytes": 32_768,
        "inflight_bytes": 262_144,
        "backlog_bytes_per_s": 65_536,
        "random": random.Random(1),
    }
    made = Drain(**{**values, **changes})
    made.connected(65_535, None)
    return made


def batch(*seqs: int, historical: bool = False, size: int = 100) -> Batch:
    rows = tuple(
        OutboxRow(seq + 1000, INCARNATION, seq, "window", 1, 1, 0, None, b"x" * size) for seq in seqs
    )
    return Batch(INCARNATION, historical, rows)


def send(made: Drain, mid: int, *seqs: int, now: int = 0, size: int = 1000, **options) -> None:
    made.sent(mid, batch(*seqs, **options), size, now)


def acknowledge(made: Drain, *seqs: int, now: int = 0) -> int:
    return made.acknowledged(INCARNATION, [(seq, seq) for seq in seqs], now)


def fill(made: Drain, start: int, now: int = 0) -> int:
    """Send until nothing more is allowed; how many messages."""
    count = 0
    while made.allowance(now) is not None:
        send(made, start + count, start + count, now=now)
        count += 1
    return count


def test_the_way_opens_as_the_aggregator_answers():
    made = drain()
    counts = []
    for _ in range(7):
        counts.append(fill(made, 1))
        acknowledge(made, 1, *range(2, 1 + counts[-1]))
        for mid in range(1, 1 + counts[-1]):
            made.published(mid, 0, 0)
    assert counts[0] == 1
    assert counts == sorted(counts)
    assert counts[-1] == MAX_FLIGHTS


def test_the_brokers_receive_maximum_is_honoured():
    made = drain()
    made.connected(2, None)
    for _ in range(5):
        count = fill(made, 1)
        acknowledge(made, *range(1, 1 + count))
    assert count == 2


def test_the_brokers_packet_size_bounds_a_message():
    made = drain()
    made.connected(65_535, 8192)
    assert made.allowance(0).max_bytes <= 8192 - 170


def test_bytes_in_flight_are_bounded():
    made = drain(inflight_bytes=65_536)
    for _ in range(6):
        send(made, 1, 1)
        acknowledge(made, 1)
    send(made, 1, 1, size=40_000)
    assert made.allowance(0).max_bytes == 25_536
    send(made, 2, 2, size=30_000)
    assert made.allowance(0) is None


def test_the_brokers_word_alone_settles_nothing():
    made = drain()
    send(made, 1, 1)
    assert made.published(1, 0, 0) == (Verdict.FINE, ())
    assert made.in_flight == {1001}


def test_a_partly_acknowledged_message_stays_under_way():
    made = drain()
    send(made, 1, 1, 2, 3)
    assert acknowledge(made, 2) == 1
    assert made.in_flight == {1001, 1003}
    assert acknowledge(made, 2, 7) == 0
    assert made.acknowledged(INCARNATION + 1, [(1, 3)], 0) == 0
    assert acknowledge(made, 1, 3) == 2
    assert made.inflight_now == (0, 0)


def test_silence_leads_to_ever_rarer_single_probes():
    made = drain()
    for _ in range(4):
        fill(made, 1)
        acknowledge(made, *range(1, 20))
    now, mid = 0, 100
    fill(made, mid, now)
    waits = []
    for _ in range(12):
        start = now
        while not made.expire(now):
            now += made.wait_ms(now)
        waits.append(now - start)
        assert made.trouble == "the aggregator does not answer"
        mid += 100
        assert fill(made, mid, now) == 1
    assert waits[0] == 10_000
    assert waits == sorted(waits)
    assert waits[-1] == MAX_ACK_TIMEOUT_MS
    assert made.counters.resent == 0  # the probes of this test carried other rows


def test_the_first_answer_after_silence_opens_the_way_again():
    made = drain()
    send(made, 1, 1)
    assert made.expire(10_000) == 1
    send(made, 2, 1, now=10_000)
    assert made.counters.resent == 1
    acknowledge(made, 1, now=11_000)
    assert made.trouble == ""
    send(made, 3, 2, now=11_000)
    assert made.wait_ms(11_000) == 10_000


def test_one_lost_message_among_answered_ones_does_not_close_the_way():
    made = drain()
    for _ in range(4):
        fill(made, 1)
        acknowledge(made, *range(1, 20))
    send(made, 1, 1, now=0)
    send(made, 2, 2, now=9_000)
    acknowledge(made, 2, now=9_500)
    assert made.expire(10_000) == 1
    assert fill(made, 3, 10_000) > 1


def test_no_subscriber_keeps_the_rows_and_waits():
    made = drain()
    send(made, 1, 1)
    assert made.published(1, NO_SUBSCRIBER, 0) == (Verdict.KEEP, ())
    assert made.in_flight == frozenset()
    assert made.allowance(0) is None
    assert made.trouble == "no aggregator is subscribed"
    assert made.allowance(made.wait_ms(0)) is not None


def test_refusals_in_a_row_wait_longer_and_an_acknowledgement_ends_that():
    made = drain(random=type("One", (), {"random": lambda self: 1.0})())
    now, waits = 0, []
    for mid in range(1, 12):
        send(made, mid, mid, now=now)
        made.published(mid, 0x97, now)
        waits.append(made.wait_ms(now))
        now += waits[-1]
    assert waits == sorted(waits)
    assert waits[-1] == 300_000
    send(made, 20, 20, now=now)
    acknowledge(made, 20, now=now)
    assert made.allowance(now) is not None


def test_a_configuration_error_is_not_hammered():
    made = drain()
    send(made, 1, 1)
    made.published(1, NOT_AUTHORISED, 0)
    assert made.wait_ms(0) >= 30_000
    assert "access rules" in made.trouble


def test_a_message_too_large_is_halved_until_it_is_a_single_body():
    made = drain()
    send(made, 1, 1, 2, 3, 4, size=30_000)
    assert made.published(1, PACKET_TOO_LARGE, 0) == (Verdict.KEEP, ())
    assert made.allowance(0).max_bytes == 15_000
    made.connected(65_535, None)
    assert made.allowance(0).max_bytes == 15_000
    send(made, 2, 4, size=14_000)
    assert made.published(2, PACKET_TOO_LARGE, 0) == (Verdict.TOO_LARGE, (4,))


def test_a_connection_cut_for_size_blames_the_largest_unconfirmed_message():
    made = drain()
    for _ in range(4):
        send(made, 1, 1)
        acknowledge(made, 1)
    send(made, 1, 1, size=40_000)
    made.published(1, 0, 0)
    send(made, 2, 2, size=20_000)
    send(made, 3, 3, size=100)
    assert made.dropped_as_too_large(0) == (Verdict.TOO_LARGE, (INCARNATION, 2))
    assert drain().dropped_as_too_large(0) == (Verdict.FINE, None)


def test_a_lost_connection_brings_back_what_the_broker_had_not_confirmed():
    made = drain()
    acknowledge(made)
    send(made, 1, 1)
    made.published(1, 0, 0)
    send(made, 2, 2)
    made.disconnected()
    assert made.in_flight == {1001}
    made.disconnected()
    made.connected(65_535, None)
    assert made.allowance(0) is not None, "what the old connection left takes none of the new window"
    send(made, 1, 2)
    made.published(1, NO_SUBSCRIBER, 0)
    assert made.in_flight == {1001}
    assert acknowledge(made, 1) == 1


def test_the_backlog_is_paced_and_live_rows_are_not():
    made = drain(backlog_bytes_per_s=1000)
    send(made, 1, 1, historical=True, size=5000)
    acknowledge(made, 1)
    assert made.allowance(0).historical is False
    assert made.wait_ms(0) == 5000
    assert made.allowance(5000).historical is True


def test_an_aggregator_that_said_goodbye_holds_the_drain_but_not_for_ever():
    made = drain()
    made.host_is(False, 0)
    assert made.host_offline
    assert made.allowance(0) is None
    assert made.allowance(HOST_GATE_MS - 1) is None
    assert made.wait_ms(0) == HOST_GATE_MS
    assert made.allowance(HOST_GATE_MS) is not None
    send(made, 1, 1, now=HOST_GATE_MS)
    assert made.allowance(HOST_GATE_MS + 1) is None, "one probe, then it waits again"
    acknowledge(made, 1, now=HOST_GATE_MS + 1)
    assert not made.host_offline
    assert made.allowance(HOST_GATE_MS + 1) is not None


def test_an_aggregator_that_comes_back_opens_the_way_at_once():
    made = drain()
    made.host_is(False, 0)
    made.host_is(True, 5)
    assert made.allowance(5) is not None


def test_a_silent_aggregator_never_makes_the_loop_spin():
    made = drain()
    now = 0
    for mid in range(1, 200):
        made.expire(now)
        if made.allowance(now) is not None:
            send(made, mid, mid, now=now)
            made.published(mid, NO_SUBSCRIBER if mid % 3 else 0, now)
        wait = made.wait_ms(now)
        assert wait is None or wait > 0
        now += wait or 1


@pytest.mark.parametrize("code", [0x10, 0x87, 0x8E, 0x95, 0x97, 0x9C, 0x9D, 0x9F, 0xFF])
def test_every_reason_has_words(code):
    assert reason_text(code)


def test_the_brokers_word_does_not_hide_that_the_aggregator_is_silent():
    made = drain()
    send(made, 1, 1)
    made.published(1, 0, 0)
    made.expire(10_000)
    send(made, 2, 1, now=10_000)
    made.published(2, 0, 10_001)
    assert made.trouble == "the aggregator does not answer"
    acknowledge(made, 1, now=10_002)
    assert made.trouble == ""


def test_a_broker_that_cuts_the_connection_makes_the_message_suspect():
    made = drain()
    send(made, 1, 1, 2, 3, size=9000)
    made.cut(0, certain=True)
    made.disconnected()
    made.connected(65_535, None)
    assert made.allowance(0).max_bytes == 4500
    for cuts in range(3):
        assert 1003 not in made.not_now(0)
        made.connected(65_535, None)
        send(made, 10 + cuts, 3, size=4000)
        made.cut(0, certain=False)
        made.disconnected()
    assert made.not_now(0) == {1003}, "others are tried first"
    assert made.not_now(3_600_000) == frozenset(), "and it is tried again"


def test_a_broker_that_dies_now_and_then_makes_nothing_suspect():
    made = drain()
    for mid in range(20):
        made.connected(65_535, None)
        send(made, mid, mid)
        if mid % 2:
            made.published(mid, 0, 0)
        made.cut(0, certain=False)
        made.disconnected()
        acknowledge(made, mid)
    assert made.not_now(0) == frozenset()


def test_messages_that_were_made_smaller_grow_again_after_a_while():
    made = drain()
    send(made, 1, 1, 2, size=8000)
    made.published(1, PACKET_TOO_LARGE, 0)
    sizes = []
    for hour in range(5):
        now = hour * 3_600_000
        made.connected(65_535, None)
        sizes.append(made.allowance(now).max_bytes)
        send(made, 2, 1, now=now)
        acknowledge(made, 1, now=now)
    assert sizes == [4000, 4000, 8000, 16_000, 32_000]
