"""The device's database: whole transactions, honest recovery, readable by other tools."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.clocks import ManualClock
from driftpost_agent.errors import StoreUnusable
from driftpost_agent.migrations import MIGRATIONS
from driftpost_agent.store import Store
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.schema import Role, Schema, Stream, StreamKind
from driftpost_sync.messages import BoardBody, DescribeBody, FindingBody, Tally, WindowBody


def window_body(number: int = 0) -> WindowBody:
    start = 1_000 * number
    return WindowBody("b" * 64, bytes(16), start, start + 1_000, None, None, bytes([number % 256]) * 50)


def finding_body(identity: str = "f-1", state: str = "raised") -> FindingBody:
    return FindingBody(
        id=identity,
        bundle="b" * 64,
        state=state,
        kind="shift",
        streams=(("x", 0.75), ("y", 0.25)),
        log_e=12.5,
        effect=0.8,
        effect_natural=3.25,
        unit="°C",
        direction="up",
        onset_mono=500,
        onset_wall=None,
        mono=1_000,
        wall=None,
        text="x rose by 3.25 °C",
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "agent.db", clock=ManualClock(), random=random.Random(7)) as opened:
        yield opened


def test_a_window_its_findings_and_the_detectors_state_are_one_transaction(store: Store) -> None:
    store.record_window(
        window_body(),
        windows=1,
        rows=40,
        findings=[finding_body()],
        detector_state=b"S1",
        standing={"x": "f-1"},
    )
    assert store.detector_state("b" * 64) == (b"S1", {"x": "f-1"})
    assert store.outbox.ledger().recorded.rows == 40

    def interrupted() -> None:
        with store.transaction():
            store.record_window(window_body(1), windows=1, rows=2, detector_state=b"S2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert store.detector_state("b" * 64) == (b"S1", {"x": "f-1"})
    assert store.outbox.ledger().recorded.windows == 1


def description_body() -> DescribeBody:
    return DescribeBody(
        "b" * 64,
        "m",
        "1",
        "0" * 64,
        {"streams": []},
        b"w",
        {"x": 1.0},
        {"x": 9.0},
        {"x": 0.1},
        300.0,
        "1 per device-year",
    )


def test_a_bundle_is_described_once_and_again_only_on_request(store: Store) -> None:
    body = description_body()
    assert store.describe(body)
    with store.outbox_transaction() as outbox:
        assert outbox.next_batch(10_000, now=0) is not None
        outbox.acknowledge(store.incarnation, [(1, 1)])
    assert not store.describe(body)
    assert store.describe(body, again=True)


def test_every_start_is_a_new_and_larger_incarnation(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        with Store.open(tmp_path / "agent.db", clock=ManualClock()) as opened:
            seen.append(opened.incarnation)
    assert [number >> 32 for number in seen] == [1, 2, 3]


def test_two_agents_can_not_share_a_store(store: Store) -> None:
    with pytest.raises(StoreUnusable, match="another agent uses it"):
        Store.open(store.path, clock=ManualClock())


def test_a_stale_lock_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "agent.db.lock").write_text("left by a power cut")
    with Store.open(tmp_path / "agent.db", clock=ManualClock()) as opened:
        assert opened.incarnation >> 32 == 1


@pytest.mark.parametrize("damage", ["no database", "torn pages", "truncated"])
def test_a_damaged_database_is_set_aside_and_a_new_one_begun(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "agent.db"
    with Store.open(path, clock=ManualClock()) as first:
        for number in range(200):
            first.record_window(window_body(number), windows=1, rows=1)
    content = path.read_bytes()
    if damage == "no database":
        path.write_bytes(b"not a database at all" * 300)
    elif damage == "torn pages":
        path.write_bytes(content[:4096] + os.urandom(8192) + content[12288:])
    else:
        path.write_bytes(content[: len(content) // 2])
    with Store.open(path, clock=ManualClock()) as second:
        assert second.set_aside == tmp_path / "agent.db.damaged-1"
        assert second.set_aside.exists()
        assert second.outbox.ledger().recorded.windows == 0
        second.record_window(window_body(), windows=1, rows=1)
    with Store.open(path, clock=ManualClock()) as third:
        assert third.set_aside is None


def test_a_damaged_predecessor_is_never_overwritten_however_many_there_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "agent.db"
    contents = [b"garbage %d" % number * 1000 for number in range(20)]
    for content in contents:
        path.write_bytes(content)
        Store.open(path, clock=ManualClock()).close()
    kept = [(tmp_path / f"agent.db.damaged-{number + 1}").read_bytes() for number in range(20)]
    assert kept == contents
    assert "replace the card" in caplog.text


def test_of_the_same_damage_over_and_over_one_copy_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "agent.db"
    for content in (b"garbage", b"rubbish", b"garbage", b"garbage", b"rubbish"):
        path.write_bytes(content * 1000)
        Store.open(path, clock=ManualClock()).close()
    kept = sorted(file.read_bytes()[:7] for file in tmp_path.glob("agent.db.damaged-*"))
    assert kept == [b"garbage", b"rubbish"]


def test_a_folder_that_can_not_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnusable, match=r"store\.path"):
        Store.open(tmp_path / "file" / "agent.db", clock=ManualClock())


def test_a_process_killed_in_mid_stream_loses_no_recorded_window_and_doubles_none(tmp_path: Path) -> None:
    code = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from pathlib import Path
        from agent.clocks import ManualClock
        from agent.test_store import window_body
        from driftpost_agent.store import Store
        store = Store.open(Path({str(tmp_path / "agent.db")!r}), clock=ManualClock())
        for number in range(100000):
            store.record_window(window_body(number), windows=1, rows=10, detector_state=str(number).encode())
            print(number, flush=True)
        """
    )
    last = -1
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                last = int(line)
                if last >= 25:
                    break
            process.send_signal(signal.SIGKILL)
            for line in process.stdout:
                last = int(line) if line.endswith("\n") else last
            process.wait()
        with Store.open(tmp_path / "agent.db", clock=ManualClock()) as opened:
            killed = opened.outbox.ledgers()[1]
            state = opened.detector_state("b" * 64)
            assert state is not None
            # Printed after the commit: what was printed is there, and at most one more.
            assert killed.recorded.windows - (last + 1) in (0, 1)
            assert int(state[0]) + 1 == killed.recorded.windows
            assert killed.balanced
            assert killed.recorded.rows == 10 * killed.recorded.windows


def test_migrations_are_named_and_applied_once(store: Store) -> None:
    with sqlite3.connect(f"file:{store.path}?mode=ro", uri=True) as reader:
        names = [row[0] for row in reader.execute("select name from migrations order by rowid")]
    reader.close()
    assert names == [step.__name__ for step in MIGRATIONS]


def test_the_sqlite_utils_command_reads_it_sensibly(store: Store) -> None:
    store.record_window(window_body(), windows=1, rows=40, findings=[finding_body()])
    store.record_finding(finding_body(state="cleared"))
    command = [sys.executable, "-m", "sqlite_utils", "rows", str(store.path)]
    windows = subprocess.run(
        [*command, "windows", "--fmt", "simple"], capture_output=True, text=True, check=True
    )
    assert "closed_at" in windows.stdout
    assert "pending" in windows.stdout
    findings = subprocess.run([*command, "findings"], capture_output=True, text=True, check=True)
    assert "x rose by 3.25" in findings.stdout
    assert '"state": "cleared"' in findings.stdout
    assert '"streams": "x 75%, y 25%"' in findings.stdout


def test_only_standing_findings_are_listed_as_standing(store: Store) -> None:
    store.record_finding(finding_body("a"))
    store.record_finding(finding_body("b"))
    store.record_finding(finding_body("a", "cleared"))
    assert [finding["finding"] for finding in store.findings(standing=True)] == ["b"]
    assert store.finding_counts() == (2, 1)


def test_the_activation_history_is_newest_first(store: Store) -> None:
    store.record_activation("a" * 64, "m", "1", "activated")
    store.record_activation("b" * 64, "m", "2", "rolled back", "the self-test differed")
    assert [entry.outcome for entry in store.activations()] == ["rolled back", "activated"]


def test_asking_again_and_again_queues_one_description_until_it_is_acknowledged(store: Store) -> None:
    body = description_body()
    assert store.describe(body)
    assert not any(store.describe(body, again=True) for _ in range(100))
    assert store.outbox_pending().messages == 1
    with store.outbox_transaction() as outbox:
        assert outbox.next_batch(10_000, now=0) is not None
        assert outbox.acknowledge(store.incarnation, [(1, 1)]) == 1
    assert store.describe(body, again=True)
    assert store.outbox_pending().messages == 1


def test_a_kill_while_an_account_is_read_leaves_one_that_adds_up(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import os, sys
        from driftpost_agent.store import Store
        from driftpost_sync.clock import SystemClock

        store = Store.open(sys.argv[1], clock=SystemClock())
        with store.outbox_transaction() as outbox:
            outbox.live = True
            seq = outbox.put("window", b"body", mono=0, windows=1, rows=7)
        with store.outbox_transaction() as outbox:
            outbox.acknowledge(outbox.incarnation, [(seq, seq)])
        # The rows are marked, their counters are not: the worst moment.
        store._db.set_trace_callback(lambda sql: os._exit(9) if "acked_rows +" in sql else None)
        store.outbox_pending()
    """)
    path = tmp_path / "agent.db"
    killed = subprocess.run([sys.executable, "-c", program, str(path)], check=False, timeout=60)
    assert killed.returncode == 9
    with Store.open(path, clock=ManualClock()) as store:
        total = store.outbox_total()
    assert total.recorded.rows == 7
    assert total.recorded.rows == total.acked.rows + total.pending.rows + total.quarantined.rows


def test_a_full_disk_is_reported_as_one(store: Store) -> None:
    (pages,) = store._db.execute("pragma page_count").fetchone()
    store._db.execute(f"pragma max_page_count = {pages + 3}")

    def fill() -> None:
        for _ in range(10):
            with store.outbox_transaction() as outbox:
                outbox.put("window", bytes(3_000), mono=0, windows=1, rows=1)

    with pytest.raises(sqlite3.OperationalError, match="full"):
        fill()
    assert store.outbox_total().recorded.windows == store.outbox_total().pending.windows


def test_the_disk_is_given_back_after_a_long_backlog_was_sent(store: Store) -> None:
    with store.transaction():
        for number in range(3_000):
            store.outbox.put("finding", bytes(1_000), mono=number)
    full = store.bytes_on_disk()
    while True:
        with store.transaction():
            batch = store.outbox.next_batch(100_000, now=0)
            if batch is None:
                break
            store.outbox.acknowledge(batch.incarnation, [(row.seq, row.seq) for row in batch.rows])
    assert store.prune(0) == 3_000
    with sqlite3.connect(store.path, isolation_level=None) as reader:
        reader.execute("pragma wal_checkpoint(truncate)").fetchall()
    reader.close()
    assert store.path.stat().st_size < full / 5


def test_windows_that_outgrow_their_budget_wait_as_coarser_ones(tmp_path: Path) -> None:
    schema = Schema([Stream("x", StreamKind.NUMERIC, Role.INPUT, edges=(0.0,))])
    accumulator = WindowAccumulator(schema)
    path = tmp_path / "agent.db"
    with Store.open(path, clock=ManualClock(), random=random.Random(7), outbox_bytes=20_000) as store:
        for number in range(400):
            accumulator.update(np.full((5, 1), float(number)))
            body = replace(window_body(number), schema_id=schema.id, window=accumulator.take()[0].to_bytes())
            store.record_window(body, windows=1, rows=5)
        assert store.outbox_pending().bytes <= 21_000
        total = store.outbox_total()
        assert total.pending == total.recorded == Tally(400, 2_000)
        assert total.merged.windows > 300


def test_a_store_that_must_shrink_gives_up_history_first_and_then_resolution_but_nothing_that_waits(
    tmp_path: Path,
) -> None:
    schema = Schema([Stream("x", StreamKind.NUMERIC, Role.INPUT, edges=(0.0,))])
    accumulator = WindowAccumulator(schema)

    def record(store: Store, first: int, count: int) -> None:
        with store.transaction():
            for number in range(first, first + count):
                accumulator.update(np.full((5, 1), float(number)))
                sketch = accumulator.take()[0].to_bytes()
                body = replace(window_body(number), schema_id=schema.id, window=sketch)
                store.record_window(body, windows=1, rows=5)

    with Store.open(tmp_path / "agent.db", clock=ManualClock(), random=random.Random(7)) as store:
        with store.transaction():
            for number in range(200):
                store.outbox.put("finding", bytes(1_000), mono=number)
        while True:
            with store.transaction():
                batch = store.outbox.next_batch(100_000, now=0)
                if batch is None:
                    break
                store.outbox.acknowledge(batch.incarnation, [(row.seq, row.seq) for row in batch.rows])
        record(store, 0, 4_000)
        before = store.outbox_pending().bytes
        assert before > 500_000
        store.shrink(400_000)
        with store.lock:
            history = store._db.execute("select count(*) from messages where status = 1").fetchone()
        assert history == (0,)
        record(store, 4_000, 20)
        assert store.outbox_pending().bytes < before - 150_000
        assert store.outbox_total().pending == Tally(4_020, 20_100)
        store.shrink(0)
        settled = store.outbox_total().merged.windows
        record(store, 4_020, 100)
        assert store.outbox_total().merged.windows == settled


def test_how_the_board_fares_takes_the_place_of_what_never_left_of_it(store: Store) -> None:
    for number in range(50):
        store.queue_board(BoardBody(number, None, 1_000, {"temperature": (float(number),) * 4}))
    with store.transaction():
        batch = store.outbox.next_batch(10_000, now=0)
    assert batch is not None
    (row,) = batch.rows
    assert BoardBody.from_bytes(row.body).readings["temperature"][0] == 49.0
    # It may have left, so it stays; the next one waits behind it.
    store.queue_board(BoardBody(50, None, 1_000, {}))
    store.queue_board(BoardBody(51, None, 1_000, {}))
    assert store.outbox_pending().messages == 2
    assert store.outbox_total().recorded.windows == 0
