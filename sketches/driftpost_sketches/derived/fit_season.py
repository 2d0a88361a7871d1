"""Fitting a season: its phases, and the usual course of every stream that has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches.derived.choice import every_numeric, named
from driftpost_sketches.derived.phase import DAY_S, HOUR_OF_DAY, STREAM, Phase, clock_phase, context_phase
from driftpost_sketches.derived.profile import MAX_SEGMENTS, Profile, Rows, fit_profile
from driftpost_sketches.derived.season import Season, Seasonal
from driftpost_sketches.derived.wishes import SeasonWish
from driftpost_sketches.errors import CalibrationError
from driftpost_sketches.schema import Schema, StreamKind

MIN_TURNS = 2.0  # of the clock; with one, a habit can not be told from a chance
FEW_TURNS = 4.0  # below it the course is uncertain enough to say so
ROWS_EACH = 8  # rows of a phase below which phases are made coarser
COARSEST = 4  # phases; fewer are no course
CONTEXT_ROWS = 100  # rows of a phase of a context
STRONG = 0.1  # share of the variance from which a cycle that nobody asked for is mentioned

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FittedSeason:
    """What became of a wish.

    Attributes:
        season: None where no stream has a course.
        profiles: by stream, in the season's order.
        notes: what the owner should know.
    """

    season: Season | None
    profiles: Mapping[str, Profile]
    notes: tuple[str, ...]


def fit_season(
    schema: Schema, columns: Sequence[str], values: FloatArray, seconds: FloatArray | None, wish: SeasonWish
) -> FittedSeason:
    """Fits the courses of the streams that a wish names, or of all that have one.

    Args:
        schema: the streams.
        columns: their names in the order of the columns.
        values: float64[n, S], in time order.
        seconds: float64[n], by the season's clock; None where not known.
        wish: by what, and which.

    Raises:
        CalibrationError: the wish does not fit the streams, or the reference is too short for it.
    """
    context = wish.by[len(STREAM) :] if wish.by.startswith(STREAM) else None
    if context is not None:
        named(schema, (context,), (StreamKind.NUMERIC, StreamKind.CATEGORICAL), "a season's context")
        column = values[:, columns.index(context)]
        phase = context_phase(schema, context, column, CONTEXT_ROWS)
        rows, notes = _context_rows(phase, column), list[str]()
    else:
        phase = clock_phase(wish.by)
        if seconds is None:
            raise CalibrationError(f"a season by {phase.words} needs the time of each reference row")
        phase, rows, notes = _clock_rows(phase, seconds)
    if wish.streams is None:
        chosen = every_numeric(schema, but=context)
    else:
        chosen = named(schema, wish.streams, (StreamKind.NUMERIC,), "a season")
        if context in chosen:
            raise CalibrationError(f"a season: {context!r} can not go by itself")
    fitted = {name: fit_profile(values[:, columns.index(name)], rows) for name in chosen}
    found = {name: profile for name, profile in fitted.items() if profile is not None}
    without = [name for name in chosen if name not in found]
    notes += _about(phase, found, without if wish.streams is not None or not found else ())
    if not found:
        return FittedSeason(None, {}, tuple(notes))
    courses = tuple(
        Seasonal(name, tuple(p.usual.tolist()), tuple(p.factor.tolist()), p.level)
        for name, p in found.items()
    )
    return FittedSeason(Season(phase, wish.local, courses), found, tuple(notes))


def unasked(
    schema: Schema, columns: Sequence[str], values: FloatArray, seconds: FloatArray
) -> tuple[str, ...]:
    """A note on streams that follow the hour of day strongly though nobody asked for a season."""
    try:
        _, rows, _ = _clock_rows(clock_phase(HOUR_OF_DAY), seconds)
    except CalibrationError:
        return ()  # too short to tell, and nothing was asked
    strong = []
    for name in every_numeric(schema):
        profile = fit_profile(values[:, columns.index(name)], rows)
        if profile is not None and profile.explained >= STRONG:
            strong.append(f"{name} ({profile.explained:.0%} of its variance)")
    if not strong:
        return ()
    return (
        f"a daily cycle shows in {', '.join(strong)}: ask for a season by {HOUR_OF_DAY} to be told of "
        "changes beyond it, and sooner",
    )


def _about(phase: Phase, found: Mapping[str, Profile], without: Sequence[str]) -> list[str]:
    notes = []
    if found:
        shares = ", ".join(f"{name} ({p.explained:.0%})" for name, p in found.items())
        notes.append(
            f"watched against what is usual for the {phase.words}, and no longer by themselves: {shares} "
            "(in brackets, the share of variance that this explains)"
        )
        unknown = np.isnan([p.usual for p in found.values()]).any(axis=0)
        if unknown.any():
            notes.append(
                f"{int(unknown.sum())} of {phase.count} phases of the {phase.words} are not in two parts of "
                "the reference: seasonal streams say nothing in them"
            )
    if without:
        notes.append(
            f"no course by {phase.words} predicts better than a constant, so these are watched as they are: "
            + ", ".join(without)
        )
    return notes


def _clock_rows(phase: Phase, seconds: FloatArray) -> tuple[Phase, Rows, list[str]]:
    """Phases that the reference fills, and where its rows stand."""
    span = float(seconds[-1] - seconds[0])
    # The last row lasts as long as the others.
    span += span / max(len(seconds) - 1, 1)
    turns = span / phase.period_s
    what = "days" if phase.period_s < 2 * DAY_S else "weeks"
    if turns < MIN_TURNS - 1e-9:
        more = (MIN_TURNS - turns) * phase.period_s
        raise CalibrationError(
            f"the reference covers {turns:.1f} {what}; a season by {phase.words} needs {MIN_TURNS:g} at the "
            f"least, and {2 * FEW_TURNS:g} to be sure of it: add {_words(more)} in time order"
        )
    notes = []
    if turns < FEW_TURNS:
        notes.append(
            f"the reference covers only {turns:.1f} {what}: what is usual for the {phase.words} is "
            "uncertain, and small changes stay unseen because of it"
        )
    asked, place = phase.count, phase.of_seconds(seconds)
    while phase.count > COARSEST:
        counts = np.bincount(np.floor(place).astype(np.int64), minlength=phase.count)
        if np.median(counts[counts > 0]) >= ROWS_EACH:
            break
        phase = phase.with_count(max(n for n in range(1, phase.count) if phase.count % n == 0))
        place = phase.of_seconds(seconds)
    if phase.count < asked:
        notes.append(
            f"the reference has too few rows for {asked} phases of the {phase.words}; "
            f"there are {phase.count} now"
        )
    # Whole turns are left out in turn; what hangs over belongs to the last one unless it is half a turn.
    whole = max(int(turns + 0.5), 2)
    turn = np.minimum(((seconds - seconds[0]) / phase.period_s).astype(np.int64), whole - 1)
    return phase, Rows(place, phase.count, True, turn * min(whole, MAX_SEGMENTS) // whole), notes


def _context_rows(phase: Phase, column: FloatArray) -> Rows:
    found = phase.of_values(column)
    place = np.where(found < 0, np.nan, found.astype(np.float64))
    segment = np.arange(len(column), dtype=np.int64) * MAX_SEGMENTS // max(len(column), 1)
    return Rows(place, phase.count, False, segment)


def _words(seconds: float) -> str:
    days = seconds / DAY_S
    return f"{days:.1f} days" if days >= 0.95 else f"{days * 24:.0f} hours"
