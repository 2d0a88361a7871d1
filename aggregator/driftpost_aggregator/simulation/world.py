"""Rows as a bundle's reference shows them, disturbed or not, and the windows they make.

Streams are drawn from the baseline sketch: a bin by its share, then a value within the bin. So every bundle
can be played without its data, and what is not disturbed looks to the detectors as the reference did, but
for what streams have to do with each other and with their past.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from driftpost_aggregator.errors import ConfigurationError
from driftpost_aggregator.registry import KnownBundle
from driftpost_aggregator.simulation.script import Disturbance
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.schema import Role, Schema, Stream, StreamKind
from driftpost_sync.messages import DescribeBody

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8] | npt.NDArray[np.int8]

# Different windows of each kind; devices draw from them, so that a hundred thousand devices cost no more to
# play than a hundred.
POOL = 48
_REFERENCE_ROWS = 8_000
# Codes drawn for a row of a codes stream.
_CODES_A_ROW = 16


class World:
    """Draws windows of one bundle.

    Args:
        known: the bundle.
        rows: inferences in a window.
        seed: of everything drawn.
    """

    def __init__(self, known: KnownBundle, rows: int, seed: int) -> None:
        self.known = known
        self.rows = rows
        self._generator = np.random.default_rng(seed)
        self._pools: dict[tuple[Disturbance, ...], list[bytes]] = {}
        self._index = {stream.name: i for i, stream in enumerate(known.schema.streams)}

    def check(self, disturbances: Sequence[Disturbance]) -> None:
        """Refuse what can not happen to this bundle.

        Raises:
            ConfigurationError: a stream that it does not have, or of another kind.
        """
        for one in disturbances:
            index = self._index.get(one.stream)
            if index is None:
                raise ConfigurationError("disturbances.stream", f"the bundle has no stream {one.stream!r}")
            numeric = self.known.schema.streams[index].kind is StreamKind.NUMERIC
            if one.kind == "classes" and numeric:
                raise ConfigurationError("disturbances.kind", f"{one.stream} is no categorical stream")
            if one.kind in ("shift", "spread") and not numeric:
                raise ConfigurationError("disturbances.kind", f"{one.stream} is no numeric stream")

    def windows(self, disturbances: tuple[Disturbance, ...]) -> list[bytes]:
        """The pool of packed windows in which all of these happen."""
        if disturbances not in self._pools:
            self._pools[disturbances] = [self._window(disturbances) for _ in range(POOL)]
        return self._pools[disturbances]

    def _window(self, disturbances: Sequence[Disturbance]) -> bytes:
        schema = self.known.schema
        scalar = [schema.streams[i] for i in schema.scalar_streams]
        values = np.column_stack([self._values(stream, disturbances) for stream in scalar])
        codes = {
            stream.name: self._codes(stream) for stream in schema.streams if stream.kind is StreamKind.CODES
        }
        accumulator = WindowAccumulator(schema)
        accumulator.update(values, codes)
        return accumulator.take()[0].to_bytes()

    def _drawn_bins(self, stream: Stream, count: int) -> npt.NDArray[np.int64]:
        i = self._index[stream.name]
        layout = self.known.baseline.layout
        counts = np.maximum(self.known.baseline.counts[layout[i] : layout[i + 1]], 0).astype(np.float64)
        if not counts.any():
            counts += 1.0
        return self._generator.choice(len(counts), count, p=counts / counts.sum())

    def _values(self, stream: Stream, disturbances: Sequence[Disturbance]) -> Floats:
        bins = self._drawn_bins(stream, self.rows)
        happening = [one for one in disturbances if one.stream == stream.name]
        if stream.kind is StreamKind.CATEGORICAL:
            categories = np.array([*stream.categories, _beyond(stream)], dtype=np.float64)
            values = categories[bins]
        else:
            values = self._within(stream, bins)
        for one in happening:
            values = self._disturbed(stream, values, one)
        return values

    def _within(self, stream: Stream, bins: npt.NDArray[np.int64]) -> Floats:
        edges = np.array(stream.edges)
        if not len(edges):
            return self._generator.normal(stream.center, stream.scale, len(bins))
        i = self._index[stream.name]
        low, high = float(self.known.baseline.low[i]), float(self.known.baseline.high[i])
        first = low if np.isfinite(low) and low < edges[0] else edges[0] - stream.scale
        last = high if np.isfinite(high) and high > edges[-1] else edges[-1] + stream.scale
        bounds = np.concatenate([[first], edges, [last]])
        drawn = bounds[bins] + self._generator.random(len(bins)) * (bounds[bins + 1] - bounds[bins])
        return np.asarray(drawn, dtype=np.float64)

    def _codes(self, stream: Stream) -> Codes:
        drawn = self._drawn_bins(stream, self.rows * _CODES_A_ROW) + stream.lowest_code
        kind = np.int8 if stream.lowest_code < 0 else np.uint8
        return drawn.astype(kind).reshape(self.rows, _CODES_A_ROW)

    def _disturbed(self, stream: Stream, values: Floats, one: Disturbance) -> Floats:
        if one.kind == "shift":
            return values + one.amount * stream.scale
        if one.kind == "spread":
            return stream.center + (values - stream.center) * one.amount
        if one.kind == "stuck":
            return np.full_like(values, values[0])
        chosen = self._generator.random(len(values)) < one.amount
        return np.where(chosen, np.nan if one.kind == "missing" else stream.categories[0], values)


def _beyond(stream: Stream) -> int:
    """A category that the reference did not have."""
    return max(stream.categories, default=0) + 1


def paper_bundle(streams: int, *, window_s: float, seed: int) -> DescribeBody:
    """A description of a model that does not exist, for benchmarks: numeric streams and one of ten classes.

    Args:
        streams: how many, at least 2.
        window_s: length of a window, seconds.
        seed: of the reference.
    """
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(_REFERENCE_ROWS, streams - 1))
    classes = generator.integers(0, 10, _REFERENCE_ROWS).astype(np.float64)
    fitted = [
        fit_numeric(f"input.{i:02d}", values[:, i] * (1 + i) + 10 * i, Role.INPUT) for i in range(streams - 1)
    ]
    fitted.append(fit_categorical("output.class", classes, Role.OUTPUT))
    schema = Schema(fitted)
    accumulator = WindowAccumulator(schema)
    scaled = values * (1 + np.arange(streams - 1)) + 10 * np.arange(streams - 1)
    accumulator.update(np.column_stack([scaled, classes]))
    names = [stream.name for stream in fitted]
    return DescribeBody(
        bundle=f"{seed:016x}" * 4,
        name="simulated",
        version="1",
        model_sha256=f"{seed:016x}" * 4,
        schema=schema.to_dict(),
        baseline=accumulator.take()[0].to_bytes(),
        tau=dict.fromkeys(names, 1.0),
        n_ref=dict.fromkeys(names, float(_REFERENCE_ROWS)),
        smallest_effect=dict.fromkeys(names, 0.02),
        window_s=window_s,
        budget="1 per device-year",
    )
