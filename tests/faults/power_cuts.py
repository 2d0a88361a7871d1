"""Power cuts: the store's files as they may lie on the card when the current goes, at any moment.

All that was synced is there. Of what was written since, each write may be there, be missing, or be there in
part: sectors of 512 bytes reach the card or do not, in any order. From every such state the store is opened
again by its own code.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from agent.clocks import ManualClock
from driftpost_agent.row_mark import RowMark
from driftpost_agent.store import Store
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.schema import Role, Schema, Stream, StreamKind
from driftpost_sync.messages import FindingBody, WindowBody
from faults.books import read_books
from faults.outcome import Outcome
from faults.recording_vfs import Event, recording

SECTOR_BYTES = 512
# Ways in which what was not synced may lie there.
WAYS = ("nothing of it", "all of it", "torn")
ROWS = 20
# Bytes of waiting messages before windows merge: small, so that this happens within the recorded hour.
OUTBOX_BYTES = 6_000

EDGES = tuple(float(edge) for edge in range(-3, 4))
SCHEMA = Schema(
    tuple(Stream(f"s{i}", StreamKind.NUMERIC, Role.INPUT, edges=EDGES, scale=1.0) for i in range(4))
)


@dataclass(frozen=True)
class Promise:
    """What had been promised to last when a mark was set."""

    rows: int
    windows: int
    findings: int


def record_an_hour(folder: Path, synchronous: str, windows: int = 60) -> list[Event]:
    """Everything a store asks of the system while it records, sends, merges, prunes and is restarted."""
    rng, clock = np.random.default_rng(3), ManualClock(1_000)
    accumulator = WindowAccumulator(SCHEMA)
    rows = kept = findings = 0
    # Checkpoints every few windows instead of every ten hours.
    with (
        mock.patch("driftpost_agent.store_file.WAL_AUTOCHECKPOINT_PAGES", 40),
        recording() as recorded,
        mock.patch("driftpost_agent.store_file.sync_folder", side_effect=lambda _: recorded.folder_synced()),
    ):
        for start in range(3):
            with Store.open(
                folder / "agent.db",
                clock=clock,
                synchronous=synchronous,
                random=random.Random(start),
                row_mark=RowMark(folder / "none"),
                outbox_bytes=OUTBOX_BYTES,
            ) as store:
                for number in range(windows // 3):
                    accumulator.update(rng.normal(size=(ROWS, 4)))
                    window = accumulator.take()[0]
                    begun = clock.mono
                    clock.advance(300_000)
                    found = [_finding(clock.mono, start, number)] if number % 7 == 0 else []
                    store.record_window(
                        WindowBody("b" * 64, SCHEMA.id, begun, clock.mono, None, None, window.to_bytes()),
                        windows=1,
                        rows=ROWS,
                        findings=found,
                        detector_state=bytes(rng.integers(0, 256, 300, dtype=np.uint8))
                        if number % 5 == 0
                        else None,
                    )
                    rows, kept, findings = rows + ROWS, kept + 1, findings + len(found)
                    recorded.mark(Promise(rows, kept, findings))
                    if number % 6 == 5:
                        _send_some(store)
                    if number % 9 == 8:
                        store.prune(2_000)
    return recorded.events


def _finding(mono: int, start: int, number: int) -> FindingBody:
    return FindingBody(
        id=f"f-{start}-{number}",
        bundle="b" * 64,
        state="raised",
        kind="shift",
        streams=(("s0", 1.0),),
        log_e=12.0,
        effect=1.0,
        effect_natural=1.0,
        unit="",
        direction="up",
        onset_mono=mono,
        onset_wall=None,
        mono=mono,
        wall=None,
        text="s0 rose",
    )


def _send_some(store: Store) -> None:
    with store.outbox_transaction() as outbox:
        batch = outbox.next_batch(1_500, now=0)
        if batch is not None:
            outbox.acknowledge(batch.incarnation, [(row.seq, row.seq) for row in batch.rows])


def states(
    events: Sequence[Event], cuts: Sequence[int], seed: int = 1
) -> Iterator[tuple[int, str, dict[str, bytes], Promise]]:
    """What may lie on the card for a cut before each of these events, in all ways, with what was promised."""
    draw = random.Random(seed)
    durable: dict[str, bytearray] = {}
    waiting: list[Event] = []
    promise = Promise(0, 0, 0)
    wanted = set(cuts)
    for index, event in enumerate(events):
        if index in wanted:
            for way in WAYS:
                files = {name: bytearray(content) for name, content in durable.items()}
                for late in waiting:
                    _apply(files, late, draw, way)
                yield index, way, {name: bytes(content) for name, content in files.items()}, promise
        if event.kind == "sync folder":
            for late in (one for one in waiting if one.kind == "delete"):
                _apply(durable, late, draw, "all of it")
            waiting = [one for one in waiting if one.kind != "delete"]
        elif event.kind == "sync":
            for late in (one for one in waiting if one.file == event.file):
                _apply(durable, late, draw, "all of it")
            waiting = [one for one in waiting if one.file != event.file]
        elif event.kind == "mark":
            promise = event.mark
        else:
            waiting.append(event)


def _apply(files: dict[str, bytearray], event: Event, draw: random.Random, way: str) -> None:
    if way == "nothing of it" or (way == "torn" and event.kind != "write" and draw.random() < 0.5):
        return
    if event.kind == "delete":
        files.pop(event.file, None)
        return
    content = files.setdefault(event.file, bytearray())
    if event.kind == "truncate":
        del content[event.offset :]
        content.extend(bytes(event.offset - len(content)))
        return
    for at in range(0, len(event.data), SECTOR_BYTES):
        if way == "torn" and draw.random() < 0.5:
            continue
        part = event.data[at : at + SECTOR_BYTES]
        begin = event.offset + at
        content.extend(bytes(max(0, begin + len(part) - len(content))))
        content[begin : begin + len(part)] = part


def cut_the_power(folder: Path, synchronous: str, cuts: int | None = None, seed: int = 1) -> Outcome:
    """Open the store from what is left of it by cuts at every sync, or at `cuts` moments among them.

    Args:
        folder: for the files; a RAM disk makes it quicker.
        synchronous: of the store, "full" or "normal".
        cuts: how many moments; None for those just before and after every sync, and as many between.
        seed: of what is torn, and of the moments.
    """
    (folder / "before").mkdir()
    events = record_an_hour(folder / "before", synchronous)
    # Before the first commit there is nothing to open.
    first = next(index for index, event in enumerate(events) if event.kind == "mark")
    syncs = [index for index, event in enumerate(events) if event.kind == "sync" and index > first]
    draw = random.Random(seed)
    moments = sorted(
        {*syncs, *(index + 1 for index in syncs), *draw.sample(range(first, len(events)), len(syncs))}
    )
    if cuts is not None:
        moments = sorted(draw.sample(moments, min(cuts, len(moments))))
    outcome = Outcome(f'power cut, `store.synchronous = "{synchronous}"`')
    total = max((event.mark.rows for event in events if event.kind == "mark"), default=0)
    shortest = 0
    for _, _, files, promise in states(events, moments, seed):
        place = folder / "after"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for name, content in files.items():
            (place / name).write_bytes(content)
        begun = time.monotonic()
        with Store.open(place / "agent.db", clock=ManualClock(5), row_mark=RowMark(place / "none")) as store:
            outcome.recovery_s.append(time.monotonic() - begun)
            assert store.set_aside is None, "a power cut is no damage"
            there = Promise(
                store.outbox_total().recorded.rows,
                store.outbox_total().recorded.windows,
                store.finding_counts()[0],
            )
        read_books(place / "agent.db")
        assert there.rows <= total
        assert there.rows % ROWS == 0, "a window is there whole or not at all"
        if synchronous == "full":
            assert there.rows >= promise.rows
            assert there.windows >= promise.windows
            assert there.findings >= promise.findings
        shortest = max(shortest, promise.windows - there.windows)
        outcome.times += 1
    if synchronous != "full":
        outcome.lost = f"at most the last {shortest} windows, whole ones, since the log was last synced"
    outcome.notes = (
        "files as at every sync and between, with what was not synced missing, there or torn by sectors: the "
        "database opens, accounts balance, a window is there whole or not at all; after a reboot the open "
        "window is gone and nobody can say how many rows it had"
    )
    shutil.rmtree(folder / "after", ignore_errors=True)
    return outcome
