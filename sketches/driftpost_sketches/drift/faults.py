"""What all streams of an alarm say together: the model or its feeding broke, rather than the world changed.

A value at rest is a stuck sensor, but where only answers rest while inputs go on as ever, the model is dead.
An image that went dark is one thing, and pixels that were divided by 255 are another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from driftpost_sketches.drift.describe import SHARE, Change
from driftpost_sketches.drift.reference import Reference
from driftpost_sketches.drift.wrong_scale import scale_mistake
from driftpost_sketches.schema import Role, StreamKind

ALWAYS = 0.98  # share of rows with one and the same answer from which an output counts as dead
LEADING = 8  # strongest streams that are asked for a wrong scale: more would find one by chance
USUALLY = 0.8  # share of that answer in the reference from which this is no news

MOVED = frozenset({"shift", "scale", "noisy", "shape"})  # kinds that a wrong scale may look like

FloatArray = npt.NDArray[np.float64]


def fault_of(
    reference: Reference,
    change: Change,
    order: Sequence[int],
    changed: FloatArray,
    extremes: FloatArray | None,
) -> Change:
    """The change that leads an alarm, renamed where all its streams together say more.

    Args:
        reference: what was normal.
        change: as the leading stream alone shows it.
        order: positions of the named streams, the leading one first.
        changed: float64[T, FIELDS], sums since the onset.
        extremes: float64[T, 2], lowest and highest values of the newest window; None where not known.
    """
    if extremes is not None and change.kind in MOVED:
        for t in order[:LEADING]:
            now = reference.measure(t, changed[t])
            mistake = scale_mistake(reference, t, now, extremes[t])
            if mistake is not None:
                stream = reference.streams[t]
                usual = " to ".join(f"{x:.3g}" for x in reference.extremes[t])
                reads = " to ".join(f"{x:.3g}" for x in extremes[t])
                text = (
                    f"{stream.name} is on the wrong scale, {mistake.words} (it reads {reads}, the reference "
                    f"{usual} {stream.unit}".rstrip()
                    + ")"
                )
                return replace(change, kind="wrong_scale", text=text)
    if not all(reference.streams[t].role is Role.OUTPUT for t in order):
        return change
    found = _dead(reference, change, order[0], changed)
    fed = any(stream.role is Role.INPUT for stream in reference.streams)
    if found is change and fed and change.kind in (*MOVED, "category_share"):
        return replace(change, text=f"{change.text}, while no input stream moved: the model, or its classes")
    return found


def _dead(reference: Reference, change: Change, t: int, changed: FloatArray) -> Change:
    stream = reference.streams[t]
    if change.kind == "stuck":
        return replace(change, kind="dead", text=f"{change.text}, while no input does: a dead output")
    now = reference.measure(t, changed[t])
    cell = int(now.shares.argmax())
    share, usual = float(now.shares[cell]), float(reference.shares[t, cell])
    if stream.kind is not StreamKind.CATEGORICAL or share < ALWAYS or usual >= USUALLY:
        return change
    label = stream.bin_label(min(cell, stream.n_bins - 1))
    text = (
        f"{stream.name} is {label!r} in {share:.1%} of rows (was {usual:.1%}), while no input changed: "
        "a dead output"
    )
    return Change("dead", share - usual, share - usual, SHARE, "up", text)
