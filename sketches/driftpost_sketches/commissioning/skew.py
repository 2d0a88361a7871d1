"""Installed differently: what a device's own normal has that the training data did not.

Not drift: it is there from the first row on and stays. It is measured once, on all rows of the
commissioning, and said as a finding of its own with a size for each stream.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from driftpost_sketches.cells import ABSENT, fold
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.effect import Effect, effect_of
from driftpost_sketches.drift.reference import unseen_cell
from driftpost_sketches.schema import Stream, StreamKind
from driftpost_sketches.window import Window

UNSEEN_SHARE = 0.005  # of rows in categories that training did not know, from which they are told
SHOWN = 4  # streams named in the sentence


@dataclass(frozen=True)
class Difference:
    """One stream here and in training.

    Attributes:
        stream: its name.
        errors: the difference beyond the smallest change worth knowing, in its own standard errors.
        effect: training standard deviations for a shift, relative change of a spread, else a share of rows.
        natural: the same in `unit`.
        unit: the stream's unit, or "share".
        direction: "up", "down" or "none".
        text: clause for people.
    """

    stream: str
    errors: float
    effect: float
    natural: float
    unit: str
    direction: str
    text: str


@dataclass(frozen=True)
class Skew:
    """All streams that are different here.

    Attributes:
        rows: on which it was measured.
        differences: the most certain first; never empty.
    """

    rows: int
    differences: tuple[Difference, ...]

    @property
    def streams(self) -> tuple[tuple[str, float], ...]:
        """(name, share): streams weighted by how certain each difference is."""
        total = sum(d.errors for d in self.differences)
        return tuple((d.stream, d.errors / total) for d in self.differences)

    @property
    def text(self) -> str:
        """One sentence for people."""
        shown = "; ".join(d.text for d in self.differences[:SHOWN])
        more = len(self.differences) - SHOWN
        rest = f"; and {more} more stream{'s' * (more > 1)}" if more > 0 else ""
        return (
            f"installed differently from the training data: {shown}{rest} (over {self.rows:,} rows; this is "
            "the device's own normal now, and changes are measured against it)."
        )


def find_skew(
    training: Calibration, here: Window, tau: Mapping[str, float], log_threshold: float
) -> Skew | None:
    """Compares what a device saw while commissioning with the training data.

    Every score of a stream (location, scale, skew, tails; shares of categories) is compared at the effective
    size of both sides. What differs by less than the stream's smallest effect, or by less than an alarm's
    evidence, is none: a Gaussian tail of exp(-log_threshold) over all scores together.

    Args:
        training: the bundle's.
        here: all windows of the commissioning, of the training's schema.
        tau: rows that count as one independent row here, by stream.
        log_threshold: what an alarm takes.

    Raises:
        IncompatibleSketch: the window is of another schema.
    """
    here.check(training.schema)
    tests = sum(len(chain.scores) + 1 for chain in training.chains)
    least = math.sqrt(2.0 * (log_threshold + math.log(max(tests, 1))))
    found = []
    for t, i in enumerate(training.schema.tracked_streams):
        stream = training.schema.streams[i]
        errors = _errors(training, t, int(i), here, max(tau.get(stream.name, 1.0), 1.0))
        if errors < least:
            continue
        found.append(_difference(stream, effect_of(training.schema, training.baseline, here, int(i)), errors))
    found.sort(key=lambda difference: -difference.errors)
    return Skew(here.rows, tuple(found)) if found else None


def _errors(training: Calibration, t: int, i: int, here: Window, tau: float) -> float:
    """Largest difference of a score beyond the smallest effect, in standard errors."""
    schema, chain = training.schema, training.chains[t]
    absent = int(here.missing[i] + here.nonfinite[i])
    counts = fold(schema, i, here.counts[schema.offsets[i] : schema.offsets[i + 1]], absent)
    rows = float(counts.sum())
    if rows <= 0.0:
        return 0.0
    shares = counts / rows
    margins = training.margins(t)
    sizes = 1.0 / max(rows / tau, 1.0), 1.0 / max(margins.independent, 1.0)
    most = 0.0
    for score in chain.scores:
        mean = float(shares @ score)
        spread = float(shares @ score**2) - mean * mean
        usual = float(chain.shares @ score**2) - float(chain.shares @ score) ** 2
        error = math.sqrt(max(spread, 1e-6) * sizes[0] + max(usual, 1e-6) * sizes[1])
        gap = abs(mean - float(chain.shares @ score))
        most = max(most, (gap - margins.effect * math.sqrt(max(usual, 1e-6))) / error)
    unseen = unseen_cell(schema.streams[i])
    for cell in (ABSENT,) if unseen is None else (ABSENT, unseen):
        now, then = float(shares[cell]), float(chain.shares[cell])
        error = math.sqrt(max(now * (1 - now), 1e-9) * sizes[0] + max(then * (1 - then), 1e-9) * sizes[1])
        if now - then > UNSEEN_SHARE:
            most = max(most, (now - then - UNSEEN_SHARE) / error)
    return most


def _difference(stream: Stream, effect: Effect, errors: float) -> Difference:
    if abs(effect.missing_change) >= 0.05:
        share = effect.missing_change
        text = f"{stream.name} is missing in {abs(share):.1%} {'more' if share > 0 else 'fewer'} rows"
        return Difference(stream.name, errors, share, share, "share", "up" if share > 0 else "down", text)
    if stream.kind is StreamKind.NUMERIC:
        swing = math.log(max(effect.std_ratio, 1e-3))
        if abs(effect.sd_shift) >= abs(swing):
            side = "higher" if effect.sd_shift > 0 else "lower"
            amount = f"{abs(effect.natural_shift):.3g} {stream.unit}".rstrip()
            text = f"{stream.name} is {amount} {side} ({abs(effect.sd_shift):.2g} training sd)"
            return Difference(
                stream.name,
                errors,
                effect.sd_shift,
                effect.natural_shift,
                stream.unit,
                effect.direction,
                text,
            )
        text = f"{stream.name} spreads {effect.std_ratio:.2f} times as much"
        size = effect.std_ratio - 1.0
        return Difference(stream.name, errors, size, size, "", "up" if swing > 0 else "down", text)
    change = effect.share_change
    label = stream.bin_label(effect.largest_bin)
    side = "more" if change > 0 else "fewer"
    text = f"{stream.name} is {label!r} in {abs(change):.1%} {side} rows"
    return Difference(stream.name, errors, change, change, "share", effect.direction, text)
