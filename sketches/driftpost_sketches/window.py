"""A window: the sketches of all streams over one interval, as a struct of arrays that merges exactly.

Every merged quantity is an integer or an extreme, so merging is associative and commutative to the last bit:
a backlog merged after months offline equals what an uninterrupted twin would have sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from driftpost_sketches import window_bytes
from driftpost_sketches.errors import IncompatibleSketch, MalformedSketch
from driftpost_sketches.schema import Schema, StreamKind

FIXED_POINT = 4096  # steps of one reference spread: 2.4e-4 of it, far below any effect worth knowing
CLIP = 16.0  # reference spreads; what one wild value can add to a moment
MAX_COUNT = 1 << 46  # values of one stream; with CLIP * FIXED_POINT = 2**16 each, sum1 stays below 2**62
# sum2 saturates here: the minimum of a non-negative sum and a bound is still associative.
SUM2_LIMIT = (1 << 62) - 1
JOINT_LIMIT = (1 << 16) - 1  # a joint feature of one row; MAX_COUNT rows of it stay below 2**62
MAX_JOINT = 256  # joint features of a window; bounds the wire
# Steps of one count squared in which the variance of released noise is summed: fine enough for any noise that
# hides a row, coarse enough for a million devices in one window.
NOISE_STEPS = 16

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StreamSummary:
    """What one stream of a window looks like, in natural units.

    Attributes:
        name: of the stream.
        kind: of the stream.
        n: values that fell into bins (neither missing nor non-finite).
        counts: int64[bins].
        share: float64[bins], counts over n (zeros when n is 0).
        mean: of the clipped values, natural units; NaN when n is 0, the stream is categorical, or the counts
            carry noise.
        std: standard deviation likewise; NaN also when the squares have saturated.
        low: smallest value seen; NaN when n is 0 or the counts carry noise.
        high: largest value seen.
        missing: values that were NaN.
        nonfinite: values that were infinite.
    """

    name: str
    kind: StreamKind
    n: int
    counts: Ints
    share: Floats
    mean: float
    std: float
    low: float
    high: float
    missing: int
    nonfinite: int


@dataclass(frozen=True, eq=False)
class Window:
    """Sketches of all streams of one schema over some rows.

    Attributes:
        schema_id: 16 bytes; windows merge only if equal.
        rows: inferences in it.
        parts: base windows merged into it (0 in an empty one).
        layout: int64[S + 1], where each stream's bins begin in `counts`.
        counts: int64[layout[-1]], values per bin.
        missing: int64[S], NaN values.
        nonfinite: int64[S], infinite values.
        low: float32[S], smallest finite value, +inf when there is none.
        high: float32[S], largest finite value, -inf when there is none.
        sum1: int64[S], sum of z = rint(clip((x - center) / scale, +-16) * 4096); 0 but for numeric streams.
        sum2: int64[S], sum of z * z, saturating at 2**62 - 1. Of released counts both follow from the noised
            histogram, and may contradict each other.
        joint: int64[K], sums of the bundle's joint features (`drift.joint`), fixed point; K = 0 without any.
        joint_rows: rows in those sums; fewer than `rows` where windows without joint features were merged in.
        noise: variance that released noise has added to every count, in steps of 1 / NOISE_STEPS; 0 in an
            exact window. Counts may be negative and do not add up where it is not 0.
    """

    schema_id: bytes
    rows: int
    parts: int
    layout: Ints
    counts: Ints
    missing: Ints
    nonfinite: Ints
    low: npt.NDArray[np.float32]
    high: npt.NDArray[np.float32]
    sum1: Ints
    sum2: Ints
    joint: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    joint_rows: int = 0
    noise: int = 0

    @classmethod
    def empty(cls, schema: Schema) -> Window:
        """A window of no rows: neutral under merge."""
        streams = len(schema)
        return cls(
            schema_id=schema.id,
            rows=0,
            parts=0,
            layout=schema.offsets.copy(),
            counts=np.zeros(int(schema.offsets[-1]), dtype=np.int64),
            missing=np.zeros(streams, dtype=np.int64),
            nonfinite=np.zeros(streams, dtype=np.int64),
            low=np.full(streams, np.inf, dtype=np.float32),
            high=np.full(streams, -np.inf, dtype=np.float32),
            sum1=np.zeros(streams, dtype=np.int64),
            sum2=np.zeros(streams, dtype=np.int64),
        )

    def merge(self, other: Window) -> Window:
        """The window of both windows' rows; neither is changed.

        Joint features are only comparable within one bundle, and so are windows that carry them.

        Raises:
            IncompatibleSketch: their schemas differ.
            MalformedSketch: together they hold more values than a window can count exactly, or their joint
                features differ in number.
        """
        if self.schema_id != other.schema_id or not np.array_equal(self.layout, other.layout):
            raise IncompatibleSketch(self.schema_id, other.schema_id)
        if self.joint.size and other.joint.size and self.joint.size != other.joint.size:
            raise MalformedSketch("windows with different joint features; they are of different bundles")
        rows, parts = self.rows + other.rows, self.parts + other.parts
        counts = self.counts + other.counts
        missing, nonfinite = self.missing + other.missing, self.nonfinite + other.nonfinite
        # All that `from_bytes` refuses: what was merged must be readable again.
        finite = np.add.reduceat(counts, self.layout[:-1])
        noise = self.noise + other.noise
        columns = (counts, finite, missing, nonfinite) if noise else (finite, missing, nonfinite)
        largest = max(rows, parts, noise, *(int(np.abs(part).max(initial=0)) for part in columns))
        if largest > MAX_COUNT:
            raise MalformedSketch(f"a window holds at most {MAX_COUNT} values; merge fewer windows into one")
        return Window(
            schema_id=self.schema_id,
            rows=rows,
            parts=parts,
            layout=self.layout,
            counts=counts,
            missing=missing,
            nonfinite=nonfinite,
            low=np.minimum(self.low, other.low),
            high=np.maximum(self.high, other.high),
            sum1=self.sum1 + other.sum1,
            sum2=np.clip(self.sum2 + other.sum2, -SUM2_LIMIT, SUM2_LIMIT),
            joint=self.joint + other.joint if self.joint.size == other.joint.size else _longer(self, other),
            joint_rows=self.joint_rows + other.joint_rows,
            noise=noise,
        )

    def finite(self) -> Ints:
        """int64[S]: values of each stream that fell into bins."""
        return np.add.reduceat(self.counts, self.layout[:-1])

    def to_bytes(self) -> bytes:
        """The wire and file form: format version, then compressed arrays. See docs/formats.md."""
        return window_bytes.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Window:
        """Reads `to_bytes`'s form; needs no schema.

        Raises:
            MalformedSketch: truncated, oversized, inconsistent or not a window at all.
            UnsupportedVersion: written by a newer format.
        """
        return window_bytes.decode(data)

    def check(self, schema: Schema) -> None:
        """Refuses a window that can not have been made with `schema`.

        `from_bytes` knows no schema; whoever takes windows from outside calls this too.

        Raises:
            IncompatibleSketch: another schema's window.
            MalformedSketch: layout or totals contradict the schema.
        """
        if self.schema_id != schema.id:
            raise IncompatibleSketch(schema.id, self.schema_id)
        if not np.array_equal(self.layout, schema.offsets):
            raise MalformedSketch("its layout is not that of the schema it names")
        if self.noise:
            return
        values = self.finite() + self.missing + self.nonfinite
        if (values[schema.whole_streams] != self.rows).any():
            raise MalformedSketch("a stream's values do not add up to the window's rows")
        if len(schema.partial_streams):
            partial = schema.partial_streams
            if (values[partial] > self.rows).any() or self.missing[partial].any():
                raise MalformedSketch(
                    "a partial stream has more values than rows, or values that are missing"
                )

    def summary(self, schema: Schema, i: int) -> StreamSummary:
        """Stream `i` in natural units.

        Args:
            schema: the schema that made this window.
            i: index of the stream.

        Raises:
            IncompatibleSketch: another schema.
        """
        if self.schema_id != schema.id:
            raise IncompatibleSketch(schema.id, self.schema_id)
        stream = schema.streams[i]
        counts = self.counts[self.layout[i] : self.layout[i + 1]]
        n = max(int(counts.sum()), 0)
        mean = std = math.nan
        # Extremes are withheld where counts were released with noise, and moments follow from the counts.
        exact = n > 0 and not self.noise
        # Without edges nobody knows the stream's scale: what was clipped to one says nothing.
        if n and stream.kind is StreamKind.NUMERIC and stream.edges:
            z = float(self.sum1[i]) / n
            spread = math.sqrt(max(float(self.sum2[i]) / n - z * z, 0.0))
            mean = stream.center + stream.scale * z / FIXED_POINT
            # Saturated squares (2.7e11 rows of one spread: a fleet's month) say nothing any more.
            std = stream.scale * spread / FIXED_POINT if self.sum2[i] < SUM2_LIMIT else math.nan
        elif exact and stream.kind is StreamKind.CODES:
            codes = np.arange(counts.size) + stream.lowest_code
            mean = float(counts @ codes) / n
            std = math.sqrt(float(counts @ (codes - mean) ** 2) / n)
        return StreamSummary(
            name=stream.name,
            kind=stream.kind,
            n=n,
            counts=counts,
            share=counts / n if n else np.zeros(counts.size),
            mean=mean,
            std=std,
            low=float(self.low[i]) if exact else math.nan,
            high=float(self.high[i]) if exact else math.nan,
            missing=int(self.missing[i]),
            nonfinite=int(self.nonfinite[i]),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Window):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in SCALARS) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in ARRAYS
        )

    __hash__ = None  # type: ignore[assignment]  # it holds arrays


def _longer(a: Window, b: Window) -> Ints:
    """The joint sums of the one that has any."""
    return a.joint if a.joint.size else b.joint


SCALARS = ("schema_id", "rows", "parts", "joint_rows", "noise")
ARRAYS = ("layout", "counts", "missing", "nonfinite", "low", "high", "sum1", "sum2", "joint")
