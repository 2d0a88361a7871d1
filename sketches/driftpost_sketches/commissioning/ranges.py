"""First phase of commissioning: what values do streams of unknown range or vocabulary take?

Numbers go into KLL, categories into frequent items and HLL: bounded memory, whatever comes. From them
follow edges, categories, center and scale: a schema.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from driftpost_sketches import packing
from driftpost_sketches.datasketches.frequent_items import FrequentItems
from driftpost_sketches.datasketches.hll import HllSketch
from driftpost_sketches.datasketches.kll import KllSketch
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.fitting import MAX_CATEGORIES, fit_categorical, fit_numeric
from driftpost_sketches.schema import Schema, Stream, StreamKind

KLL_K = 200  # ranks to about 1.3 %, in 5 kB
LG_ITEMS = 10  # every category above 0.35 % of rows is found
LG_DISTINCT = 10  # different categories to about 3 %, in 0.6 kB
POINTS = 4096  # equally weighted values that stand for a stream when its edges are fitted
MAX_BLOB = 1 << 20  # bytes of one stream's sketches

Values = npt.NDArray[np.float64]


class Ranges:
    """Sketches of streams whose bins are not known yet.

    Args:
        streams: numeric and categorical ones; their edges and categories are not used, but a categorical
            stream's known categories stay known.

    Attributes:
        streams: as given.
        rows: seen so far.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.streams = tuple(streams)
        self.rows = 0
        self._numbers = {i: KllSketch(KLL_K) for i, s in enumerate(streams) if s.kind is StreamKind.NUMERIC}
        self._categories = {
            i: (FrequentItems(LG_ITEMS), HllSketch(LG_DISTINCT))
            for i, s in enumerate(streams)
            if s.kind is StreamKind.CATEGORICAL
        }

    def update(self, values: Values) -> None:
        """Takes rows: float64[rows, streams]; what is not finite says nothing about a range."""
        self.rows += len(values)
        for i, kll in self._numbers.items():
            column = values[:, i]
            kll.update(column[np.isfinite(column)])
        for i, (items, distinct) in self._categories.items():
            column = values[:, i]
            whole = np.isfinite(column) & (np.rint(column) == column) & (np.abs(column) <= 2.0**53)
            found = column[whole].astype(np.int64)
            items.update(found)
            distinct.update(found)

    def schema(self) -> tuple[Schema, tuple[str, ...]]:
        """Streams with bins, all tracked, and what a person should know about them."""
        streams, notes = [], []
        for i, stream in enumerate(self.streams):
            if i in self._numbers:
                points = _points(self._numbers[i])
                fitted = fit_numeric(stream.name, points, stream.role, stream.unit)
                if not len(points):
                    notes.append(f"{stream.name}: no value was seen; only its absence is watched")
            else:
                items, distinct = self._categories[i]
                fitted = _fit_categories(stream, items)
                different = distinct.estimate()
                if different > len(fitted.categories) + 1:
                    notes.append(
                        f"{stream.name}: about {different:,.0f} different categories; the "
                        f"{len(fitted.categories)} most frequent have bins of their own"
                    )
            streams.append(dataclasses.replace(fitted, partial=stream.partial))
        return Schema(streams), tuple(notes)

    def to_bytes(self) -> bytes:
        """The state; the streams are not in it."""
        blobs = []
        for i in range(len(self.streams)):
            if i in self._numbers:
                blobs.append(packing.blob_bytes(self._numbers[i].to_bytes()))
            else:
                blobs += [packing.blob_bytes(sketch.to_bytes()) for sketch in self._categories[i]]
        return self.rows.to_bytes(8, "little") + b"".join(blobs)

    def restore(self, data: bytes) -> None:
        """Takes up a state.

        Raises:
            MalformedSketch: it is none, or of other streams.
        """
        reader = packing.Reader(data)
        rows = int.from_bytes(reader.take(8), "little")
        numbers, categories = {}, {}
        for i in range(len(self.streams)):
            if i in self._numbers:
                numbers[i] = KllSketch.from_bytes(reader.blob(MAX_BLOB))
                seen = numbers[i].n
            else:
                categories[i] = (
                    FrequentItems.from_bytes(reader.blob(MAX_BLOB)),
                    HllSketch.from_bytes(reader.blob(MAX_BLOB)),
                )
                seen = categories[i][0].weight
            if seen > rows:
                raise MalformedSketch("a stream of a commissioning has more values than rows")
        reader.finish()
        self.rows, self._numbers, self._categories = rows, numbers, categories


def _points(kll: KllSketch) -> Values:
    """Values that stand for all that were seen, with both extremes."""
    if kll.empty:
        return np.zeros(0)
    if kll.n <= POINTS:
        values, weights = kll.weighted()
        middle = np.repeat(values, weights)
    else:
        middle = kll.quantiles((np.arange(POINTS) + 0.5) / POINTS)
    return np.concatenate([[kll.low], middle, [kll.high]])


def _fit_categories(stream: Stream, items: FrequentItems) -> Stream:
    """Bins for what was seen most, and for what the bundle knows already as far as there is room."""
    counted = [(int(item), count) for item, count in items.frequent()]
    seen = [item for item, _ in counted]
    known = [*stream.categories, *(item for item in seen if item not in set(stream.categories))]
    if len(known) > MAX_CATEGORIES:
        known = [*seen, *(item for item in stream.categories if item not in set(seen))][:MAX_CATEGORIES]
    weight = max(items.weight, 1)
    column = np.repeat(
        np.array(seen, dtype=np.float64),
        np.array([max(POINTS * count // weight, 1) for _, count in counted], dtype=np.int64),
    )
    labels = dict(zip(stream.categories, stream.labels, strict=True)) if stream.labels else {}
    return fit_categorical(
        stream.name, column, stream.role, labels, categories=sorted(known), unit=stream.unit
    )
