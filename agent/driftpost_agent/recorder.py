"""From raw rows to closed windows: copy, then sketch in blocks, then close by time or by rows.

`append` is the hot path. Every few hundred rows, or when `tick` says so, one vectorised pass turns the block
into streams and adds them to the open window. Windows lie on multiples of their length on the monotonic
clock, so that a restart of the agent does not shift them.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftpost_agent.block_buffer import BlockBuffer, Raw, RowLayout
from driftpost_agent.season_clock import season_seconds
from driftpost_models.probes.block import Block
from driftpost_models.probes.decimation import Positions
from driftpost_models.probes.probe_set import ProbeSet
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.derived.plan import DerivedPlan
from driftpost_sketches.drift.joint.features import Features
from driftpost_sketches.schema import Schema
from driftpost_sketches.transitions import Transitions
from driftpost_sketches.window import Window
from driftpost_sync.clock import Clock

log = logging.getLogger(__name__)

# Blocks in use at a time: one being filled, one being sketched, one waiting. A caller that fills the third
# sketches the waiting one itself: memory stays bounded and no row is dropped.
MAX_BLOCKS = 3
# Microseconds in the model from which `Passes.AUTO` leaves a block to the thread. A shorter model comes back
# for the interpreter's lock many times while the thread sketches, and each time waits for it.
PATIENT_US = 50.0
# Rows that the model never saw are kept as codes; at most this many before they are counted.
MAX_REFUSED = 4096


class Passes(str, Enum):
    """Who sketches a full block while another is filled."""

    CALLER = "caller"
    THREAD = "thread"
    AUTO = "auto"


@dataclass(frozen=True)
class ClosedWindow:
    """A window that takes no more rows.

    Attributes:
        window: its sketches.
        transitions: steps between drift cells, for the detectors.
        mono_start, mono_end: monotonic ms.
        wall_start, wall_end: Unix ms, or None while the clock was not known to be good.
    """

    window: Window
    transitions: Transitions
    mono_start: int
    mono_end: int
    wall_start: int | None
    wall_end: int | None


class Recorder:
    """Records inferences of one model; all methods may be called from several threads.

    Args:
        probes: turn blocks into the schema's streams.
        schema: of the windows.
        clock: monotonic and wall time.
        window_ms: length of a window.
        on_window: takes each closed window, in order, one at a time.
        window_rows: close a window early at this many rows (checked after each block); None for never.
        passes: who sketches a full block. `CALLER`: the call that filled it, one in a thousand, which takes
            about a millisecond longer. `THREAD`: whoever calls `tick`, except when all blocks are full.
            `AUTO`: the thread where the model takes long enough for it, else the caller.
        wake: called when a block is full and waits for `tick`.
        tally: gets the total of rows in its first place as they are taken in.
        derived: computes the schema's derived streams from the probes' ones; None where there are none.
        joint: features of several streams at once that windows sum up; None where they are not watched.
        observe: is shown the values of every row, float[rows, S], after the window has taken them.
        keep: is shown the open window after a tick that brought rows, with its start (monotonic ms, and Unix
            ms or None); it must not hold on to it.

    Attributes:
        appending: held while rows are appended; never while they are sketched.
        rows_recorded: rows taken in so far.
        windows_closed: windows handed over so far.
    """

    def __init__(
        self,
        probes: ProbeSet,
        schema: Schema,
        *,
        clock: Clock,
        window_ms: int,
        on_window: Callable[[ClosedWindow], None],
        window_rows: int | None = None,
        passes: Passes = Passes.CALLER,
        wake: Callable[[], None] = lambda: None,
        tally: memoryview | None = None,
        derived: DerivedPlan | None = None,
        observe: Callable[[NDArray[Any]], None] | None = None,
        joint: Features | None = None,
        keep: Callable[[Window, int, int | None], None] | None = None,
    ) -> None:
        self._probes = probes
        self._derived = derived if derived is not None and derived.names else None
        self._observe = observe
        self._keep = keep
        self._kept_rows = 0
        self._clock = clock
        self._window_ms = window_ms
        self._window_rows = window_rows
        self._on_window = on_window
        self._passes = passes
        self._wake = wake
        self._tally = memoryview(bytearray(8)).cast("Q") if tally is None else tally
        # Order of the locks: sketching, then appending.
        self._sketching = threading.RLock()
        self.appending = threading.Lock()
        self._buffer: BlockBuffer | None = None
        self._full: deque[BlockBuffer] = deque()
        self._free: list[BlockBuffer] = []
        self._refused: list[int] = []
        self._accumulator = WindowAccumulator(schema, joint)
        self._opened_mono = clock.mono_ms()
        self._opened_wall = clock.wall_ms()
        self._closes_at = self._next_boundary(self._opened_mono)
        self.rows_recorded = 0
        self.windows_closed = 0

    def append(self, layout: RowLayout, raws: Sequence[Raw], latency_us: float, verdict: int) -> None:
        """Record one inference.

        Args:
            layout: of its tensors; the same object from call to call unless a shape changed.
            raws: bytes of every tensor in that order.
            latency_us: what the model took, microseconds.
            verdict: its code.
        """
        with self.appending:
            buffer = self._buffer
            if buffer is None or buffer.layout is not layout:
                buffer = self._fitting(layout)
            self._counted(1)
            if buffer.append(raws, latency_us, verdict):
                self._buffer = None
                self._full.append(buffer)
            if not self._full:
                return
        self.look_after_full()

    def append_pair(self, layout: RowLayout, given: Raw, answer: Raw, latency_us: float) -> bool:
        """Record one inference of one input and one output without any reason, while holding `appending`.

        Args:
            layout: of its two tensors.
            given: bytes of the input.
            answer: bytes of the output.
            latency_us: what the model took, microseconds.

        Returns:
            Whether `look_after_full` is to be called once the lock is given back.
        """
        buffer = self._buffer
        if buffer is None or buffer.layout is not layout:
            buffer = self._fitting(layout)
        self.rows_recorded = self._tally[0] = self.rows_recorded + 1
        if buffer.append_pair(given, answer, latency_us):
            self._buffer = None
            self._full.append(buffer)
            return True
        return bool(self._full)

    def look_after_full(self) -> None:
        """See to full blocks: in this thread where `passes` says so, or there are too many."""
        crowded = len(self._full) >= MAX_BLOCKS - 1
        if not crowded and not self._caller_passes():
            self._wake()
        # Whoever sketches already may be waiting for a slow disk: nobody waits for that while there is room.
        elif self._sketching.acquire(blocking=crowded):
            try:
                self._sketch_full()
            finally:
                self._sketching.release()

    def _caller_passes(self) -> bool:
        if self._passes is not Passes.AUTO:
            return self._passes is Passes.CALLER
        with self.appending:
            block = self._full[0] if self._full else None
            # Rows without an answer have no latency; comparing with NaN leaves them to the thread.
            return block is not None and bool(np.median(block.latency_us[: block.rows]) < PATIENT_US)

    def _counted(self, rows: int) -> None:
        self.rows_recorded = self._tally[0] = self.rows_recorded + rows

    def extend(
        self,
        layout: RowLayout,
        tensors: Sequence[NDArray[Any]],
        latency_us: float,
        verdicts: NDArray[np.int64],
    ) -> None:
        """Record a batch.

        Args:
            layout: as for `append`.
            tensors: array[rows, *row_shape] each.
            latency_us: what the model took for one row, microseconds.
            verdicts: int64[rows], codes.
        """
        done = 0
        while done < len(verdicts):
            with self.appending:
                buffer = self._buffer
                if buffer is None or buffer.layout is not layout:
                    buffer = self._fitting(layout)
                copied = buffer.extend(tensors, latency_us, verdicts, done)
                self._counted(copied)
                done += copied
                if buffer.rows == buffer.capacity:
                    self._buffer = None
                    self._full.append(buffer)
                waiting = len(self._full)
            if waiting:
                self._sketch_full()

    def append_unanswered(self, layout: RowLayout, raws: Sequence[Raw], verdict: int) -> None:
        """Record an inference that the model failed on: its inputs and its verdict.

        Args:
            layout: as for `append`.
            raws: bytes of every input.
            verdict: its code.
        """
        with self.appending:
            buffer = self._buffer
            if buffer is None or buffer.layout is not layout:
                buffer = self._fitting(layout)
            self._counted(1)
            if buffer.append_unanswered(raws, verdict):
                self._buffer = None
                self._full.append(buffer)
            waiting = len(self._full)
        if waiting:
            self._sketch_full()

    def append_refused(self, verdict: int, rows: int = 1) -> None:
        """Record rows that could not even be given to the model: all streams missing, the verdict counted."""
        with self.appending:
            self._refused.extend([verdict] * rows)
            self._counted(rows)
            overflow = len(self._refused) >= MAX_REFUSED
        if overflow:
            self.flush()

    def flush(self) -> None:
        """Sketch everything recorded so far into the open window."""
        with self._sketching:
            with self.appending:
                if self._buffer is not None and self._buffer.rows:
                    self._full.append(self._buffer)
                    self._buffer = None
            self._sketch_full()

    def tick(self) -> None:
        """Flush, and close the window if its time is up. Called by a timer every second or so."""
        with self._sketching:
            self.flush()
            # Also when it is about to be closed: storing it takes the card a while, and a kill may come then.
            if self._keep is not None and self._accumulator.rows not in {0, self._kept_rows}:
                self._kept_rows = self._accumulator.rows
                self._keep(self._accumulator.so_far(), self._opened_mono, self._opened_wall)
            if self._clock.mono_ms() >= self._closes_at:
                self.close_window()

    def close_window(self) -> None:
        """Flush and hand over the open window now; an empty one is not recorded."""
        with self._sketching:
            self.flush()
            self._hand_over()

    def seconds_to_boundary(self) -> float:
        """Time until the open window is due, in seconds; 0 when it is overdue."""
        return max(0.0, (self._closes_at - self._clock.mono_ms()) / 1000)

    @property
    def open_rows(self) -> int:
        """Rows that are in memory only: a kill would lose them."""
        with self.appending:
            waiting = sum(block.rows for block in self._full) + len(self._refused)
            filling = self._buffer.rows if self._buffer else 0
        return waiting + filling + int(self._accumulator.rows)

    def _fitting(self, layout: RowLayout) -> BlockBuffer:
        """A block for these tensors; what is in the present one goes to be sketched. Holds `appending`."""
        if self._buffer is not None and self._buffer.rows:
            self._full.append(self._buffer)
        if self._free and self._free[-1].layout is layout:
            self._buffer = self._free.pop()
        else:
            self._free.clear()
            self._buffer = BlockBuffer(layout)
        return self._buffer

    def _sketch_full(self) -> None:
        with self._sketching:
            while True:
                with self.appending:
                    block = self._full.popleft() if self._full else None
                    refused, self._refused = self._refused, []
                if refused:
                    self._sketch(_refused_block(refused))
                if block is not None:
                    self._sketch(_view(block))
                    block.clear()
                    with self.appending:
                        if len(self._free) < MAX_BLOCKS - 1:
                            self._free.append(block)
                elif not refused:
                    return
                if self._window_rows is not None and self._accumulator.rows >= self._window_rows:
                    self._hand_over()

    def _sketch(self, block: Block) -> None:
        """Sketch a block; one that can't be read, for lack of memory say, counts as rows without values.

        Its rows are answered, and the caller that happens to sketch it has nothing to do with it.
        """
        try:
            values, codes = self._probes.extract(block)
        except Exception:  # the rows are answered: whatever happens to their sketch, they count
            log.exception("%d rows could not be sketched: they count without their values", block.rows)
            values, codes = self._probes.extract(_refused_block(block.verdict.tolist()))
        if self._derived is not None:
            # One time for the whole block: with a ticker it spans about a second.
            seconds = season_seconds(self._clock.wall_ms(), self._derived)
            values = self._derived.apply(values, seconds)
        self._accumulator.update(values, codes)
        if self._observe is not None:
            self._observe(values)

    def _hand_over(self) -> None:
        """Close the open window. Holds `_sketching`."""
        now, wall = self._clock.mono_ms(), self._clock.wall_ms()
        if self._accumulator.rows:
            window, transitions = self._accumulator.take()
            closed = ClosedWindow(window, transitions, self._opened_mono, now, self._opened_wall, wall)
            self.windows_closed += 1
            self._on_window(closed)
        self._opened_mono, self._opened_wall = now, wall
        self._kept_rows = 0
        self._closes_at = self._next_boundary(now)

    def _next_boundary(self, now: int) -> int:
        return (now // self._window_ms + 1) * self._window_ms


def _view(block: BlockBuffer) -> Block:
    rows = block.rows
    how = {tensor.name: tensor.how for tensor in block.layout.inputs if tensor.how is not None}
    return Block(
        inputs={name: array[:rows] for name, array in block.inputs.items() if name not in how},
        outputs={name: array[:rows] for name, array in block.outputs.items()},
        latency_us=block.latency_us[:rows],
        verdict=block.verdict[:rows],
        answered=None if block.answered[:rows].all() else block.answered[:rows],
        positions={name: Positions(one, block.inputs[name][:rows]) for name, one in how.items()},
    )


def _refused_block(verdicts: Sequence[int]) -> Block:
    rows = len(verdicts)
    return Block(
        inputs={},
        outputs={},
        latency_us=np.full(rows, np.nan),
        verdict=np.array(verdicts, dtype=np.int64),
        received=np.zeros(rows, dtype=np.bool_),
        answered=np.zeros(rows, dtype=np.bool_),
    )
