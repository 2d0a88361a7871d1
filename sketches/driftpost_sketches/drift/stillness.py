"""Why a number repeats itself: it is stuck, it stands at a limit, or it moves in coarse steps.

All three show as exact repeats. They differ in where the rows go. A stuck sensor takes a share of all rows to
one place. A limit takes the rows that lay beyond it, and nothing from the other side. A grid takes every row
to its nearest point, so several places gain and repeats are spread over them. Each explanation predicts cell
shares for a part of the rows (an alarm's windows hold rows from before the change), the first two also how
often rows repeat; the most likely one is named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import ABSENT
from driftpost_sketches.drift.reference import Measured, Reference

FloatArray = npt.NDArray[np.float64]

PARTS = np.linspace(0.1, 1.0, 19)  # of the rows that may have changed
STEPS = 2.0 ** np.arange(-2.5, 1.6, 0.5)  # of a grid, reference standard deviations; finer ones move no cell
PHASES = 6  # places that a grid may begin at, per step
ONE_CELL = 0.9  # share of exact repeats within one cell from which they may be of one value
BREAKS = 3.0  # times that rows should have left a limit; e^-3 is the chance that they never did
LEAST = 1e-3  # share of rows that any cell may have by accident, under any explanation


@dataclass(frozen=True)
class Stillness:
    """The best explanation.

    Attributes:
        kind: "stuck", "saturated" or "quantized".
        cell: where rows gather; -1 for a grid.
        side: "up" or "down" for a limit, else "none".
        gathered: share of rows at the limit above the reference's; 0 for others.
    """

    kind: str
    cell: int
    side: str
    gathered: float


def explain_repeats(reference: Reference, t: int, now: Measured) -> Stillness:
    """The most likely of the three for a numeric stream whose rows repeat.

    Args:
        reference: what was normal.
        t: position among tracked streams.
        now: the stream since the estimated onset.
    """
    before = np.maximum(reference.shares[t, :ABSENT], 0.0)
    before = before / max(float(before.sum()), 1e-12)
    present = max(1.0 - float(now.shares[ABSENT]), 1e-12)
    shares = now.shares[:ABSENT] / present
    counts = shares * now.rows * present / max(float(reference.tau[t]), 1.0)
    used = int(np.flatnonzero((before > 0) | (shares > 0)).max(initial=0)) + 1
    usual = float(reference.repeats[t])
    best, chosen = -math.inf, Stillness("quantized", -1, "none", 0.0)
    candidates = _grids(reference, t, before, used)
    together = now.stays >= ONE_CELL * now.repeats
    if together or not candidates:
        if _one_run(now, usual):
            candidates += _stuck(used)
        candidates += _limits(before, used, reference.flow[t])
    repeated = now.repeats * now.rows / max(float(reference.tau[t]), 1.0)
    for predicted, repeats, stillness in candidates:
        mixed = PARTS[:, None] * predicted + (1.0 - PARTS)[:, None] * before
        likely = np.log(mixed + LEAST) @ counts + _of_repeats(now, PARTS, repeats, usual)
        if together and stillness.kind == "quantized":
            # That all repeats should have met one of the grid's points takes luck.
            likely += repeated * math.log(float((predicted**2).max() / (predicted**2).sum()))
        if float(likely.max()) > best:
            part = float(PARTS[int(likely.argmax())])
            best, chosen = float(likely.max()), stillness
            if stillness.kind == "saturated":
                gathered = part * float(predicted[stillness.cell] - before[stillness.cell])
                chosen = Stillness(stillness.kind, stillness.cell, stillness.side, gathered)
    if chosen.kind == "saturated" and together and _too_long(reference.flow[t], chosen, now, usual):
        return Stillness("stuck", chosen.cell, "none", 0.0)
    return chosen


def _one_run(now: Measured, usual: float) -> bool:
    """Whether the repeats beyond the reference's may be one run: at a limit or on a grid rows come and go."""
    chance = usual * now.rows
    return now.runs <= 1.0 + chance + 2.0 * math.sqrt(chance)


def _too_long(flow: FloatArray, limit: Stillness, now: Measured, usual: float) -> bool:
    """Whether one run of repeats is longer than rows stay beyond a limit in the reference."""
    beyond = slice(limit.cell, None) if limit.side == "up" else slice(0, limit.cell + 1)
    leaving = 1.0 - float(flow[beyond, beyond].sum()) / max(float(flow[beyond].sum()), 1e-12)
    return _one_run(now, usual) and now.repeats * now.rows * leaving >= BREAKS


_Candidate = tuple[FloatArray, "tuple[float, float] | None", Stillness]


def _stuck(used: int) -> list[_Candidate]:
    return [(np.eye(ABSENT)[cell], (1.0, 1.0), Stillness("stuck", cell, "none", 0.0)) for cell in range(used)]


def _limits(before: FloatArray, used: int, flow: FloatArray) -> list[_Candidate]:
    """Each cell may hold a limit, for what lies above or for what lies below it."""
    found: list[_Candidate] = []
    for side in ("up", "down"):
        for cell in range(used):
            beyond = slice(cell + 1, used) if side == "up" else slice(0, cell)
            at = slice(cell, used) if side == "up" else slice(0, cell + 1)
            predicted = before.copy()
            predicted[beyond] = 0.0
            predicted[cell] += float(before[beyond].sum())
            # The limit lies somewhere within the cell: none or all of its rows stand at it.
            repeats = float(flow[beyond, beyond].sum()), float(flow[at, at].sum())
            found.append((predicted, repeats, Stillness("saturated", cell, side, 0.0)))
    return found


def _grids(reference: Reference, t: int, before: FloatArray, used: int) -> list[_Candidate]:
    """Grids of many steps and phases, with the reference's distribution spread evenly within its cells."""
    edges = np.array(reference.streams[t].edges)
    if len(edges) < 2 or used != len(edges) + 1:
        return []
    spread = float(reference.spreads[t])
    below = np.concatenate([[0.0], np.cumsum(before[: len(edges)]), [1.0]])
    borders = np.concatenate([[edges[0] - spread], edges, [edges[-1] + spread]])
    found: list[_Candidate] = []
    for step in STEPS * spread:
        for phase in np.arange(PHASES) / PHASES:
            first = (math.floor(borders[0] / step) - 1 + phase) * step
            points = first + step * np.arange(int((borders[-1] - first) / step) + 2)
            mass = np.diff(np.interp(np.append(points - step / 2, points[-1] + step / 2), borders, below))
            predicted = np.bincount(
                np.searchsorted(edges, points, side="right"), weights=mass, minlength=ABSENT
            ).astype(np.float64)
            found.append((predicted, None, Stillness("quantized", -1, "none", 0.0)))
    return found


def _of_repeats(
    now: Measured, parts: FloatArray, repeats: tuple[float, float] | None, usual: float
) -> FloatArray:
    """Log likelihood of the observed repeats for each part, in rows; the best within the range allowed."""
    n = max(now.rows, 1.0)
    seen = float(np.clip(now.repeats, 1.0 / n, 1.0 - 0.5 / n))
    if repeats is None:
        share = np.full_like(parts, seen)
        # A free rate fits by itself; half a log row is what that is worth.
        freedom = 0.5 * math.log(n)
    else:
        low, high = (parts * rate + (1.0 - parts) * usual for rate in repeats)
        share = np.clip(np.clip(seen, low, high), 1.0 / n, 1.0 - 0.5 / n)
        # The place of a limit within its cell is free, but seldom fits as well as a rate would.
        freedom = 0.0 if repeats[0] == repeats[1] else 0.2 * math.log(n)
    likely: FloatArray = n * (seen * np.log(share) + (1.0 - seen) * np.log(1.0 - share)) - freedom
    return likely
