"""Months offline in fixed bytes: waiting windows become coarser, and nothing of them is lost."""

from __future__ import annotations

import random
import sqlite3
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.fitting import fit_numeric
from driftpost_sketches.schema import Role, Schema
from driftpost_sketches.window import Window
from driftpost_sync.coarsen import LEAVE_FREE, coarsen
from driftpost_sync.messages import LedgerBody, WindowBody
from driftpost_sync.outbox import Outbox
from driftpost_sync.outbox_schema import create_tables

WINDOW_MS = 300_000
BUDGET = 64 << 10


def schema_of(streams: int) -> Schema:
    reference = np.random.default_rng(5).normal(size=(2_000, streams))
    return Schema([fit_numeric(f"x{i}", column, Role.INPUT) for i, column in enumerate(reference.T)])


SCHEMA = schema_of(4)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    create_tables(connection)
    yield connection
    connection.close()


@pytest.fixture
def outbox(db: sqlite3.Connection) -> Outbox:
    return Outbox.open(db, random.Random(1), mono=0, boot="boot-1")


class Device:
    """Records windows of random rows, and remembers what they add up to."""

    def __init__(self, outbox: Outbox, schema: Schema = SCHEMA, seed: int = 3) -> None:
        self.outbox = outbox
        self.schema = schema
        self.twin = Window.empty(schema)
        self.number = 0
        self._random = np.random.default_rng(seed)
        self._accumulator = WindowAccumulator(schema)

    def record(self, *, bundle: str = "b" * 64, rows: int = 12) -> Window:
        self._accumulator.update(self._random.normal(size=(rows, len(self.schema))))
        window, _ = self._accumulator.take()
        self.twin = self.twin.merge(window)
        body = WindowBody(
            bundle, self.schema.id, WINDOW_MS * self.number, WINDOW_MS * (self.number + 1), None, None,
            window.to_bytes(),
        )  # fmt: skip
        self.number += 1
        self.outbox.put("window", body.to_bytes(), mono=body.mono_end, windows=1, rows=rows)
        return window


def waiting(db: sqlite3.Connection, where: str = "status = 0") -> list[tuple[int, int, WindowBody]]:
    """(id, base windows, body) of windows in the outbox, oldest first."""
    rows = db.execute(f"SELECT id, windows, body FROM messages WHERE kind = 'window' AND {where} ORDER BY id")
    return [(row_id, windows, WindowBody.from_bytes(body)) for row_id, windows, body in rows]


def merged(windows: list[Window], schema: Schema = SCHEMA) -> bytes:
    total = Window.empty(schema)
    for window in windows:
        total = total.merge(window)
    return total.to_bytes()


def sums_agree(outbox: Outbox) -> bool:
    return all(
        account.recorded == account.acked + account.pending + account.quarantined
        for account in outbox.ledgers()
    )


def test_below_its_budget_nothing_is_touched(db, outbox):
    device = Device(outbox)
    for _ in range(5):
        device.record()
    before = db.execute("SELECT * FROM messages").fetchall()
    assert coarsen(db, outbox, BUDGET, now=0) == 0
    assert db.execute("SELECT * FROM messages").fetchall() == before


def test_beyond_its_budget_neighbours_merge_until_it_fits_and_all_counts_stay(db, outbox):
    device = Device(outbox)
    for _ in range(400):
        device.record()
    assert outbox.pending().bytes > BUDGET
    while coarsen(db, outbox, BUDGET, now=0):
        pass
    left = waiting(db)
    assert BUDGET * (1 - 2 * LEAVE_FREE) < outbox.pending().bytes <= BUDGET
    assert merged([Window.from_bytes(body.window) for *_, body in left]) == device.twin.to_bytes()
    assert sum(windows for _, windows, _ in left) == 400
    account = outbox.ledger()
    assert account.recorded.windows == account.pending.windows == 400
    assert account.merged.windows == sum(windows for _, windows, _ in left if windows > 1)
    assert sums_agree(outbox)


def test_coarse_windows_are_contiguous_and_of_like_length(db, outbox):
    device = Device(outbox)
    for _ in range(400):
        device.record()
        coarsen(db, outbox, BUDGET, now=0)
    spans = [(body.mono_start, body.mono_end) for *_, body in waiting(db)]
    assert spans[0][0] == 0
    assert spans[-1][1] == 400 * WINDOW_MS
    assert all(end == begin for (_, end), (begin, _) in pairwise(spans))
    lengths = [end - start for start, end in spans]
    assert max(lengths) <= 4 * sorted(lengths)[len(lengths) // 2]


def test_the_row_that_lives_on_has_a_checksum_that_fits(db, outbox):
    device = Device(outbox)
    for _ in range(200):
        device.record()
    coarsen(db, outbox, BUDGET, now=0)
    outbox.live = True
    seen: set[int] = set()
    while (batch := outbox.next_batch(100_000, now=0, exclude=seen)) is not None:
        seen |= {row.id for row in batch.rows}
    assert len(seen) == len(waiting(db))
    assert db.execute("SELECT count(*) FROM quarantine").fetchone() == (0,)


def test_what_may_have_left_is_neither_changed_nor_merged_across(db, outbox):
    device = Device(outbox)
    for _ in range(40):
        device.record()
    batch = outbox.next_batch(8 << 10, now=0)
    sent = {row.id: row.body for row in batch.rows}
    for _ in range(200):
        device.record()
    while coarsen(db, outbox, BUDGET // 4, now=0):
        pass
    after = {row_id: body.to_bytes() for row_id, _, body in waiting(db)}
    assert sent.items() <= after.items()
    edge = WindowBody.from_bytes(sent[min(sent)]).mono_start
    assert all(body.mono_end <= edge or body.mono_start >= edge for *_, body in waiting(db))


def test_two_bundles_are_never_one_window(db, outbox):
    device = Device(outbox)
    for i in range(300):
        device.record(bundle="ab"[i // 150] * 64)
    while coarsen(db, outbox, 1, now=0):
        pass
    left = waiting(db)
    assert [body.bundle[0] for *_, body in left] == ["a", "b"]
    assert [windows for _, windows, _ in left] == [150, 150]


def test_an_interleaved_neighbour_of_another_bundle_ends_the_search(db, outbox):
    device = Device(outbox)
    for i in range(60):
        device.record(bundle="ab"[i % 2] * 64)
    assert coarsen(db, outbox, 1, now=0) == 0
    assert len(waiting(db)) == 60


def test_bodies_that_are_no_windows_wait_as_they_are(db, outbox):
    for i in range(20):
        outbox.put("window", bytes([i]) * 500, mono=i, windows=1, rows=1)
    assert coarsen(db, outbox, 1_000, now=0) == 0
    assert outbox.pending().messages == 20


def test_a_damaged_row_is_quarantined_on_the_way_and_the_account_balances(db, outbox):
    device = Device(outbox)
    for _ in range(100):
        device.record()
    db.execute("UPDATE messages SET body = zeroblob(100) WHERE seq IN (3, 50)")
    while coarsen(db, outbox, BUDGET // 8, now=0):
        pass
    account = outbox.ledger()
    assert account.quarantined.windows == 2
    assert account.recorded == account.acked + account.pending + account.quarantined


def test_findings_outlive_windows(db, outbox):
    device = Device(outbox)
    for i in range(200):
        device.record()
        if i % 20 == 0:
            outbox.put("finding", b"found", mono=i)
    while coarsen(db, outbox, 1, now=0):
        pass
    kinds = dict(db.execute("SELECT kind, count(*) FROM messages GROUP BY kind"))
    assert kinds == {"finding": 10, "window": 1}


def test_accounts_of_all_incarnations_balance_when_their_windows_become_one(db):
    recorded = {}
    device = None
    for start in range(8):
        outbox = Outbox.open(db, random.Random(start), mono=0, boot=f"boot-{start // 2}")
        device = device or Device(outbox)
        device.outbox = outbox
        for _ in range(10 + start):
            device.record()
        recorded[outbox.incarnation] = 10 + start
    while coarsen(db, outbox, 1, now=0):
        pass
    ((_, windows, body),) = waiting(db)
    assert windows == sum(recorded.values())
    assert Window.from_bytes(body.window).to_bytes() == device.twin.to_bytes()
    assert sums_agree(outbox)
    assert {a.incarnation: a.pending.windows for a in outbox.ledgers()} == recorded
    assert {a.incarnation: a.merged.windows for a in outbox.ledgers()} == recorded
    shown = db.execute("SELECT sum(pending_windows), sum(pending_rows) FROM ledger").fetchone()
    assert shown == (windows, 12 * windows)

    batch = outbox.next_batch(100_000, now=0)
    outbox.acknowledge(batch.incarnation, [(row.seq, row.seq) for row in batch.rows])
    assert {a.incarnation: a.acked.windows for a in outbox.ledgers()} == recorded
    assert sums_agree(outbox)


@pytest.mark.parametrize("fate", ["refused", "damaged"])
def test_a_coarse_window_of_several_incarnations_can_be_set_aside(db, fate):
    for start in range(3):
        outbox = Outbox.open(db, random.Random(start), mono=0)
        device = Device(outbox)
        for _ in range(10):
            device.record()
    while coarsen(db, outbox, 1, now=0):
        pass
    if fate == "damaged":
        db.execute("UPDATE messages SET body = x'00'")
        assert outbox.next_batch(10_000, now=0) is None
    else:
        batch = outbox.next_batch(100_000, now=0)
        assert outbox.quarantine(batch.incarnation, batch.rows[0].seq, "no", now=0)
    assert [a.quarantined.windows for a in outbox.ledgers()] == [10, 10, 10]
    assert sums_agree(outbox)


def test_incarnations_whose_windows_wait_in_anothers_are_not_folded_away(db):
    for start in range(80):
        outbox = Outbox.open(db, random.Random(start), mono=0)
        Device(outbox).record()
    while coarsen(db, outbox, 1, now=0):
        pass
    outbox.prune(0)
    assert len(outbox.ledgers()) == 80
    batch = outbox.next_batch(100_000, now=0)
    outbox.acknowledge(batch.incarnation, [(batch.rows[0].seq, batch.rows[0].seq)])
    outbox.prune(0)
    outbox.prune(0)
    assert len(outbox.ledgers()) <= 65
    assert outbox.total().acked.windows == 80


def test_accounts_that_never_left_are_replaced_by_newer_ones(db, outbox):
    for rows in range(50):
        outbox.put("window", b"w", mono=rows, windows=1, rows=1)
        outbox.put_account(outbox.ledger(), mono=rows)
    kept = db.execute("SELECT body FROM messages WHERE kind = 'ledger'").fetchall()
    assert [LedgerBody.from_bytes(body).recorded.windows for (body,) in kept] == [50]


def test_a_silent_aggregator_is_probed_with_the_same_messages_again(db, outbox):
    device = Device(outbox)
    for _ in range(10):
        device.record()
    first = outbox.next_batch(3_000, now=0)
    for _ in range(10):
        device.record()
    again = outbox.next_batch(3_000, now=0, probe=True)
    assert [row.seq for row in again.rows] == [row.seq for row in first.rows]
    assert outbox.next_batch(3_000, now=0).rows[0].seq == 20


def test_180_days_offline_fit_four_megabytes_and_nothing_is_lost(tmp_path):
    """Five-minute windows for 180 days, restarts among them; then the uplink comes back."""
    days, per_day, budget = 180, 288, 4 << 20
    schema = schema_of(41)
    path = tmp_path / "outbox.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA page_size = 1024")
    db.execute("PRAGMA auto_vacuum = incremental")
    db.execute("PRAGMA synchronous = off")
    create_tables(db)
    # One day's windows over and over: sketching 50,000 new ones would test the sketch, at ten times the cost.
    rng = np.random.default_rng(8)
    accumulator = WindowAccumulator(schema)
    day: list[Window] = []
    for _ in range(per_day):
        accumulator.update(rng.normal(size=(30, 41)))
        day.append(accumulator.take()[0])
    packed = [window.to_bytes() for window in day]
    largest_file = 0
    heap: list[int] = []
    for date in range(days):
        if date == days - 12:
            tracemalloc.start()  # which makes everything many times slower: for the last days only
        if date % 7 == 0:
            outbox = Outbox.open(db, random.Random(date), mono=0, boot=f"boot-{date}")
        db.execute("BEGIN")
        for i, sketch in enumerate(packed):
            mono = WINDOW_MS * ((date % 7) * per_day + i)
            body = WindowBody("b" * 64, schema.id, mono, mono + WINDOW_MS, None, None, sketch)
            outbox.put("window", body.to_bytes(), mono=mono + WINDOW_MS, windows=1, rows=30)
            if i % 8 == 7:
                coarsen(db, outbox, budget, now=0)
        db.execute("COMMIT")
        assert outbox.pending().bytes <= 1.02 * budget
        largest_file = max(largest_file, path.stat().st_size)
        if date >= days - 10:
            heap.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert largest_file <= 1.5 * budget, "pages and keys cost half as much again at most"
    assert max(heap) <= heap[0] + (256 << 10), "memory stays flat"
    assert sums_agree(outbox)

    expected = Window.empty(schema)
    for window in day * days:
        expected = expected.merge(window)
    arrived = Window.empty(schema)
    order: list[int] = []
    outbox.live = True
    while (batch := outbox.next_batch(64 << 10, now=0)) is not None:
        for row in batch.rows:
            arrived = arrived.merge(Window.from_bytes(WindowBody.from_bytes(row.body).window))
            order.append(row.id)
        outbox.acknowledge(batch.incarnation, [(row.seq, row.seq) for row in batch.rows])
    assert order == sorted(order, reverse=True), "newest first"
    assert arrived.to_bytes() == expected.to_bytes()
    account = outbox.total()
    assert account.acked.windows == account.recorded.windows == days * per_day
    assert account.pending.windows == 0
    outbox.prune(0)
    db.executescript("PRAGMA incremental_vacuum")
    assert path.stat().st_size < budget / 8, "the disk is given back"
    db.close()


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(st.sampled_from(["record", "restart", "send", "ack", "coarsen", "prune"]), max_size=60),
    seed=st.integers(0, 1 << 16),
)
def test_whatever_the_order_the_accounts_balance_and_every_row_arrives_once(steps, seed):
    db = sqlite3.connect(":memory:", isolation_level=None)
    create_tables(db)
    device = Device(Outbox.open(db, random.Random(seed), mono=0), seed=seed)
    draw = random.Random(seed)
    arrived: dict[int, bytes] = {}
    unanswered = []

    def send() -> bool:
        batch = device.outbox.next_batch(4_000, now=0, exclude={row.id for b in unanswered for row in b.rows})
        if batch is None:
            return False
        for row in batch.rows:
            # What was sent may not change afterwards: the aggregator may have it.
            assert arrived.setdefault(row.id, row.body) == row.body
        unanswered.append(batch)
        return True

    def acknowledge() -> None:
        batch = unanswered.pop(draw.randrange(len(unanswered)))
        device.outbox.acknowledge(batch.incarnation, [(row.seq, row.seq) for row in batch.rows])

    for step in steps:
        if step == "record":
            for _ in range(draw.randrange(1, 20)):
                device.record()
        elif step == "restart":
            device.outbox = Outbox.open(db, random.Random(seed), mono=0)
        elif step == "send":
            send()
        elif step == "ack" and unanswered:
            acknowledge()
        elif step == "coarsen":
            coarsen(db, device.outbox, 2_000, now=0)
        elif step == "prune":
            device.outbox.prune(0)
        assert sums_agree(device.outbox)
    while unanswered or send():
        acknowledge()
    total = merged([Window.from_bytes(WindowBody.from_bytes(body).window) for body in arrived.values()])
    assert total == device.twin.to_bytes()
    assert device.outbox.total().acked == device.outbox.total().recorded
    db.close()
