"""Label shift or covariate shift: does another mix of the same classes explain what the streams show?

Under label shift every class looks as it did and only the mix differs, so the histogram of every stream is
the reference's class histograms in the new mix (Lipton, Wang and Smola 2018). The mix is estimated from the
answers; what it predicts for inputs, confidences and all other streams is then compared with what is there.
An alarm whose streams are explained is called label shift, with the new class shares; one that leaves a
stream unexplained stays what it was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import ABSENT, CELLS, cells_of, fold
from driftpost_sketches.drift.describe import SHARE, Change
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.labels.class_shares import ClassShares, class_shares
from driftpost_sketches.schema import Role, Schema, Stream
from driftpost_sketches.window import Window

FloatArray = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CLEAR = 3.5  # standard errors by which some class's share must have changed
LEAST_CHANGE = 0.03  # of a share, or there is no new mix to speak of
EXPLAINED = 0.7  # of a named stream's change that the mix must account for
UNEXPLAINED = 4.0  # standard deviations of a stream's misfit from which it speaks against the mix
TRIFLE = 0.04  # total variation that may stay unexplained in any stream: real classes are not quite constant
NAMED_CLASSES = 3
# Streams that describe what came in and what came out; times and verdicts follow from other causes.
_ROLES = (Role.INPUT, Role.OUTPUT)


@dataclass(frozen=True)
class Explained:
    """How far the new mix accounts for one stream.

    Attributes:
        stream: its name.
        moved: total variation between now and the reference.
        left: total variation between now and the reference in the new mix.
        misfit: what is left, in standard deviations of chance.
        share: of the change beyond chance that the mix accounts for; 1 where nothing changed.
    """

    stream: str
    moved: float
    left: float
    misfit: float
    share: float


@dataclass(frozen=True)
class ClassMixReading:
    """What the class mix says of some rows.

    Attributes:
        shares: of the true classes (groups), if the mix is the explanation.
        streams: every other stream against it, worst explained first.
        verdict: "label_shift", "covariate" (something else changed), "same" (the mix did not change) or
            "unclear".
        reason: in a clause.
    """

    shares: ClassShares
    streams: tuple[Explained, ...]
    verdict: str
    reason: str


class ClassMix:
    """The reference's streams by true class.

    Args:
        schema: of the windows.
        by_class: int64[T, G, CELLS], labelled reference rows by tracked stream, class and drift cell. Classes
            are grouped as the cells of the stream of answers group them.
        answers: name of the stream of answers.
        tau: float64[T], rows per independent row.
    """

    def __init__(self, schema: Schema, by_class: Ints, answers: str, tau: FloatArray) -> None:
        tracked = [schema.streams[i] for i in schema.tracked_streams]
        names = [stream.name for stream in tracked]
        if answers not in names or by_class.shape[0] != len(tracked) or by_class.shape[2:] != (CELLS,):
            raise MalformedSketch("class histograms do not belong to this schema")
        self._schema = schema
        self._names = names
        self._lead = names.index(answers)
        self._by_class = by_class.astype(np.float64)
        self._tau = np.maximum(tau, 1.0)
        stream = tracked[self._lead]
        groups = by_class.shape[1]
        self.groups = tuple(_group_name(stream, g) for g in range(groups))
        self._others = [t for t, s in enumerate(tracked) if s.role in _ROLES and t != self._lead]

    def cells_of_window(self, window: Window) -> FloatArray:
        """A window's tracked streams as cell counts: float64[T, CELLS]."""
        out = np.zeros((len(self._names), CELLS))
        for t, i in enumerate(self._schema.tracked_streams):
            counts = window.counts[window.layout[i] : window.layout[i + 1]]
            out[t] = fold(self._schema, int(i), counts, int(window.missing[i] + window.nonfinite[i]))
        return np.maximum(out, 0.0)

    def shares(self, cells: FloatArray) -> ClassShares:
        """The class mix behind some rows, whatever else changed."""
        tau = float(self._tau[self._lead])
        return class_shares(
            self._by_class[self._lead][:, :ABSENT], cells[self._lead, :ABSENT], tau, tau, self.groups
        )

    def read(self, cells: FloatArray, named: Sequence[int] = ()) -> ClassMixReading:
        """Judges some rows.

        Args:
            cells: float64[T, CELLS], counts by tracked stream and drift cell.
            named: positions of the tracked streams of an alarm, strongest first.
        """
        shares = self.shares(cells)
        if shares.problem:
            return ClassMixReading(shares, (), "unclear", shares.problem)
        streams = {t: self._explained(t, cells[t], shares) for t in self._others}
        worst = tuple(sorted(streams.values(), key=lambda one: -one.misfit))

        def reading(verdict: str, reason: str) -> ClassMixReading:
            return ClassMixReading(shares, worst, verdict, reason)

        if not shares.possible:
            return reading("covariate", "no mix of the reference's classes gives these answers")
        if shares.significance < CLEAR or float(np.abs(shares.change).max()) < LEAST_CHANGE:
            return reading("same", "the class mix is as usual")
        against = [
            one for one in worst if one.misfit > UNEXPLAINED and one.left > TRIFLE and one.share < EXPLAINED
        ]
        against += [
            streams[t]
            for t in named
            if t in streams
            and streams[t].share < EXPLAINED
            and streams[t].misfit > 2.0
            and streams[t] not in against
        ]
        if against:
            return reading(
                "covariate",
                f"{against[0].stream} does not look as these classes did on the reference",
            )
        if named and not any(t == self._lead or t in streams for t in named):
            return reading("unclear", "neither inputs nor answers are what changed")
        return reading("label_shift", "every stream looks as these classes did on the reference")

    def interpret(self, change: Change, named: Sequence[int], sums: FloatArray) -> Change:
        """Renames an alarm that a new class mix explains; for `Monitor`.

        Args:
            change: as its strongest stream shows it.
            named: positions of its tracked streams, strongest first.
            sums: float64[T, FIELDS] since the onset.
        """
        if change.kind not in ("shift", "scale", "shape", "noisy", "category_share"):
            return change
        reading = self.read(sums[:, :CELLS], named)
        if reading.verdict != "label_shift":
            return change
        shares = reading.shares
        most = int(np.argmax(np.abs(shares.change)))
        size = float(shares.change[most])
        return replace(
            change,
            kind="label_shift",
            effect=size,
            natural=size,
            unit=SHARE,
            direction="up" if size > 0 else "down",
            text=f"each class looks as it did, but their mix changed: {self.words(shares)}",
        )

    def words(self, shares: ClassShares) -> str:
        """The shares that changed most: `'stop' in 34 % of rows (29 to 39 %, was 9 %)`."""
        order = np.argsort(-np.abs(np.nan_to_num(shares.change)), kind="stable")[:NAMED_CLASSES]
        parts = [
            f"{self.groups[g]!r} in {shares.shares[g]:.0%} of rows "
            f"({shares.low[g]:.0%} to {shares.high[g]:.0%}, was {shares.usual[g]:.0%})"
            for g in order
        ]
        return ", ".join(parts)

    def _explained(self, t: int, cells: FloatArray, shares: ClassShares) -> Explained:
        counts = self._by_class[t]
        rows = np.maximum(counts.sum(axis=1), 1.0)
        # Rows without a value stay in the sum: of which classes they are is part of the mix.
        by_class = (counts / rows[:, None])[:, :ABSENT]
        observed = cells[:ABSENT]
        n = float(observed.sum())
        if n < 1.0 or not by_class.any():
            return Explained(self._names[t], 0.0, 0.0, 0.0, 1.0)
        now = observed / n
        expected, whole = _mixed(by_class, shares.shares)
        before, _ = _mixed(by_class, shares.usual)
        tau = float(self._tau[t])
        variance = expected * (1.0 - expected) * tau / n
        weight = shares.shares / whole
        centred = by_class - by_class.sum(axis=1, keepdims=True) * expected
        own = np.maximum(rows / tau, 1.0)
        # Half a row in each cell of the reference: an empty one is not impossible.
        likely = np.minimum(by_class + 0.5 / own[:, None], 0.5)
        variance += (weight**2 / own) @ (likely * (1.0 - likely))
        known = np.nan_to_num(shares.covariance)
        variance += np.einsum("gc,gh,hc->c", centred, known, centred) / whole**2
        variance = np.maximum(variance + 0.25 * (tau / n) ** 2, 1e-12)
        cells_used = int(((expected > 0) | (now > 0)).sum())
        scatter = math.sqrt(2.0 * cells_used)
        after = float(((now - expected) ** 2 / variance).sum()) - cells_used
        initial = float(((now - before) ** 2 / variance).sum()) - cells_used
        excess = max(initial, 0.0)
        unmoved = excess < UNEXPLAINED * scatter and after < 2.0 * scatter
        share = 1.0 if unmoved else 1.0 - max(after, 0.0) / max(excess, 1e-9)
        return Explained(
            self._names[t],
            0.5 * float(np.abs(now - before).sum()),
            0.5 * float(np.abs(now - expected).sum()),
            after / scatter,
            share,
        )


def _mixed(by_class: FloatArray, shares: FloatArray) -> tuple[FloatArray, float]:
    """Class histograms in a mix, summing to 1; and the share of rows that have a value at all."""
    mixed = shares @ by_class
    whole = max(float(mixed.sum()), 1e-9)
    return mixed / whole, whole


def _group_name(stream: Stream, group: int) -> str:
    """Classes that share a drift cell are told as one."""
    bins = np.flatnonzero(cells_of(stream) == group)
    if len(bins) == 1:
        return stream.bin_label(int(bins[0]))
    return "all rarer classes"
