"""Recent answers by the name of their inference, for labels that come later.

A call leaves a copy of its answer in a queue (the caller owns the outputs and may write into them), which
costs a fraction of a microsecond; what has gathered there is read in one vectorised pass now and then. Memory
is bounded by rows: how many hours they reach back depends on how often the model is called.
"""

from __future__ import annotations

import threading
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from driftpost_agent.verdict import OK, GuardedResult, Status
from driftpost_models.probes.classification import Classification
from driftpost_sync.clock import Clock
from driftpost_sync.codec import pack

# Rows remembered: about 3 MB with names of twenty characters. At a row a second they reach back 4.5 hours.
REMEMBERED_ROWS = 16_384
# Results that wait to be read; fewer where answers are large.
MAX_FRESH = 1024
MAX_FRESH_BYTES = 1 << 20
# A label that names a time is of the answer nearest to it, if that is at most so far away, ms: people note
# seconds.
MAX_APART_MS = 1_000
# When a row was answered, where no clock tells: so long ago that no time is near it.
_UNDATED = -(1 << 62)


class Answers:
    """Classes and confidences of the latest rows; all methods may be called from several threads.

    Args:
        scores: reads the model's answers.
        answer_bytes: of all outputs of one row; an upper bound of what is kept.
        clock: for the age of what is remembered.
        rows: how many are remembered.
    """

    def __init__(
        self, scores: Classification, answer_bytes: int, clock: Clock, rows: int = REMEMBERED_ROWS
    ) -> None:
        self._scores = scores
        self._clock = clock
        self._size = rows
        self._tensor = scores.tensor.name
        # (name of the inference, rows, scores, monotonic ms)
        self._fresh: deque[tuple[str, int, NDArray[Any], int]] = deque()
        self.most_fresh = max(1, min(MAX_FRESH, MAX_FRESH_BYTES // max(answer_bytes, 1)))
        self._lock = threading.Lock()
        self._next = 0  # rows ever remembered; row n lies at n modulo the size
        self._first: dict[str, int] = {}
        self._names: list[str] = [""] * rows
        self._answer = np.zeros(rows, dtype=np.int32)
        self._confidence = np.full(rows, np.nan, dtype=np.float32)
        self._labelled = np.zeros(rows, dtype=np.bool_)
        self._at = np.zeros(rows, dtype=np.int64)

    def append(self, result: GuardedResult) -> None:
        """Remember a result; the caller looks at `waiting` afterwards."""
        value = result.outputs.get(self._tensor)
        if value is not None and (result.verdict is OK or _answered(result)):
            self._fresh.append((result.inference_id, result.rows, value.copy(), self._clock.mono_ms()))

    @property
    def waiting(self) -> int:
        """Results that have not been read yet."""
        return len(self._fresh)

    def read(self) -> None:
        """Take in the results that wait."""
        with self._lock:
            used = [self._fresh.popleft() for _ in range(len(self._fresh))]
            if not used:
                return
            raw = [value.reshape(rows, -1) for _, rows, value, _ in used]
            measured = self._scores.measure(self._scores.probabilities(np.concatenate(raw)))
            self._remember([(name, rows, at) for name, rows, _, at in used], measured)

    def find(self, name: str) -> NDArray[np.int64] | None:
        """Numbers of the rows that an inference answered, None where it is not (or no longer) remembered."""
        self.read()
        with self._lock:
            first = self._first.get(name)
            if first is None:
                return None
            last = first
            while last < self._next and self._names[last % self._size] == name and last - first < self._size:
                last += 1
            return np.arange(first, last)

    def named_at(self, wall: int) -> str | None:
        """Name of the inference nearest to a time, Unix ms; None without one within `MAX_APART_MS`.

        None too while the wall clock is not known to be good: a guess would give a label to a stranger.
        """
        self.read()
        now = self._clock.wall_ms()
        if now is None:
            return None
        at = wall - now + self._clock.mono_ms()
        with self._lock:
            held = self.rows
            if not held:
                return None
            apart = np.abs(self._at[:held] - at)
            nearest = int(np.argmin(apart))
            return self._names[nearest] if apart[nearest] <= MAX_APART_MS else None

    def take(self, numbers: NDArray[np.int64], labels: Sequence[int]) -> list[tuple[int, int, int, float]]:
        """Pairs for labels that were not given before: (row's number, answer, label, confidence).

        Rows whose answer was no number give none.
        """
        pairs = []
        with self._lock:
            for number, label in zip(numbers.tolist(), labels, strict=True):
                place = number % self._size
                if self._labelled[place] or self._answer[place] < 0:
                    continue
                self._labelled[place] = True
                pairs.append((number, int(self._answer[place]), label, float(self._confidence[place])))
        return pairs

    def reach_s(self) -> float:
        """Seconds since the oldest row that is remembered; 0 without any."""
        with self._lock:
            if not self._next:
                return 0.0
            dated = self._at[: self.rows][self._at[: self.rows] > _UNDATED]
            oldest = int(dated.min()) if len(dated) else self._clock.mono_ms()
        return max(self._clock.mono_ms() - oldest, 0) / 1000

    def to_bytes(self) -> bytes:
        """What is remembered, dated by the wall clock where that is good; an orderly end leaves it."""
        self.read()
        wall = self._clock.wall_ms()
        with self._lock:
            numbers = np.arange(max(self._next - self._size, 0), self._next)
            places = numbers % self._size
            # A name that lost its first row names nothing any more.
            names = [name if name in self._first else "" for name in (self._names[place] for place in places)]
            dated = self._at[places] if wall is None else self._at[places] - self._clock.mono_ms() + wall
            if wall is None:
                dated = np.full(len(places), _UNDATED)
            plain = [
                names,
                self._answer[places].astype("<i4").tobytes(),
                self._confidence[places].astype("<f4").tobytes(),
                self._labelled[places].tobytes(),
                dated.astype("<i8").tobytes(),
            ]
        return zlib.compress(pack(plain), 6)

    def restore(self, data: bytes) -> None:
        """Take up what `to_bytes` gave, into a memory that is still empty.

        Raises:
            ValueError: it is not that; nothing is remembered then.
        """
        plain = msgpack.unpackb(zlib.decompress(data), max_array_len=max(self._size, 5))
        names, answer, confidence, labelled, dated = plain
        kept = np.frombuffer(answer, dtype="<i4")
        at = np.frombuffer(dated, dtype="<i8").astype(np.int64)
        arrays = (np.frombuffer(confidence, dtype="<f4"), np.frombuffer(labelled, dtype=np.bool_), at)
        rows = len(kept)
        if rows > self._size or len(names) != rows or any(len(array) != rows for array in arrays):
            raise ValueError(f"{rows} rows do not fit")
        wall = self._clock.wall_ms()
        mono = at + (self._clock.mono_ms() - (wall or 0))
        with self._lock:
            for number, name in enumerate(names):
                self._names[number] = str(name)
                if name:
                    self._first.setdefault(str(name), number)
            self._answer[:rows], self._confidence[:rows], self._labelled[:rows] = kept, *arrays[:2]
            self._at[:rows] = _UNDATED if wall is None else np.where(at == _UNDATED, _UNDATED, mono)
            self._next = rows

    @property
    def rows(self) -> int:
        """Rows that are remembered."""
        return min(self._next, self._size)

    def _remember(self, named: list[tuple[str, int, int]], measured: NDArray[np.float64]) -> None:
        begin, size, names, first = self._next, self._size, self._names, self._first
        places = (begin + np.arange(len(measured))) % size
        number = begin
        for name, rows, _ in named:
            if rows:
                first[name] = number
            for _ in range(rows):
                place = number % size
                old = names[place]
                # What loses its first row is forgotten as a whole: the rest could not be told apart any more.
                if old and first.get(old) == number - size:
                    del first[old]
                names[place] = name
                number += 1
        self._next = number
        # Of more rows than there are places, the last one in each counts: numpy writes in order.
        self._answer[places] = np.where(np.isnan(measured[:, 0]), -1, np.nan_to_num(measured[:, 0]))
        self._confidence[places] = measured[:, 1]
        self._labelled[places] = False
        self._at[places] = np.repeat([at for _, _, at in named], [rows for _, rows, _ in named])


def _answered(result: GuardedResult) -> bool:
    """Whether the guarded model's own answer was given: a fallback's is another model's."""
    return result.verdict.status in (Status.OK, Status.FLAGGED)
