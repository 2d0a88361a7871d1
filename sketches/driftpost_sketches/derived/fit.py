"""Fitting derived streams to a reference, in the order of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from driftpost_sketches.derived.fit_season import FittedSeason, fit_season, unasked
from driftpost_sketches.derived.fit_slices import fit_slices
from driftpost_sketches.derived.plan import DerivedPlan
from driftpost_sketches.derived.profile import FloatArray
from driftpost_sketches.derived.wishes import SeasonWish, SliceWish
from driftpost_sketches.errors import CalibrationError
from driftpost_sketches.fitting import fit_numeric
from driftpost_sketches.schema import MAX_NAME, Schema, Stream, StreamKind


@dataclass(frozen=True)
class Derived:
    """A reference with its derived streams.

    Attributes:
        plan: computes them.
        schema: the given streams, those that a seasonal one replaces no longer watched, and the derived ones.
        values: float64[n, S + D], the reference's values; seasonal ones by courses that have not seen them.
        ceiling: what `Calibration.fit` takes, by stream.
        notes: what the owner should know, in sentences.
    """

    plan: DerivedPlan
    schema: Schema
    values: FloatArray
    ceiling: Mapping[str, float]
    notes: tuple[str, ...]


def fit_derived(
    schema: Schema,
    values: FloatArray,
    *,
    seconds: FloatArray | None = None,
    season: SeasonWish | None = None,
    slices: SliceWish | None = None,
) -> Derived:
    """Fits the derived streams that were asked for.

    Args:
        schema: the given streams, fitted to this reference.
        values: float64[n, S], their values in time order.
        seconds: float64[n], since 1970 by the season's clock, rising; None where times are not known.
        season: the season asked for.
        slices: the slices asked for.

    Raises:
        CalibrationError: a wish that does not fit the streams, or a reference that is too short for it; the
            message says what is needed.
    """
    columns = tuple(schema.streams[i].name for i in schema.scalar_streams)
    if seconds is not None:
        _check_times(seconds, len(values))
    fitted = FittedSeason(None, {}, ())
    if season is not None:
        fitted = fit_season(schema, columns, values, seconds, season)
    elif seconds is not None:
        fitted = replace(fitted, notes=unasked(schema, columns, values, seconds))
    plan, notes = DerivedPlan(columns, fitted.season), fitted.notes
    if slices is not None:
        chosen, more = fit_slices(schema, plan, values, slices)
        plan, notes = replace(plan, slices=chosen), (*notes, *more)
    wide = _unseen(plan, fitted, plan.apply(values, seconds))
    given = [replace(s, tracked=s.tracked and s.name not in fitted.profiles) for s in schema.streams]
    wider = Schema([*given, *_streams(plan, given, wide)])
    return Derived(plan, wider, wide, _ceiling(plan, fitted), notes)


def _check_times(seconds: FloatArray, rows: int) -> None:
    if len(seconds) != rows or not rows:
        raise CalibrationError(f"there are {len(seconds)} times for {rows} rows")
    rising = np.diff(seconds) >= 0
    if not rising.all() or not np.isfinite(seconds[0]):
        row = int(np.flatnonzero(~rising)[0]) + 1 if not rising.all() else 0
        raise CalibrationError(
            f"rows are not in the order of time: row {row:,} is earlier than the one before, or has no time"
        )


def _unseen(plan: DerivedPlan, fitted: FittedSeason, wide: FloatArray) -> FloatArray:
    """The reference's own seasonal values by courses that have not seen them; what is absent stays so."""
    if plan.season is None:
        return wide
    first, place = len(plan.columns), {}
    for at, profile in enumerate(fitted.profiles.values(), start=first):
        own = np.isfinite(wide[:, at])
        wide[own, at] = profile.left[own]
        place[plan.names[at - first]] = at
    for at, one in enumerate(plan.slices, start=first + len(place)):
        if one.stream in place:
            own = np.isfinite(wide[:, at])
            wide[own, at] = wide[own, place[one.stream]]
    return wide


def _streams(plan: DerivedPlan, given: list[Stream], wide: FloatArray) -> list[Stream]:
    """The derived streams with bins of their own."""
    known = {stream.name: stream for stream in given}
    sources = [] if plan.season is None else [one.stream for one in plan.season.streams]
    sources += [one.stream for one in plan.slices]
    derived = []
    for at, (name, source) in enumerate(zip(plan.names, sources, strict=True), start=len(plan.columns)):
        if len(name) > MAX_NAME:
            raise CalibrationError(f"the derived stream {name[:60]!r}... would have too long a name")
        base = known[source]
        if base.kind is StreamKind.CATEGORICAL:
            stream = replace(base, name=name, partial=True, tracked=True)
        else:
            stream = replace(fit_numeric(name, wide[:, at], base.role, base.unit), partial=True)
        known[name] = stream
        derived.append(stream)
    return derived


def _ceiling(plan: DerivedPlan, fitted: FittedSeason) -> dict[str, float]:
    if plan.season is None:
        return {}
    found = {plan.season.name(name): profile.independent for name, profile in fitted.profiles.items()}
    # A slice can not know the course any better.
    found.update({one.name: found[one.stream] for one in plan.slices if one.stream in found})
    return found
