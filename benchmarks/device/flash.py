"""What a day of 41 streams writes to the card: five-minute windows, detectors on, everything acknowledged.

A day passes in seconds on a clock of the benchmark's own; the store, its transactions and its fsyncs are
real, and the bytes are those that the kernel charges this process for (`write_bytes` of /proc/self/io), which
is whole pages, not what was asked for. Runs as a program of its own, so that nothing else is charged with it:

    python -m benchmarks.device.flash BUNDLE FOLDER

prints JSON. The folder must be on a disk: a RAM disk is charged for nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.device.models import tabular_rows

from driftpost_agent.guard import Guard
from driftpost_agent.store import Store
from driftpost_models.bundle import Bundle
from driftpost_sync.outbox import Outbox

WINDOW_S = 300
WINDOWS = 86_400 // WINDOW_S
# Rows of a window: ten seconds apart, as a sensor's would be.
ROWS = 30
# Windows after which the aggregator's account is sent, as the daemon does every six hours.
LEDGER_EVERY = 72


class FastClock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def mono_ms(self) -> int:
        """Monotonic milliseconds."""
        return self.now

    def wall_ms(self) -> int | None:
        """Unix milliseconds."""
        return 1_800_000_000_000 + self.now


def written() -> int:
    """Bytes that this process caused to be written to a disk so far."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ", 1) for line in lines)["write_bytes"])


def acknowledge(store: Store) -> None:
    """Send everything that waits, and hear that it was committed."""
    with store.transaction():
        outbox: Outbox = store.outbox
        while (batch := outbox.next_batch(1 << 20, now=store_now(store), live_since=0)) is not None:
            for row in batch.rows:
                outbox.acknowledge(batch.incarnation, [(row.seq, row.seq)])


def store_now(store: Store) -> int:
    """The store's own time."""
    return store._clock.mono_ms()


def _log_mark(log: Path) -> bytes:
    """What changes in the log's header when it is begun anew, after all of it was folded back."""
    return log.read_bytes()[16:24] if log.exists() else b""


def day(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """One day; returns megabytes (10^6 bytes) written and what the store holds."""
    clock = FastClock()
    path = folder / "flash.db"
    store = Store.open(path, clock=clock)
    store.outbox.live = True  # as the link says while it is connected
    guard = Guard(bundle, store=store, clock=clock, window_seconds=WINDOW_S, threaded=False)
    rows = tabular_rows(bundle.inputs[0].shape[-1] or 0)(WINDOWS * ROWS + ROWS, 11)
    step = WINDOW_S * 1000 // ROWS
    sizes, before, folded = [], 0, 0
    log = path.with_name(path.name + "-wal")
    for window in range(WINDOWS + 1):
        if window == 1:  # the first makes the tables and introduces the bundle
            before = written()
        for row in rows[window * ROWS : (window + 1) * ROWS]:
            guard.run(row[None])
            clock.now += step
        mark = _log_mark(log)
        guard.tick()
        acknowledge(store)
        folded += _log_mark(log) != mark
        if window % LEDGER_EVERY == 0:
            store.queue_ledger()
            acknowledge(store)
    after = written()
    with store.transaction() as db:
        sizes = [
            length for (length,) in db.execute("select length(body) from messages where kind = 'window'")
        ]
        state = db.execute("select length(state) from detector_states").fetchone()
    guard.close()
    store.close()
    after_close = written()
    return {
        "folded": folded,
        "day_mb": (after - before) / 1e6,
        "closing_mb": (after_close - after) / 1e6,
        "windows": len(sizes),
        "window_bytes": float(np.median(sizes)),
        "window_bytes_most": max(sizes),
        "state_bytes": state[0] if state else 0,
        "streams": len(bundle.schema),
    }


if __name__ == "__main__":
    place = Path(sys.argv[2])
    print(json.dumps(day(Bundle.open(Path(sys.argv[1]), None), place)))
