"""How far merged windows are from their baseline: one number each, computed once."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, and_, select

from driftpost_aggregator.store import tables
from driftpost_aggregator.web.models import Model
from driftpost_aggregator.web.queries.series import MAX_POINTS, Sampling
from driftpost_sketches.drift.effect import PSI_FLOOR, Effect, effect_sizes, reference_spread
from driftpost_sketches.schema import StreamKind
from driftpost_sketches.window import FIXED_POINT, Window
from driftpost_sketches.window_batch import WindowBatch

# Numbers remembered; about 200 bytes each.
_MAX_REMEMBERED = 50_000
# A change counts beyond this many of its standard errors: with 40 streams one in a thousand cells lights up
# by chance.
STANDARD_ERRORS = 3.5

_rollup = tables.rollups.c


@dataclass(frozen=True)
class Change:
    """The largest change in one merged window.

    Attributes:
        start_ms: Unix time of its start.
        bucket_s: How long it stands for, seconds.
        size: Reference standard deviations beyond what chance does, not negative.
        stream: Which stream changed most; "" if none beyond chance.
    """

    start_ms: int
    bucket_s: int
    size: float
    stream: str


def beyond_chance(model: Model, effect: Effect, index: int, window: Window) -> float:
    """Size of one stream's change in reference standard deviations, less what chance does at this many rows.

    Numbers are judged by their mean, everything else by the square root of its population stability index:
    for a shifted normal both say the same.
    """
    stream = model.schema.streams[index]
    rows = float(window.finite()[index]) / max(1.0, model.tau.get(stream.name, 1.0))
    if rows < 1:
        return 0.0
    if stream.kind is StreamKind.NUMERIC:
        size = abs(effect.sd_shift) - STANDARD_ERRORS / math.sqrt(rows)
    else:
        noise = stream.n_bins / rows * (1 + STANDARD_ERRORS * math.sqrt(2.0 / stream.n_bins))
        size = math.sqrt(max(0.0, effect.psi - noise))
    return max(0.0, size) if math.isfinite(size) else 0.0


def largest_change(model: Model, window: Window) -> tuple[float, str]:
    """Size and stream of the largest change of any tracked stream."""
    best, name = 0.0, ""
    for index, effect in enumerate(effect_sizes(model.schema, model.baseline, window)):
        if model.schema.streams[index].tracked:
            size = beyond_chance(model, effect, index, window)
            if size > best:
                best, name = size, effect.stream
    return best, name


def largest_changes(model: Model, packed: Sequence[bytes]) -> list[tuple[float, str]]:
    """`largest_change` of many windows, all of them at a time."""
    batch = WindowBatch(model.schema, packed, model.joint)
    # What the bundle's owner has described anew is measured by no old ruler.
    found = [(0.0, "")] * len(batch)
    good = [at for at in range(len(batch)) if at not in batch.refused]
    if good:
        changes = _Yardstick(model).largest([batch.window(at) for at in good])
        for at, change in zip(good, changes, strict=True):
            found[at] = change
    return found


class _Yardstick:
    """What a bundle's windows are measured by, as arrays over its tracked streams."""

    def __init__(self, model: Model) -> None:
        schema = model.schema
        self._offsets = schema.offsets
        self._places = np.array(
            [i for i, stream in enumerate(schema.streams) if stream.tracked], dtype=np.intp
        )
        streams = [schema.streams[i] for i in self._places]
        then = [model.baseline.summary(schema, int(i)) for i in self._places]
        self._names = [stream.name for stream in streams]
        self._numeric = np.array([stream.kind is StreamKind.NUMERIC for stream in streams])
        self._tau = np.array([max(1.0, model.tau.get(stream.name, 1.0)) for stream in streams])
        self._center = np.array([stream.center for stream in streams])
        self._scale = np.array([stream.scale for stream in streams])
        self._mean = np.array([one.mean for one in then])
        self._spread = np.array(
            [reference_spread(one.std, stream) for one, stream in zip(then, streams, strict=True)]
        )
        self._had = np.array([one.n > 0 for one in then])
        self._others = [
            (at, int(self._places[at]), np.maximum(one.share, PSI_FLOOR), streams[at].n_bins)
            for at, one in enumerate(then)
            if not self._numeric[at]
        ]
        # Without edges nobody knows a stream's scale: its windows have no mean.
        self._scaled = np.array([bool(stream.edges) for stream in streams])

    def largest(self, windows: Sequence[Window]) -> list[tuple[float, str]]:
        """As `largest_change`, of each."""
        counts = np.stack([window.counts for window in windows])
        finite = np.add.reduceat(counts, self._offsets[:-1], axis=1)[:, self._places]
        sum1 = np.stack([window.sum1 for window in windows])[:, self._places]
        n = np.maximum(finite, 0).astype(np.float64)
        rows = n / self._tau
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = self._center + self._scale * sum1 / n / FIXED_POINT
            shift = np.abs((mean - self._mean) / self._spread)
            size = np.where(self._numeric & self._scaled, shift - STANDARD_ERRORS / np.sqrt(rows), 0.0)
            for at, index, then, bins in self._others:
                there = counts[:, self._offsets[index] : self._offsets[index + 1]]
                now = np.maximum(there / n[:, at, np.newaxis], PSI_FLOOR)
                psi = ((now - then) * np.log(now / then)).sum(axis=1)
                noise = bins / rows[:, at] * (1 + STANDARD_ERRORS * math.sqrt(2.0 / bins))
                size[:, at] = np.sqrt(np.maximum(0.0, psi - noise))
        size = np.where(self._had & (rows >= 1) & np.isfinite(size), np.maximum(size, 0.0), 0.0)
        if not self._names:
            return [(0.0, "")] * len(windows)
        best = size.argmax(axis=1)
        return [
            (float(sizes[at]), self._names[at]) if sizes[at] > 0 else (0.0, "")
            for sizes, at in zip(size, best, strict=True)
        ]


class Changes:
    """Largest changes of merged windows, each computed once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str, str, int, int, int], tuple[float, str]] = OrderedDict()

    def over(
        self, connection: Connection, model: Model, scope: str, scope_key: str, *, from_ms: int, to_ms: int
    ) -> list[Change]:
        """The course of one scope under one bundle, oldest first; of a long span, evenly spaced buckets."""
        sampling = Sampling.of(
            connection, scope, scope_key, model.bundle, from_ms=from_ms, to_ms=to_ms, each=1
        )
        if sampling is None:
            return []
        length = sampling.length_s
        here = and_(
            _rollup.scope == scope,
            _rollup.scope_key == scope_key,
            _rollup.bundle == model.bundle,
            _rollup.bucket_s == length,
        )
        heads = connection.execute(
            select(_rollup.bucket_start_ms, _rollup.updated_ms)
            .where(
                here,
                _rollup.bucket_start_ms > sampling.from_ms - length * 1000,
                _rollup.bucket_start_ms <= to_ms,
                sampling.reads(_rollup.bucket_start_ms),
            )
            .order_by(_rollup.bucket_start_ms)
            .limit(MAX_POINTS + 2)
        ).all()
        keys = {
            start: (scope, scope_key, model.bundle, length, int(start), int(updated))
            for start, updated in heads
        }
        with self._lock:
            found = {start: self._known.get(key) for start, key in keys.items()}
        unknown = [start for start, change in found.items() if change is None]
        if unknown:
            result = connection.execute(
                select(_rollup.bucket_start_ms, _rollup.window).where(
                    here, _rollup.bucket_start_ms.in_(unknown)
                )
            )
            rows = result.all()
            sizes = largest_changes(model, [bytes(row.window) for row in rows])
            found |= {row.bucket_start_ms: size for row, size in zip(rows, sizes, strict=True)}
            with self._lock:
                for start in unknown:
                    change = found[start]
                    if change is not None:
                        self._known[keys[start]] = change
                while len(self._known) > _MAX_REMEMBERED:
                    self._known.popitem(last=False)
        return [
            Change(int(start), length * sampling.stride, change[0], change[1])
            for start, change in found.items()
            if change is not None
        ]
