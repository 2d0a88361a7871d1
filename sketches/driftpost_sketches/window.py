"""A window: the sketches of all streams of one model over one interval, as a struct of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from driftpost_sketches import packing
from driftpost_sketches.errors import IncompatibleSketch, MalformedSketch
from driftpost_sketches.schema import MAX_BINS, MAX_STREAMS, Schema, StreamKind

WINDOW_VERSION = 1
MOMENT_UNITS = (
    4096  # fixed-point steps in one reference scale: 0.00024 sd, far below any effect worth knowing
)
MOMENT_CLIP = 16.0  # reference scales; z * z then fits 32 bits and sums of 2^31 rows fit an int64
MAX_ROWS = 2**62 // int(MOMENT_UNITS * MOMENT_CLIP) ** 2  # beyond it sum2 could overflow

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StreamSummary:
    """One stream of a window, in natural units.

    Attributes:
        name: the stream's name.
        kind: the stream's kind.
        n: finite values (or codes) counted.
        counts: int64[n_bins].
        share: float64[n_bins], counts over n (zeros when n is 0).
        mean: mean of values clipped at 16 reference scales; NaN when n is 0 or the stream is not numeric.
        std: standard deviation of the same; NaN likewise.
        low: smallest finite value; +inf when there was none.
        high: largest finite value; -inf when there was none.
        missing: rows whose value was NaN.
        nonfinite: rows whose value was infinite.
    """

    name: str
    kind: StreamKind
    n: int
    counts: IntArray
    share: FloatArray
    mean: float
    std: float
    low: float
    high: float
    missing: int
    nonfinite: int


@dataclass(frozen=True, eq=False)
class Window:
    """Sketches of all streams over one interval; treat its arrays as read-only.

    Attributes:
        schema_id: 16 bytes, the schema that gives the arrays their meaning.
        layout: int64[S], number of bins of every stream.
        rows: inferences covered.
        parts: base windows merged into this one.
        counts: int64[sum(layout)], histograms of all streams one after the other.
        missing: int64[S], NaN values.
        nonfinite: int64[S], infinite values.
        low: float64[S], smallest finite value (float32-representable, rounded down), +inf when none.
        high: float64[S], largest finite value (float32-representable, rounded up), -inf when none.
        sum1: int64[S], sum of fixed-point z (see `MOMENT_UNITS`).
        sum2: int64[S], sum of z squared.
    """

    schema_id: bytes
    layout: IntArray
    rows: int
    parts: int
    counts: IntArray
    missing: IntArray
    nonfinite: IntArray
    low: FloatArray
    high: FloatArray
    sum1: IntArray
    sum2: IntArray

    @classmethod
    def empty(cls, schema: Schema) -> Window:
        """The neutral element of `merge`: no rows, no parts."""
        size = len(schema)
        return cls(
            schema_id=schema.id,
            layout=np.diff(schema.offsets),
            rows=0,
            parts=0,
            counts=np.zeros(int(schema.offsets[-1]), np.int64),
            missing=np.zeros(size, np.int64),
            nonfinite=np.zeros(size, np.int64),
            low=np.full(size, np.inf),
            high=np.full(size, -np.inf),
            sum1=np.zeros(size, np.int64),
            sum2=np.zeros(size, np.int64),
        )

    def merge(self, other: Window) -> Window:
        """One window as if both intervals had been sketched in one pass; exact in any order and grouping.

        Raises:
            IncompatibleSketch: the schemas differ.
        """
        if self.schema_id != other.schema_id or not np.array_equal(self.layout, other.layout):
            raise IncompatibleSketch(self.schema_id, other.schema_id)
        return Window(
            schema_id=self.schema_id,
            layout=self.layout,
            rows=self.rows + other.rows,
            parts=self.parts + other.parts,
            counts=self.counts + other.counts,
            missing=self.missing + other.missing,
            nonfinite=self.nonfinite + other.nonfinite,
            low=np.minimum(self.low, other.low),
            high=np.maximum(self.high, other.high),
            sum1=self.sum1 + other.sum1,
            sum2=self.sum2 + other.sum2,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Window):
            return NotImplemented
        return (self.schema_id, self.rows, self.parts) == (other.schema_id, other.rows, other.parts) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in _ARRAYS
        )

    __hash__ = None  # type: ignore[assignment]  # equality is by content of mutable arrays

    def summary(self, schema: Schema, index: int) -> StreamSummary:
        """Stream `index` in natural units.

        Raises:
            IncompatibleSketch: the window was made with another schema.
        """
        if schema.id != self.schema_id:
            raise IncompatibleSketch(self.schema_id, schema.id)
        stream = schema.streams[index]
        counts = self.counts[schema.offsets[index] : schema.offsets[index + 1]]
        n = int(counts.sum())
        mean = std = float("nan")
        if n and stream.kind is StreamKind.NUMERIC:
            z = float(self.sum1[index]) / n / MOMENT_UNITS
            square = float(self.sum2[index]) / n / MOMENT_UNITS**2
            mean = stream.center + stream.scale * z
            std = stream.scale * max(square - z * z, 0.0) ** 0.5
        return StreamSummary(
            name=stream.name,
            kind=stream.kind,
            n=n,
            counts=counts,
            share=counts / n if n else np.zeros(len(counts)),
            mean=mean,
            std=std,
            low=float(self.low[index]),
            high=float(self.high[index]),
            missing=int(self.missing[index]),
            nonfinite=int(self.nonfinite[index]),
        )

    def to_bytes(self) -> bytes:
        """The window in its versioned form (docs/formats.md); needs no schema to be read back."""
        head = np.array([self.rows, self.parts, len(self.layout)], dtype="<u8").tobytes()
        body = [self.schema_id, head, self.layout.astype("<u2").tobytes()]
        body += [packing.integers(getattr(self, name)) for name in _INTEGERS]
        body += [self.low.astype("<f4").tobytes(), self.high.astype("<f4").tobytes()]
        return packing.seal(b"W", WINDOW_VERSION, b"".join(body))

    @classmethod
    def from_bytes(cls, data: bytes) -> Window:
        """Reads `to_bytes`'s form.

        Raises:
            MalformedSketch: truncated, oversized, inconsistent or not a window at all.
            UnsupportedVersion: written by a newer format.
        """
        reader = packing.unseal(b"W", WINDOW_VERSION, data, "the window")
        schema_id = reader.take(16)
        rows, parts, size = (int(v) for v in reader.array("<u8", 3))
        if not 1 <= size <= MAX_STREAMS:
            raise MalformedSketch(f"a window has 1 to {MAX_STREAMS} streams, not {size}")
        if rows > MAX_ROWS or parts > MAX_ROWS:
            raise MalformedSketch("more rows or parts than a window can hold")
        layout = reader.array("<u2", size).astype(np.int64)
        if layout.min() < 1 or layout.max() > MAX_BINS:
            raise MalformedSketch(f"every stream has 1 to {MAX_BINS} bins")
        fields: dict[str, Any] = {
            name: reader.integers(int(layout.sum()) if name == "counts" else size) for name in _INTEGERS
        }
        low, high = (reader.array("<f4", size).astype(np.float64) for _ in range(2))
        reader.finish()
        if any(fields[name].min() < 0 for name in ("counts", "missing", "nonfinite", "sum2")):
            raise MalformedSketch("a count is negative")
        if np.isnan(low).any() or np.isnan(high).any():
            raise MalformedSketch("a smallest or largest value is not a number")
        return cls(schema_id=schema_id, layout=layout, rows=rows, parts=parts, low=low, high=high, **fields)


_INTEGERS = ("counts", "missing", "nonfinite", "sum1", "sum2")
_ARRAYS = ("layout", *_INTEGERS, "low", "high")
