from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from driftpost_sync.accounts import KEEP_INCARNATIONS
from driftpost_sync.errors import MessageTooLarge, OutboxError
from driftpost_sync.messages import MAX_BODY_BYTES, Tally
from driftpost_sync.outbox import MAX_UNWRITTEN, Outbox
from driftpost_sync.outbox_schema import create_tables


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    create_tables(connection)
    yield connection
    connection.close()


@pytest.fixture
def outbox(db: sqlite3.Connection) -> Outbox:
    return Outbox.open(db, random.Random(1), mono=0, boot="boot-1")


def put(outbox: Outbox, kind: str = "window", body: bytes = b"body", mono: int = 0, **options) -> int:
    counts = {"windows": 1, "rows": 10} if kind == "window" else {}
    return outbox.put(kind, body, mono=mono, **{**counts, **options})


def take(outbox: Outbox, max_bytes: int = 10_000, **options):
    return outbox.next_batch(max_bytes, now=0, **options)


def seqs(batch) -> list[int]:
    return [] if batch is None else [row.seq for row in batch.rows]


def test_sequence_numbers_count_from_one_in_every_incarnation(db, outbox):
    assert [put(outbox) for _ in range(3)] == [1, 2, 3]
    later = Outbox.open(db, random.Random(2), mono=0)
    assert later.incarnation > outbox.incarnation
    assert later.incarnation >> 32 == 2
    assert put(later) == 1


def test_a_lost_store_does_not_repeat_its_past():
    incarnations = set()
    for seed in range(20):
        with sqlite3.connect(":memory:") as connection:
            create_tables(connection)
            incarnations.add(Outbox.open(connection, random.Random(seed), mono=0).incarnation)
        connection.close()
    assert len(incarnations) == 20


def test_descriptions_then_findings_go_first_and_windows_newest_first(outbox):
    for kind in ("window", "ledger", "finding", "window", "describe", "finding", "window"):
        put(outbox, kind)
    assert seqs(take(outbox)) == [5, 3, 6, 2, 7, 4, 1]


def test_a_batch_keeps_to_its_size_and_a_larger_body_travels_alone(outbox):
    for size in (400, 400, 400, 5000, 400):
        put(outbox, body=b"x" * size)
    flying: set[int] = set()
    batches = []
    while (batch := take(outbox, 1024, exclude=flying)) is not None:
        batches.append(seqs(batch))
        assert len(batch.rows) == 1 or batch.wire_bytes <= 1024
        flying |= {row.id for row in batch.rows}
    assert batches == [[5], [4], [3, 2], [1]]


def test_what_is_in_flight_is_not_taken_twice(outbox):
    for _ in range(600):
        put(outbox)
    first = take(outbox, 1 << 20, max_items=300)
    flying = {row.id for row in first.rows}
    second = take(outbox, 1 << 20, exclude=flying, max_items=1000)
    assert sorted(seqs(first) + seqs(second)) == list(range(1, 601))
    assert take(outbox, exclude=flying | {row.id for row in second.rows}) is None


def test_historical_and_live_rows_do_not_share_a_batch(db, outbox):
    put(outbox, mono=5)
    later = Outbox.open(db, random.Random(2), mono=0, boot="boot-1")
    put(later, mono=10)
    put(later, mono=20)
    put(later, mono=30)
    live = take(later, live_since=20)
    assert (seqs(live), live.historical) == ([3, 2], False)
    flying = {row.id for row in live.rows}
    assert take(later, live_since=20, exclude=flying, historical=False) is None
    old = take(later, live_since=20, exclude=flying)
    assert (old.incarnation, seqs(old), old.historical) == (later.incarnation, [1], True)
    flying |= {row.id for row in old.rows}
    older = take(later, live_since=20, exclude=flying)
    assert (older.incarnation, seqs(older), older.historical) == (outbox.incarnation, [1], True)


def test_nothing_leaves_but_by_acknowledgement(outbox):
    for _ in range(5):
        put(outbox)
    take(outbox)
    assert outbox.acknowledge(outbox.incarnation, [(1, 2), (4, 4)]) == 3
    assert seqs(take(outbox)) == [5, 3]
    assert outbox.ledger().acked == Tally(3, 30)
    assert outbox.ledger().balanced


@pytest.mark.parametrize(
    "ranges", [[(6, 9)], [(1 << 52, 1 << 53)], [(9, 6)], [(0, 0)], [(-5, 0)], [(-(1 << 60), -1)], []]
)
def test_acknowledgements_of_unknown_numbers_change_nothing(outbox, ranges):
    for _ in range(5):
        put(outbox)
    take(outbox)
    assert outbox.acknowledge(outbox.incarnation, ranges) == 0
    assert outbox.pending().messages == 5


@pytest.mark.parametrize("incarnation", [0, -1, 1, 1 << 62, (1 << 63) - 1, 1 << 64])
def test_acknowledgements_for_unknown_incarnations_change_nothing(outbox, incarnation):
    put(outbox)
    take(outbox)
    assert outbox.acknowledge(incarnation, [(1, 1)]) == 0
    assert not outbox.quarantine(incarnation, 1, "no", now=0)
    assert outbox.pending().messages == 1


def test_an_acknowledgement_twice_counts_once(outbox):
    put(outbox)
    take(outbox)
    assert outbox.acknowledge(outbox.incarnation, [(1, 1), (1, 1)]) == 1
    assert outbox.acknowledge(outbox.incarnation, [(1, 1)]) == 0
    outbox.settle()
    assert outbox.acknowledge(outbox.incarnation, [(1, 1)]) == 0
    assert outbox.ledger().acked == Tally(1, 10)


def test_what_was_never_sent_can_not_be_acknowledged_away(outbox):
    put(outbox)
    assert outbox.acknowledge(outbox.incarnation, [(1, 1)]) == 0
    assert seqs(take(outbox)) == [1]
    outbox.live = True
    put(outbox)
    assert outbox.acknowledge(outbox.incarnation, [(2, 2)]) == 1


def test_acknowledgements_are_written_with_the_next_put(db, outbox):
    put(outbox)
    take(outbox)
    outbox.acknowledge(outbox.incarnation, [(1, 1)])
    assert db.execute("SELECT state FROM messages").fetchall() == [("pending",)]
    assert take(outbox) is None
    put(outbox)
    assert db.execute("SELECT state FROM messages ORDER BY id").fetchall() == [("acked",), ("pending",)]


def test_acknowledgements_held_back_are_bounded(db, outbox):
    count = MAX_UNWRITTEN + 10
    for _ in range(count):
        put(outbox)
    take(outbox, 1 << 20)
    outbox.acknowledge(outbox.incarnation, [(1, count)])
    assert db.execute("SELECT count(*) FROM messages WHERE state = 'acked'").fetchone() == (count,)


def test_a_transaction_that_rolls_back_loses_nothing(db, outbox):
    put(outbox)
    take(outbox)
    db.execute("BEGIN")
    outbox.acknowledge(outbox.incarnation, [(1, 1)])
    put(outbox)
    db.execute("ROLLBACK")
    assert seqs(take(outbox)) == [1]
    assert outbox.ledger().recorded == Tally(1, 10)
    assert put(outbox) == 2
    assert outbox.ledger().balanced


def test_a_refused_message_is_set_aside_with_its_reason_and_stays(db, outbox):
    put(outbox)
    put(outbox)
    take(outbox)
    assert outbox.quarantine(outbox.incarnation, 1, "schema\tunknown", now=7)
    assert not outbox.quarantine(outbox.incarnation, 1, "again", now=8)
    assert not outbox.quarantine(outbox.incarnation, 9, "never was", now=8)
    assert seqs(take(outbox)) == [2]
    assert db.execute("SELECT reason, mono FROM quarantine").fetchall() == [("schema unknown", 7)]
    ledger = outbox.ledger()
    assert (ledger.quarantined, ledger.pending, ledger.balanced) == (Tally(1, 10), Tally(1, 10), True)
    assert outbox.acknowledge(outbox.incarnation, [(1, 1)]) == 0


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE messages SET body = x'00' || substr(body, 2) WHERE id = 2",
        "UPDATE messages SET body = 'text' WHERE id = 2",
        "UPDATE messages SET body = zeroblob(3) WHERE id = 2",
        "UPDATE messages SET rows = 999 WHERE id = 2",
        "UPDATE messages SET seq = 77 WHERE id = 2",
        "UPDATE messages SET mono = 5 WHERE id = 2",
        "UPDATE messages SET crc = crc + 1 WHERE id = 2",
    ],
)
def test_a_damaged_row_is_quarantined_and_the_others_go_on(db, outbox, damage):
    for _ in range(3):
        put(outbox)
    db.execute(damage)
    assert seqs(take(outbox)) == [3, 1]
    assert seqs(take(outbox)) == [3, 1]
    assert db.execute("SELECT id, reason FROM quarantine").fetchall() == [(2, "checksum does not match")]
    assert db.execute("SELECT count(*) FROM messages").fetchone() == (3,)
    ledger = outbox.ledger()
    assert ledger.quarantined == Tally(1, 10)
    assert ledger.balanced


def test_a_torn_page_under_a_body_is_quarantined_and_the_others_go_on(tmp_path):
    path = tmp_path / "agent.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA page_size = 512")
    create_tables(db)
    outbox = Outbox.open(db, random.Random(1), mono=0)
    for letter in b"ABC":
        put(outbox, body=bytes([letter]) * 6000)
    db.close()
    raw = bytearray(path.read_bytes())
    # An overflow page of the second body: its first 4 bytes point to the next page of the chain.
    page = next(at for at in range(0, len(raw), 512) if raw[at + 4 : at + 512] == b"B" * 508)
    raw[page : page + 4] = (0xFFFFFF).to_bytes(4, "big")
    path.write_bytes(raw)
    db = sqlite3.connect(path, isolation_level=None)
    again = Outbox.open(db, random.Random(2), mono=0)
    flying = set()
    taken = []
    while (batch := take(again, 8000, exclude=flying)) is not None:
        taken += [row.body[:1] for row in batch.rows]
        flying |= {row.id for row in batch.rows}
    assert taken == [b"C", b"A"]
    assert "unreadable" in db.execute("SELECT reason FROM quarantine").fetchone()[0]
    ledger = again.ledger(outbox.incarnation)
    assert ledger.quarantined == Tally(1, 10)
    assert ledger.balanced
    db.close()


def test_a_body_beyond_a_message_is_refused_and_not_recorded(outbox):
    with pytest.raises(MessageTooLarge):
        put(outbox, body=b"x" * (MAX_BODY_BYTES + 1))
    assert put(outbox, body=b"x" * MAX_BODY_BYTES) == 1
    assert outbox.ledger().recorded == Tally(1, 10)


def test_nonsense_is_not_recorded(outbox):
    with pytest.raises(OutboxError, match="unknown kind"):
        put(outbox, "newer")
    with pytest.raises(OutboxError, match="can not be recorded"):
        put(outbox, windows=-1)
    assert outbox.pending().messages == 0


def test_prune_removes_the_oldest_acknowledged_and_nothing_else(db, outbox):
    for _ in range(10):
        put(outbox, body=b"x" * 100)
    take(outbox)
    outbox.acknowledge(outbox.incarnation, [(1, 8)])
    outbox.quarantine(outbox.incarnation, 9, "no", now=0)
    before = outbox.ledger()
    assert outbox.prune(350) == 5
    assert [row[0] for row in db.execute("SELECT seq FROM messages ORDER BY id")] == [6, 7, 8, 9, 10]
    assert outbox.prune(350) == 0
    assert outbox.prune(0) == 3
    assert outbox.ledger() == before
    assert before.balanced
    assert outbox.acknowledge(outbox.incarnation, [(1, 8)]) == 0


def test_numbers_go_on_after_everything_was_pruned(db, outbox):
    put(outbox)
    take(outbox)
    outbox.acknowledge(outbox.incarnation, [(1, 1)])
    outbox.prune(0)
    later = Outbox.open(db, random.Random(2), mono=0)
    assert put(later) == 1
    assert take(later).rows[0].id == 2


def test_a_thousand_restarts_do_not_grow_the_table_and_the_total_stays(db):
    for start in range(1000):
        outbox = Outbox.open(db, random.Random(start), mono=0, lost_rows=1)
        put(outbox)
        take(outbox)
        outbox.acknowledge(outbox.incarnation, [(1, 1)])
        outbox.settle()
        if start % 50 == 0 or start > 990:
            outbox.prune(0)
    assert db.execute("SELECT count(*) FROM incarnations").fetchone()[0] <= KEEP_INCARNATIONS + 1
    total = outbox.total()
    assert (total.recorded, total.acked, total.lost_rows_at_start) == (Tally(1000, 10_000),) * 2 + (1000,)
    assert len(outbox.ledgers()) == KEEP_INCARNATIONS
    with pytest.raises(OutboxError, match="not on record"):
        outbox.ledger(5)


def test_incarnations_with_pending_rows_are_never_folded(db):
    first = Outbox.open(db, random.Random(0), mono=0)
    put(first)
    for start in range(KEEP_INCARNATIONS + 5):
        outbox = Outbox.open(db, random.Random(start), mono=0)
    outbox.prune(0)
    assert outbox.ledger(first.incarnation).pending == Tally(1, 10)
    batch = take(outbox)
    assert (batch.incarnation, seqs(batch)) == (first.incarnation, [1])


def test_monotonic_times_compare_only_within_one_boot(db, outbox):
    same = Outbox.open(db, random.Random(2), mono=0, boot="boot-1")
    other = Outbox.open(db, random.Random(3), mono=0, boot="boot-2")
    unknown = Outbox.open(db, random.Random(4), mono=0, boot="")
    assert same.comparable(outbox.incarnation)
    assert not other.comparable(outbox.incarnation)
    assert other.comparable(other.incarnation)
    assert not unknown.comparable(outbox.incarnation)


def test_a_person_can_read_the_ledger_in_sql(db, outbox):
    put(outbox)
    put(outbox)
    row = dict(
        zip(
            [column[1] for column in db.execute("PRAGMA table_info(ledger)")],
            db.execute("SELECT * FROM ledger").fetchone(),
            strict=True,
        )
    )
    assert (row["recorded_windows"], row["pending_windows"], row["pending_rows"]) == (2, 2, 20)
    assert row["incarnation"].startswith("1.")


def test_a_long_backlog_is_not_loaded_to_take_its_head(db, outbox):
    db.execute("BEGIN")
    for _ in range(20_000):
        put(outbox, body=b"x" * 50)
    db.execute("COMMIT")
    steps = []
    db.set_progress_handler(lambda: steps.append(1) and None, 1000)
    assert len(take(outbox, 4096).rows) > 10
    db.set_progress_handler(None, 0)
    assert len(steps) < 100


class Accounts(RuleBasedStateMachine):
    """Whatever happens in whatever order, the books balance and nothing is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        create_tables(self.db)
        self.random = random.Random(1)
        self.outbox = Outbox.open(self.db, self.random, mono=0)
        self.recorded = 0
        self.state: dict[tuple[int, int], str] = {}
        self.sent: set[tuple[int, int]] = set()

    @rule(kind=st.sampled_from(["window", "finding"]), rows=st.integers(0, 5))
    def record(self, kind, rows):
        counts = {"windows": 1, "rows": rows} if kind == "window" else {}
        seq = self.outbox.put(kind, b"body", mono=0, **counts)
        self.state[self.outbox.incarnation, seq] = "pending"

    @rule(size=st.integers(100, 1000))
    def send(self, size):
        batch = self.outbox.next_batch(size, now=0)
        if batch is not None:
            self.sent |= {(row.incarnation, row.seq) for row in batch.rows}

    @rule(first=st.integers(0, 12), length=st.integers(0, 5), pick=st.integers(0, 5))
    def acknowledge(self, first, length, pick):
        known = sorted({key[0] for key in self.state}) or [self.outbox.incarnation]
        incarnation = known[pick % len(known)]
        self.outbox.acknowledge(incarnation, [(first, first + length)])
        for seq in range(first, first + length + 1):
            key = incarnation, seq
            if self.state.get(key) == "pending" and key in self.sent:
                self.state[key] = "acked"

    @rule(seq=st.integers(1, 12))
    def refuse(self, seq):
        key = self.outbox.incarnation, seq
        assert self.outbox.quarantine(*key, "no", now=0) == (self.state.get(key) == "pending")
        if self.state.get(key) == "pending":
            self.state[key] = "quarantined"

    @rule()
    def restart(self):
        # A crash: acknowledgements that were held back are forgotten, and come again when sent again.
        for row_id in self.outbox._settling:
            found = self.db.execute(
                "SELECT incarnation, seq FROM messages WHERE id = ?", (row_id,)
            ).fetchone()
            self.state[found] = "pending"
        self.outbox = Outbox.open(self.db, self.random, mono=0)

    @rule(keep=st.integers(0, 20))
    def prune(self, keep):
        self.outbox.prune(keep)

    @rule()
    def the_books_balance(self):
        for ledger in (*self.outbox.ledgers(), self.outbox.total()):
            assert ledger.balanced

    @invariant()
    def nothing_is_lost(self):
        pending = {
            (incarnation, seq)
            for incarnation, seq in self.db.execute(
                "SELECT incarnation, seq FROM messages WHERE state = 'pending'"
                f" AND id NOT IN ({','.join(map(str, self.outbox._settling)) or 0})"
            )
        }
        assert pending == {key for key, state in self.state.items() if state == "pending"}

    def teardown(self):
        self.the_books_balance()
        self.db.close()


TestAccounts = Accounts.TestCase
TestAccounts.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_while_the_uplink_is_paced_everything_but_windows_goes(outbox):
    put(outbox)
    put(outbox, "finding")
    put(outbox)
    assert seqs(take(outbox, windows=False)) == [2]
    assert take(outbox, windows=False, exclude=(2,)) is None
    assert seqs(take(outbox, exclude=(2,))) == [3, 1]
