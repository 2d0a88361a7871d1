"""Inputs on another scale than the reference's: a mistake of preprocessing or of a unit, guessed in words.

Worlds seldom change by a factor of 255. Where a stream's values, all of them, are those of the reference
times a usual factor or less a usual offset, the most likely cause is a missing or doubled conversion. The
guess only names an alarm that stands by its evidence; it raises none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import ABSENT
from driftpost_sketches.drift.reference import Measured, Reference
from driftpost_sketches.schema import Role, StreamKind
from driftpost_sketches.window import CLIP

FULL_SCALE = "of full scale"  # unit of streams that read images in shares between black and white
DECIBEL = "dB"

FAR = 3.0  # reference standard deviations, or times its spread, below which the world may well have done it
FAR_OFFSET = 8.0  # the same for offsets of columns: among a hundred columns some move by nearly 128
MEAN_FITS = 0.75  # standard deviations of the mapped reference that a window's mean may be off
SPREAD_FITS = 1.6  # times that its spread may be off; a window of slow rows shows part of it only
SPREAD_ALONE = 1.2  # the same around zero, where a mean tells nothing
END_FITS = 0.3  # mapped ranges of 98 % of the reference that an extreme may lie off the usual one
JUMP_FITS = 0.15  # of the way to the mapped mean that a mixed window's mean may be off
ENDS_ALONE = 2.0  # misfit of an explanation by extremes; above any by moments
OUTSIDE = 0.1  # mapped reference ranges beyond the reference's own extremes
PILED_UP = 0.1  # share of rows above the reference's beyond whose end cell a mixed window shows the mistake


@dataclass(frozen=True)
class Mistake:
    """What may have happened to values before they came here: x became factor * x + offset."""

    factor: float
    offset: float
    words: str


_FACTORS = {
    255.0: "0 to 255 where 0 to 1 was usual",
    127.5: "-128 to 127 where -1 to 1 was usual",
    100.0: "per cent instead of shares, or hundredths of the unit",
    1000.0: "thousandths of the unit",
    32768.0: "16-bit samples where -1 to 1 was usual",
}
_INVERSES = {
    255.0: "divided by 255 once too often",
    127.5: "-1 to 1 where -128 to 127 was usual",
    100.0: "shares instead of per cent, or hundreds of the unit",
    1000.0: "thousands of the unit",
    32768.0: "-1 to 1 where 16-bit samples were usual",
}
_NATURAL = (
    *(Mistake(f, 0.0, f"{f:g} times the reference's values: {words}") for f, words in _FACTORS.items()),
    *(Mistake(1 / f, 0.0, f"1/{f:g} of the reference's values: {words}") for f, words in _INVERSES.items()),
    Mistake(1.0, -128.0, "the reference's values less 128, as between uint8 and int8"),
    Mistake(1.0, 128.0, "the reference's values plus 128, as between int8 and uint8"),
    Mistake(1.0, 273.15, "kelvin instead of degrees Celsius"),
    Mistake(1.0, -273.15, "degrees Celsius instead of kelvin"),
    Mistake(1.8, 32.0, "degrees Fahrenheit instead of Celsius"),
    Mistake(1 / 1.8, -32.0 / 1.8, "degrees Celsius instead of Fahrenheit"),
)
_HALF = 128.0 / 255.0
_SHARES = (
    Mistake(1 / 255, 0.0, "1/255 of the reference's: pixels from 0 to 1 where 0 to 255 are expected"),
    Mistake(255.0, 0.0, "255 times the reference's: pixels from 0 to 255 where 0 to 1 are expected"),
    Mistake(1.0, -_HALF, "less by 128 of 255: pixels from -128 to 127 where 0 to 255 are expected"),
    Mistake(1.0, _HALF, "more by 128 of 255: pixels from 0 to 255 where -128 to 127 are expected"),
    Mistake(2.0, -1.0, "stretched to both sides: pixels from -1 to 1 where 0 to 1 are expected"),
    Mistake(0.5, 0.5, "in the upper half: pixels from 0 to 1 where -1 to 1 are expected"),
    Mistake(127.5, 0.5, "127 times the reference's: pixels from 0 to 255 where -1 to 1 are expected"),
    Mistake(2 / 255, -1 / 255, "2/255 of the reference's: pixels from -1 to 1 where 0 to 255 are expected"),
    Mistake(1 / 127.5, 0.5, "flat in the middle: pixels from -1 to 1 where -128 to 127 are expected"),
)
_DECIBELS = tuple(
    Mistake(1.0, sign * 20.0 * math.log10(f), words[f])
    for sign, words in ((1.0, _FACTORS), (-1.0, _INVERSES))
    for f in words
)


def scale_mistake(
    reference: Reference, t: int, now: Measured, extremes: npt.NDArray[np.float64]
) -> Mistake | None:
    """The mistake that explains what stream `t` shows best, if any does.

    Args:
        reference: what was normal.
        t: position among tracked streams.
        now: the stream since the estimated onset.
        extremes: float64[2], its lowest and highest value in the newest window.
    """
    stream = reference.streams[t]
    usual_low, usual_high = (float(x) for x in reference.extremes[t])
    low, high = float(extremes[0]), float(extremes[1])
    if stream.kind is not StreamKind.NUMERIC or stream.role is not Role.INPUT:
        return None
    # What stands still has no scale.
    if not (usual_high > usual_low and low < high and math.isfinite(low) and math.isfinite(high)):
        return None
    known = {FULL_SCALE: _SHARES, DECIBEL: _DECIBELS}.get(stream.unit, _NATURAL)
    fits = [(_misfit(reference, t, now, (low, high), mistake), mistake) for mistake in known]
    misfit, best = min(fits, key=lambda fit: fit[0])
    return best if math.isfinite(misfit) else None


def _misfit(
    reference: Reference, t: int, now: Measured, seen: tuple[float, float], mistake: Mistake
) -> float:
    """How badly a mistake explains a stream; infinite where it does not."""
    a, b = mistake.factor, mistake.offset
    mean, spread = float(reference.means[t]), float(reference.spreads[t])
    far = FAR_OFFSET if b and mistake in _NATURAL else FAR
    if abs(a * mean + b - mean) < far * spread and 1 / FAR < a < FAR:
        return math.inf
    center, scale = reference.streams[t].center, reference.streams[t].scale
    if max(abs(x - center) for x in seen) < CLIP * scale and now.spread > 0:
        off = abs(now.mean - (a * mean + b)) / (a * spread)
        ratio = abs(math.log(now.spread / a))
        tells_nothing = abs(mean) < spread and b == 0.0
        if off <= MEAN_FITS and ratio <= math.log(SPREAD_ALONE if tells_nothing else SPREAD_FITS):
            return off + ratio
        if a >= FAR:
            return math.inf  # such a factor leads beyond the clip
    return _misfit_of_ends(reference, t, now, seen, mistake)


def _misfit_of_ends(
    reference: Reference, t: int, now: Measured, seen: tuple[float, float], mistake: Mistake
) -> float:
    """The same from the extremes alone: beyond the moments' clip, and where a window is mixed."""
    before = reference.shares[t, :ABSENT]
    last = int(np.flatnonzero(before > 0).max(initial=0))
    if max(float(now.shares[0] - before[0]), float(now.shares[last] - before[last])) < PILED_UP:
        return math.inf
    a, b = mistake.factor, mistake.offset
    low, high = (float(x) for x in reference.extremes[t])
    width = a * (high - low)
    far = 0 if low - seen[0] > seen[1] - high else 1
    if low <= seen[far] <= high:
        return math.inf
    # All values lie where the mistake puts the reference's, but for rows from before it.
    for x in seen:
        mapped = a * low + b - OUTSIDE * width <= x <= a * high + b + OUTSIDE * width
        if not mapped and (x == seen[far] or not low <= x <= high):
            return math.inf
    # Rows that left went all the way: none lie between, so the clipped mean follows from how many left.
    mean, spread = float(reference.means[t]), float(reference.spreads[t])
    center, reach = reference.streams[t].center, CLIP * reference.streams[t].scale
    cell = 0 if far == 0 else last
    mixed = low <= seen[1 - far] <= high
    if mixed and b and a == 1.0 and abs(mean + b - center) > reach:
        return math.inf  # beyond the clip, a tail that grew looks the same
    part = float(now.shares[cell] - before[cell]) / max(1.0 - float(before[cell]), 1e-9)
    jump = min(max(a * mean + b, center - reach), center + reach) - mean
    if abs(now.mean - mean - part * jump) > JUMP_FITS * abs(jump) + spread:
        return math.inf
    # A window's outermost rows lie about as far out as one in a hundred of the reference's.
    edges = reference.streams[t].edges
    usual = (edges[0], edges[-1]) if len(edges) > 1 else (low, high)
    off = abs(seen[far] - (a * usual[far] + b)) / (a * (usual[1] - usual[0]))
    # Extremes say less than moments: they decide only where those explain nothing.
    return ENDS_ALONE + off if off <= END_FITS else math.inf
