"""Pages of the database that a failing card changed, anywhere in the file, and what is left of the store."""

from __future__ import annotations

import hashlib
import random
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from agent.clocks import ManualClock
from agent.test_store import finding_body, window_body
from driftpost_agent.row_mark import RowMark
from driftpost_agent.store import Store
from driftpost_agent.store_file import PAGE_BYTES
from driftpost_sync.messages import LedgerBody
from faults.books import read_books
from faults.outcome import Outcome

WINDOWS = 200
ROWS = 3
# Share of the rows that waited which may be lost: what lies on eight of the file's pages at the most.
MOST_LOST = 0.08


def waiting_store(folder: Path) -> Path:
    """A store with windows and findings that wait, of two starts, and some that were acknowledged."""
    path = folder / "agent.db"
    for start in range(2):
        with Store.open(path, clock=ManualClock(), row_mark=RowMark(folder / "none")) as store:
            for number in range(WINDOWS // 2):
                store.record_window(
                    window_body(number),
                    windows=1,
                    rows=ROWS,
                    findings=[finding_body(f"f-{start}-{number}")] if number % 20 == 0 else (),
                )
            with store.outbox_transaction() as outbox:
                batch = outbox.next_batch(4_000, now=0)
                assert batch is not None
                outbox.acknowledge(batch.incarnation, [(row.seq, row.seq) for row in batch.rows])
    return path


def damage_pages(folder: Path, times: int, seed: int = 1) -> Outcome:
    """Change some pages of a store `times` times, each time from a good one, and go on with it.

    Args:
        folder: for the files.
        times: how often.
        seed: of the places.
    """
    draw = random.Random(seed)
    good = waiting_store(folder)
    books = read_books(good)
    content = good.read_bytes()
    pages = len(content) // PAGE_BYTES
    outcome = Outcome("one to eight pages of the database changed, anywhere", times)
    set_aside = quarantined_rows = lost_rows = 0
    for _ in range(times):
        place = folder / "damaged"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        changed = bytearray(content)
        for page in draw.sample(range(pages), draw.randint(1, 8)):
            changed[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = draw.randbytes(PAGE_BYTES)
        (place / "agent.db").write_bytes(changed)
        begun = time.monotonic()
        for _ in range(3):
            store = Store.open(place / "agent.db", clock=ManualClock(), row_mark=RowMark(place / "none"))
            with store:
                if store.salvaged is not None:
                    set_aside += 1
                    found = hashlib.sha256(store.salvaged.file.read_bytes()).hexdigest()
                    assert store.salvaged.sha256 == found
                _drained(store)
                store.record_window(window_body(7), windows=1, rows=1)
                balanced(store)
                if store.damage:
                    raise AssertionError(store.damage)
        outcome.recovery_s.append(time.monotonic() - begun)
        after = read_books(place / "agent.db")
        quarantined_rows += after.quarantined
        if after.recorded - 3 < books.recorded:
            lost_rows += books.recorded - (after.recorded - 3)
    share = (quarantined_rows + lost_rows) / times / books.pending
    assert share < MOST_LOST, f"{share:.1%} of the rows that waited are lost"
    outcome.lost = f"{share:.1%} of the rows that waited ({pages} pages in all): what the pages held"
    outcome.notes = (
        f"{set_aside} files were set aside with their SHA-256 and what could be read of them taken over, in "
        f"{times - set_aside} cases single rows were quarantined where they lie; no crash loop"
    )
    return outcome


def _drained(store: Store) -> None:
    """Take everything as the link would; what is damaged is found on the way."""
    taken: set[int] = set()
    while True:
        with store.outbox_transaction() as outbox:
            batch = outbox.next_batch(32_000, now=0, exclude=taken)
        if batch is None:
            return
        taken |= {row.id for row in batch.rows}


def balanced(store: Store) -> None:
    """Every account adds up, as the aggregator would be told."""
    with store.outbox_transaction() as outbox:
        accounts: tuple[LedgerBody, ...] = outbox.ledgers()
    for one in accounts:
        assert one.recorded.rows == one.acked.rows + one.pending.rows + one.quarantined.rows
        assert one.recorded.windows == one.acked.windows + one.pending.windows + one.quarantined.windows


def rows_in(path: Path) -> int:
    """Rows in all windows that wait."""
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("select coalesce(sum(rows), 0) from messages where status = 0").fetchone()[0])
