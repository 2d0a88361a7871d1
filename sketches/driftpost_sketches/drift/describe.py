"""What a change is: its kind, its size in units a person can judge, and a sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from driftpost_sketches.cells import ABSENT
from driftpost_sketches.drift.alarm import evidence_in_words
from driftpost_sketches.drift.bets import Family
from driftpost_sketches.drift.reference import Measured, Reference
from driftpost_sketches.drift.stillness import explain_repeats
from driftpost_sketches.schema import StreamKind

NEARLY_ALL = 0.9  # share of rows from which a state counts as the only one
MORE_REPEATS = 0.02  # share of exact repeats above the reference's that is a coarser grid
ONE_CELL = 0.9  # share of exact repeats within one cell from which they are of one value
PILED_UP = 0.1  # share of rows above the reference's in an end cell that may be saturation
GATHERED = 0.07  # the same where rows repeat exactly: how few they are tells only how soon they were noticed
CLEAR_SHIFT = 0.5  # reference standard deviations; what a spike on one cell amounts to
CLEAR_SPREAD = math.log(1.25)
NOISY_LAG = 0.1  # loss of correlation between neighbours that tells added noise from a larger swing
CONSTANT = 50.0  # standard deviations above which a distance says only that the reference hardly moved

LIMITS_UNIT = "of codes"  # unit of streams that count a tensor's values at the ends of their range
SHARE = "share"  # unit of changes that are differences of shares of rows


@dataclass(frozen=True)
class Change:
    """A change in one stream.

    Attributes:
        kind: one of `driftpost_sketches.drift.alarm.KINDS`.
        effect: reference standard deviations for a shift or shape, relative change of the standard deviation
            for a scale or noise, difference of shares of rows for the others.
        natural: the same in `unit`.
        unit: the stream's unit, or "share".
        direction: "up", "down" or "none".
        text: clause without the evidence, such as "brightness is 0.21 lower (2.4 reference sd, ...)".
    """

    kind: str
    effect: float
    natural: float
    unit: str
    direction: str
    text: str


def describe(reference: Reference, t: int, family: Family, now: Measured) -> Change:
    """Names the change that stream `t` shows.

    Args:
        reference: what was normal.
        t: position among tracked streams.
        family: of the bet that leads.
        now: the stream since the estimated onset.
    """
    stream = reference.streams[t]
    before = reference.shares[t]
    absent = float(now.shares[ABSENT] - before[ABSENT])
    repeats = now.repeats - float(reference.repeats[t])
    if family is Family.ABSENT or absent > 0.5:
        side = "more" if absent > 0 else "fewer"
        text = (
            f"{stream.name} is missing in {now.shares[ABSENT]:.1%} of rows ({side} than {before[ABSENT]:.1%})"
        )
        return Change("missing", absent, absent, SHARE, _side(absent), text)
    if reference.persistence and now.repeats >= NEARLY_ALL and repeats > 0.3:
        value = "" if math.isnan(now.mean) else f" at {_number(now.mean, stream.unit)}"
        text = f"{stream.name} is stuck{value}: {now.repeats:.0%} of rows repeat the one before exactly"
        return Change("stuck", repeats, repeats, SHARE, "none", text)
    if stream.kind is StreamKind.CATEGORICAL:
        if reference.persistence and repeats > MORE_REPEATS and _one_run(reference, t, now):
            return _sticking(stream.name, repeats, now)
        return _categories(reference, t, family, now)
    if reference.persistence and repeats > MORE_REPEATS:
        still = explain_repeats(reference, t, now)
        if still.kind == "stuck":
            return _sticking(stream.name, repeats, now)
        if still.kind == "saturated" and still.gathered >= GATHERED:
            side = "upper" if still.side == "up" else "lower"
            share = now.shares[still.cell]
            text = f"{stream.name} is saturated: {share:.0%} of rows lie at its {side} end"
            return Change("saturated", still.gathered, still.gathered, SHARE, still.side, text)
        if family is Family.STUCK:
            often = f"{now.repeats:.0%} of rows repeat the one before exactly"
            text = f"{stream.name} moves in coarse steps: {often}"
            return Change("quantized", repeats, repeats, SHARE, "none", text)
    return _numbers(reference, t, family, now)


def _sticking(name: str, repeats: float, now: Measured) -> Change:
    text = f"{name} has begun to stick: {now.repeats:.0%} of rows repeat the one before exactly"
    return Change("stuck", repeats, repeats, SHARE, "none", text)


def _categories(reference: Reference, t: int, family: Family, now: Measured) -> Change:
    stream, before = reference.streams[t], reference.shares[t]
    change = now.shares - before
    change[ABSENT] = 0.0
    unseen = reference.unseen(t)
    if family is Family.UNSEEN and unseen is not None:
        share = float(change[unseen])
        where = f"{now.shares[unseen]:.1%} of rows (was {before[unseen]:.1%})"
        text = f"{stream.name} shows unknown categories in {where}"
        return Change("new_category", share, share, SHARE, _side(share), text)
    cell = int(np.abs(change).argmax())
    share = float(change[cell])
    label = stream.bin_label(min(cell, stream.n_bins - 1)) if cell != unseen else "other"
    text = f"{stream.name} is {label!r} in {now.shares[cell]:.1%} of rows (was {before[cell]:.1%})"
    return Change("category_share", share, share, SHARE, _side(share), text)


def _numbers(reference: Reference, t: int, family: Family, now: Measured) -> Change:
    stream = reference.streams[t]
    swing = math.log(max(now.spread, 1e-3))
    kind = {Family.LOCATION: "shift", Family.SCALE: "scale"}.get(family, "shape")
    # A slow stream's mean over few rows lies anywhere; that is no second change beside the one that leads.
    wanders = 2.0 * math.sqrt(float(reference.tau[t]) / now.rows)
    if family is not Family.LOCATION and abs(now.shift) >= max(CLEAR_SHIFT, wanders) * max(1.0, now.spread):
        kind = "shift"
    elif kind == "shape" and abs(swing) >= CLEAR_SPREAD:
        kind = "scale"
    if kind == "scale":
        usual = float(reference.lag[t])
        if swing > 0 and reference.persistence and now.lag < usual - NOISY_LAG - 3.0 / math.sqrt(now.rows):
            kind = "noisy"
        natural = (now.spread - 1.0) * float(reference.spreads[t])
        side = "wider" if swing > 0 else "narrower"
        times = f"{now.spread:.2f} times the reference's spread"
        text = f"{stream.name} swings {side}, {times}"
        if kind == "noisy":
            text = f"{stream.name} is noisy: {times}, and less alike from row to row"
        return Change(kind, now.spread - 1.0, natural, stream.unit, _side(swing), text)
    mean = "" if math.isnan(now.mean) else f"mean {_number(now.mean, stream.unit)}"
    was = f"was {_number(float(reference.means[t]), stream.unit)}"
    if stream.unit == LIMITS_UNIT and now.natural >= PILED_UP and now.shift >= CLEAR_SHIFT:
        often = f"{now.mean:.0%} of its codes stand at their limits (was {float(reference.means[t]):.0%})"
        return Change("saturated", now.shift, now.natural, stream.unit, "up", f"{stream.name}: {often}")
    if kind == "shift":
        side = "higher" if now.shift > 0 else "lower"
        size = f"{abs(now.shift):.1f}" if abs(now.shift) < CONSTANT else f"more than {CONSTANT:.0f}"
        amount = _number(abs(now.natural), stream.unit)
        text = f"{stream.name} is {amount} {side} ({size} reference sd; {mean}, {was})"
        return Change(kind, now.shift, now.natural, stream.unit, _side(now.shift), text)
    moved = 0.5 * float(np.abs(now.shares - reference.shares[t]).sum())
    text = f"{stream.name} has another shape: {moved:.0%} of rows lie elsewhere ({mean}, {was})"
    return Change(kind, now.shift, now.natural, stream.unit, _side(now.shift), text)


def sentence(change: Change, others: tuple[str, ...], log_e: float, windows_ago: int) -> str:
    """One readable sentence for an alarm."""
    when = (
        "in this window"
        if windows_ago == 0
        else f"since about {windows_ago} window{'s' * (windows_ago > 1)} ago"
    )
    shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    beside = f"; with it {shown}" if others else ""
    return f"{change.text} {when}{beside}; {evidence_in_words(log_e)}."


def _one_run(reference: Reference, t: int, now: Measured) -> bool:
    """Whether a category's exact repeats are one run: what gives the answer stuck in mid-window.

    Categories repeat by chance, and their runs last as long as in the reference; that much is no news.
    """
    if now.stays < ONE_CELL * now.repeats:
        return False
    before = reference.shares[t]
    once, coming = float(before @ before), float(now.shares @ now.shares)
    lasting = max(float(reference.repeats[t]) - once, 0.0) / max(1.0 - once, 1e-9)
    return now.repeats > (1.0 + coming + lasting * (1.0 - coming)) / 2


def _side(value: float) -> str:
    return "up" if value > 0 else "down" if value < 0 else "none"


def _number(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}".rstrip()
