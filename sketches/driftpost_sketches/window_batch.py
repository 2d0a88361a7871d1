"""Many windows of one schema read, checked and merged at once, as one struct of arrays.

Reading a window by itself costs a millisecond, most of it in looking for contradictions stream by stream;
here every step is one numpy operation over all windows. The single window's own reader stays the judge: what
is the least unusual about a window (noise, another layout, any check that fails) goes through
`Window.from_bytes`, `Window.check` and `contradictions`, so both ways take and refuse the same.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from driftpost_sketches.contradictions import ROUNDING, contradictions
from driftpost_sketches.errors import MalformedSketch, SketchError
from driftpost_sketches.schema import Schema, StreamKind
from driftpost_sketches.window import CLIP, FIXED_POINT, JOINT_LIMIT, MAX_COUNT, SUM2_LIMIT, Window
from driftpost_sketches.window_bytes import MAGIC, MAX_BYTES, VERSION

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

# Arrays of one group of windows, bytes: a schema of a million bins must not multiply by a thousand windows.
GROUP_BYTES = 32 << 20
# Windows checked in one pass: their arrays stay in the processor's cache.
TOGETHER = 64
# Sums of whole arrays are taken without looking at overflow below this; the rest goes window by window.
_SAFE_SUM = float(1 << 61)
_HEAD = struct.Struct("<16sQQQQHH")
_LIMIT = CLIP * FIXED_POINT


class WindowBatch:
    """Windows of one schema, each read and checked.

    Attributes:
        schema: of all of them.
        refused: why a window can not have been made with the schema, by its place.
        rows, parts: int64[N]; 0 where refused.
    """

    def __init__(self, schema: Schema, packed: Sequence[bytes], joint: int | None = None) -> None:
        """Read windows.

        Args:
            schema: that all of them name.
            packed: `Window.to_bytes()` of each.
            joint: joint features of their bundle, None where nothing is known of any.
        """
        self.schema = schema
        self.refused: dict[int, str] = {}
        self._packed = packed
        self._joint = joint
        count, streams, bins = len(packed), len(schema), int(schema.offsets[-1])
        self.rows = np.zeros(count, dtype=np.int64)
        self.parts = np.zeros(count, dtype=np.int64)
        self._joint_rows = np.zeros(count, dtype=np.int64)
        self._counts = np.zeros((count, bins), dtype=np.int64)
        self._per_stream = np.zeros((4, count, streams), dtype=np.int64)  # missing, nonfinite, sum1, sum2
        self._low = np.full((count, streams), np.inf, dtype=np.float32)
        self._high = np.full((count, streams), -np.inf, dtype=np.float32)
        self._joints: Ints = np.zeros((count, joint or 0), dtype=np.int64)
        self._single: dict[int, Window] = {}  # what was read by itself: with noise, or otherwise unusual
        self._checks = _Checks(schema)
        self._read()

    def __len__(self) -> int:
        return len(self._packed)

    @staticmethod
    def most(schema: Schema) -> int:
        """Windows of this schema that one batch should hold, so that its arrays stay below `GROUP_BYTES`."""
        return max(GROUP_BYTES // (8 * (int(schema.offsets[-1]) + 6 * len(schema))), 1)

    def window(self, at: int) -> Window:
        """One window of the batch; it must not be refused."""
        if at in self._single:
            return self._single[at]
        missing, nonfinite, sum1, sum2 = (part[at] for part in self._per_stream)
        counted = bool(self._joint_rows[at])
        return Window(
            schema_id=self.schema.id,
            rows=int(self.rows[at]),
            parts=int(self.parts[at]),
            layout=self.schema.offsets,
            counts=self._counts[at],
            missing=missing,
            nonfinite=nonfinite,
            low=self._low[at],
            high=self._high[at],
            sum1=sum1,
            sum2=sum2,
            joint=self._joints[at] if counted else np.zeros(0, dtype=np.int64),
            joint_rows=int(self._joint_rows[at]),
        )

    def total(self, places: Sequence[int] | Rows) -> Window:
        """Some of the windows as one, exactly as merging them one after the other.

        Args:
            places: at least one, none refused.

        Raises:
            MalformedSketch: together they hold more values than a window can count.
        """
        chosen = np.asarray(places, dtype=np.intp)
        if len(chosen) == 1:
            return self.window(int(chosen[0]))
        plain = chosen
        total: Window | None = None
        if self._single:
            alone = np.isin(chosen, list(self._single))
            for at in chosen[alone]:
                window = self._single[int(at)]
                total = window if total is None else total.merge(window)
            plain = chosen[~alone]
        if len(plain):
            summed = self._sum(plain)
            total = summed if total is None else total.merge(summed)
        assert total is not None, "at least one place was given"
        return total

    def _sum(self, plain: Rows) -> Window:
        per_stream = self._per_stream[:, plain]
        largest = max(
            float(self.rows[plain].astype(np.float64).sum()),
            float(self.parts[plain].astype(np.float64).sum()),
            float(per_stream[:2].astype(np.float64).sum(axis=1).max(initial=0.0)),
        )
        squares = float(per_stream[3].astype(np.float64).sum(axis=0).max(initial=0.0))
        if largest > MAX_COUNT or squares > _SAFE_SUM:
            # Saturation and refusal are the single merge's business.
            total = self.window(int(plain[0]))
            for at in plain[1:]:
                total = total.merge(self.window(int(at)))
            return total
        joint_rows = int(self._joint_rows[plain].sum())
        missing, nonfinite, sum1, sum2 = per_stream.sum(axis=1)
        return Window(
            schema_id=self.schema.id,
            rows=int(self.rows[plain].sum()),
            parts=int(self.parts[plain].sum()),
            layout=self.schema.offsets,
            counts=self._counts[plain].sum(axis=0),
            missing=missing,
            nonfinite=nonfinite,
            low=self._low[plain].min(axis=0),
            high=self._high[plain].max(axis=0),
            sum1=sum1,
            sum2=sum2,
            joint=self._joints[plain].sum(axis=0) if joint_rows else np.zeros(0, dtype=np.int64),
            joint_rows=joint_rows,
        )

    def _read(self) -> None:
        """Fill the arrays; windows whose arrays have equal widths are read together."""
        alike: dict[tuple[bytes, int, int], list[tuple[int, bytes]]] = {}
        odd: list[int] = []
        for at, data in enumerate(self._packed):
            plain = self._inflated(data)
            shape = None if plain is None else self._shape(plain)
            if plain is None or shape is None:
                odd.append(at)
            else:
                alike.setdefault(shape, []).append((at, plain))
        for (widths, features, length), group in alike.items():
            for begin in range(0, len(group), TOGETHER):
                part = group[begin : begin + TOGETHER]
                places = np.array([at for at, _ in part], dtype=np.intp)
                table = np.frombuffer(b"".join(plain for _, plain in part), dtype=np.uint8)
                good = self._fill(places, table.reshape(len(part), length), widths, features)
                odd += places[~good].tolist()
        for at in sorted(odd):
            self._read_alone(at)

    def _inflated(self, data: bytes) -> bytes | None:
        """The body of an ordinary window; None where it takes a closer look."""
        if len(data) > MAX_BYTES or data[:4] != MAGIC + bytes([VERSION]):
            return None
        inflater = zlib.decompressobj()
        try:
            plain = inflater.decompress(memoryview(data)[4:], self._checks.longest)
        except zlib.error:
            return None
        return plain if inflater.eof and not inflater.unused_data else None

    def _shape(self, plain: bytes) -> tuple[bytes, int, int] | None:
        """Widths of its arrays, its joint features and its length; None where they do not fit the schema."""
        streams, bins = len(self.schema), int(self.schema.offsets[-1])
        if len(plain) < _HEAD.size + 2 * streams or plain[:16] != self.schema.id:
            return None
        features = plain[_HEAD.size - 2] | plain[_HEAD.size - 1] << 8
        if features not in (0, self._joint):
            return None
        widths = bytearray()
        at = _HEAD.size + 2 * streams
        for count in (bins, streams, streams, streams, streams):
            if at >= len(plain):
                return None
            widths.append(plain[at])
            at += 1 + plain[at] * count
        at += 8 * streams
        if at >= len(plain):
            return None
        widths.append(plain[at])
        at += 1 + plain[at] * features
        if at != len(plain) or not set(widths) <= {1, 2, 4, 8}:
            return None
        return bytes(widths), features, len(plain)

    def _fill(self, places: Rows, table: npt.NDArray[np.uint8], widths: bytes, features: int) -> Bools:
        """Read windows that lie alike; which of them are beyond doubt. The others stay empty."""
        streams, bins = len(self.schema), int(self.schema.offsets[-1])
        head = table[:, 16 : _HEAD.size - 4].copy().view("<u8").astype(np.uint64)
        layout = table[:, _HEAD.size - 4 : _HEAD.size + 2 * streams]
        good: Bools = (layout == self._checks.layout(features)).all(axis=1)
        good &= (head < MAX_COUNT).all(axis=1) & (head[:, 2] == 0)
        at = _HEAD.size + 2 * streams
        arrays: list[Ints] = []
        for width, count in zip(widths[:5], (bins, *(streams,) * 4), strict=True):
            values, fits = _integers(table[:, at + 1 : at + 1 + width * count], width, count)
            good &= fits
            arrays.append(values)
            at += 1 + width * count
        counts, missing, nonfinite, sum1, sum2 = arrays
        sum1 = (sum1 >> 1) ^ -(sum1 & 1)
        low = _floats(table[:, at : at + 4 * streams], streams)
        high = _floats(table[:, at + 4 * streams : at + 8 * streams], streams)
        at += 8 * streams
        joint, fits = _integers(table[:, at + 1 :], widths[5], features)
        good &= fits
        joint = (joint >> 1) ^ -(joint & 1)
        rows, parts, joint_rows = (head[:, column].astype(np.int64) for column in (0, 1, 3))
        good &= (rows > 0) & (parts > 0) & (joint_rows <= (rows if features else 0))
        good &= np.abs(joint).max(axis=1, initial=0) <= joint_rows * JOINT_LIMIT
        # Sums of features that nobody counted are for the single reader to judge.
        good &= (joint_rows > 0) | (np.full(len(places), features) == 0)
        good &= self._checks.fit(
            rows=rows,
            counts=counts,
            missing=missing,
            nonfinite=nonfinite,
            sum1=sum1,
            sum2=sum2,
            low=low,
            high=high,
        )
        kept = places[good]
        self.rows[kept], self.parts[kept], self._joint_rows[kept] = rows[good], parts[good], joint_rows[good]
        self._counts[kept] = counts[good]
        for index, values in enumerate((missing, nonfinite, sum1, sum2)):
            self._per_stream[index, kept] = values[good]
        self._low[kept], self._high[kept] = low[good], high[good]
        if features:
            self._joints[kept] = joint[good]
        return good

    def _read_alone(self, at: int) -> None:
        try:
            window = checked_window(self.schema, self._packed[at], self._joint)
        except SketchError as error:
            self.refused[at] = str(error)
            return
        self._single[at] = window
        self.rows[at], self.parts[at] = window.rows, window.parts


def checked_window(schema: Schema, packed: bytes, joint: int | None) -> Window:
    """One window that can have been made with a schema.

    Args:
        schema: of its bundle.
        packed: `Window.to_bytes()`.
        joint: joint features of its bundle, None where nothing is known of any.

    Raises:
        SketchError: with what does not fit.
    """
    window = Window.from_bytes(packed)
    check_window(schema, window, joint)
    return window


def check_window(schema: Schema, window: Window, joint: int | None) -> None:
    """Refuse a window that can not have been made with a schema; arguments and errors as `checked_window`."""
    window.check(schema)
    broken = contradictions(schema, window)
    if broken:
        raise MalformedSketch(f"its sketch contradicts itself, {broken[0]}")
    if joint is not None and window.joint.size not in (0, joint):
        # Sums of other features can not be merged with the neighbours' and would take their place.
        raise MalformedSketch(f"joint sums of {window.joint.size} features, its bundle has {joint}")


class _Checks:
    """What `Window.from_bytes`, `Window.check` and `contradictions` look at, over many windows at once.

    A window that passes here passes there. One that fails here by a hair may still pass there: whoever asks
    lets the single reader decide.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        streams, bins = len(schema), int(schema.offsets[-1])
        self.longest = _HEAD.size + 2 * streams + 8 * bins + 8 * 4 * streams + 8 * streams + 6 + 8 * 256
        self._sizes = np.diff(schema.offsets).astype("<u2").tobytes()
        self._streams = streams
        self._whole = schema.whole_streams
        self._partial = schema.partial_streams
        self._numeric = np.array([stream.kind is StreamKind.NUMERIC for stream in schema.streams])
        # Of each bin of a numeric stream: where it begins and ends, as float32 and in reference spreads.
        self._begin = np.full(bins, -np.inf, dtype=np.float32)
        self._end = np.full(bins, np.inf, dtype=np.float32)
        self._z_begin = np.zeros(bins)
        self._z_end = np.zeros(bins)
        self._center = np.zeros(streams)
        self._scale = np.ones(streams)
        for i, stream in enumerate(schema.streams):
            if stream.kind is not StreamKind.NUMERIC:
                continue
            first, last = int(schema.offsets[i]), int(schema.offsets[i + 1])
            edges = np.array(stream.edges, dtype=np.float64)
            self._begin[first + 1 : last] = edges
            self._end[first : last - 1] = edges
            z = np.clip((edges - stream.center) / stream.scale * FIXED_POINT, -_LIMIT, _LIMIT)
            self._z_begin[first], self._z_end[last - 1] = -_LIMIT, _LIMIT
            self._z_begin[first + 1 : last] = z
            self._z_end[first : last - 1] = z
            self._center[i], self._scale[i] = stream.center, stream.scale
        self._stream_of_bin = np.repeat(np.arange(streams), np.diff(schema.offsets))

    def layout(self, features: int) -> npt.NDArray[np.uint8]:
        """The bytes that say how many streams, features and bins there are."""
        return np.frombuffer(struct.pack("<HH", self._streams, features) + self._sizes, dtype=np.uint8)

    def fit(
        self,
        *,
        rows: Ints,
        counts: Ints,
        missing: Ints,
        nonfinite: Ints,
        sum1: Ints,
        sum2: Ints,
        low: npt.NDArray[np.float32],
        high: npt.NDArray[np.float32],
    ) -> Bools:
        """bool[N]: which windows, of at least one row and without noise, nothing speaks against."""
        begins = self._schema.offsets[:-1]
        with np.errstate(invalid="ignore", over="ignore"):
            # In floating point: what does not fit 64 bits must not wrap around into something plausible.
            n = np.add.reduceat(counts.astype(np.float64), begins, axis=1)
            values = n + missing + nonfinite
            good = (values.max(axis=1) <= MAX_COUNT) & (np.abs(sum1).max(axis=1) <= SUM2_LIMIT)
            good &= sum2.max(axis=1) <= SUM2_LIMIT
            good &= (values[:, self._whole] == rows[:, None]).all(axis=1)
            good &= (values[:, self._partial] <= rows[:, None]).all(axis=1)
            good &= ~missing[:, self._partial].any(axis=1)
            filled = n > 0
            nothing = np.isposinf(low) & np.isneginf(high)
            bounded = (low <= high) & np.isfinite(low) & np.isfinite(high)
            good &= np.where(filled, bounded, nothing).all(axis=1)
            first, second = sum1.astype(np.float64), sum2.astype(np.float64)
            good &= (np.abs(first) <= n * _LIMIT).all(axis=1) & (second <= n * _LIMIT**2).all(axis=1)
            good &= ((first * first <= n * second * (1 + 1e-9)) | (sum2 >= SUM2_LIMIT)).all(axis=1)
            good &= self._agree(counts, n, first, low, high)
        return np.asarray(good)

    def _agree(
        self,
        counts: Ints,
        n: npt.NDArray[np.float64],
        first: npt.NDArray[np.float64],
        low: npt.NDArray[np.float32],
        high: npt.NDArray[np.float32],
    ) -> Bools:
        """Whether extremes lie in the outermost filled bins, and means where the bins allow."""
        begins, stream = self._schema.offsets[:-1], self._stream_of_bin
        here = counts > 0
        lowest = np.minimum.reduceat(np.where(here, self._begin, np.inf), begins, axis=1)
        lowest_end = np.minimum.reduceat(np.where(here, self._end, np.inf), begins, axis=1)
        highest = np.maximum.reduceat(np.where(here, self._begin, -np.inf), begins, axis=1)
        highest_end = np.maximum.reduceat(np.where(here, self._end, -np.inf), begins, axis=1)
        spoken = self._numeric & (n > 0)
        placed = (lowest <= low) & (low <= lowest_end) & (highest <= high) & (high <= highest_end)
        z_low = np.clip((low - self._center) / self._scale * FIXED_POINT, -_LIMIT, _LIMIT)
        z_high = np.clip((high - self._center) / self._scale * FIXED_POINT, -_LIMIT, _LIMIT)
        weights = counts.astype(np.float64)
        least = np.maximum(self._z_begin, np.where(spoken, z_low, 0.0)[:, stream])
        most = np.minimum(self._z_end, np.where(spoken, z_high, 0.0)[:, stream])
        least_sum = np.add.reduceat(weights * least, begins, axis=1)
        most_sum = np.add.reduceat(weights * most, begins, axis=1)
        slack = n * ROUNDING
        agrees = (least_sum - slack <= first) & (first <= most_sum + slack)
        return np.asarray((~spoken | (placed & agrees)).all(axis=1))


def _integers(data: npt.NDArray[np.uint8], width: int, count: int) -> tuple[Ints, Bools]:
    """int64[N, count] from byte planes, and which windows have none beyond 63 bits."""
    planes = data.reshape(len(data), width, count)
    fits: Bools = np.ones(len(data), dtype=np.bool_)
    if width == 8:
        fits = np.asarray(~(planes[:, 7] >> 7).any(axis=1))
    values = planes[:, 0].astype(np.int64)
    for index in range(1, width):
        values |= planes[:, index].astype(np.int64) << (8 * index)
    return values, fits


def _floats(data: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.float32]:
    """float32[N, count] from byte planes."""
    planes = data.reshape(len(data), 4, count).transpose(0, 2, 1)
    return np.ascontiguousarray(planes).view("<f4")[..., 0].astype(np.float32)
