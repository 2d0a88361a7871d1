"""Concept shift: do delayed labels say that the model has become worse, or better, than on its reference?

Every batch of labels (a window's, a device's hour, a cohort's) moves the evidence of a few fixed bets on the
error rate, of all answers and of each class answered, through the Shiryaev-Roberts recursion (e-detector;
Shin, Ramdas and Rinaldo 2022). Under the null the error rate lies within the reference's, give or take the
reference's own error and the smallest change worth knowing. Evidence is divided by how many rows carry as
much as one independent row (`dependence.py`).

What is assumed: labelled answers are a fair sample of all answers of their slice. Labels that are asked for
because an answer looked wrong are not.
"""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from driftpost_sketches.drift.alarm import Alarm, evidence_in_words
from driftpost_sketches.drift.describe import SHARE
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.labels import concept_state
from driftpost_sketches.labels.betting import confidence_sequence, log_evidence
from driftpost_sketches.labels.dependence import Dependence
from driftpost_sketches.labels.error_rate import Rate, StandingConcept
from driftpost_sketches.labels.label_sketch import LabelSketch
from driftpost_sketches.labels.reliability import STEPS

Floats = npt.NDArray[np.float64]

STREAM = "error_rate"  # what an alarm is about; of a slice "error_rate:stop"
# Odds of an error times exp of this. Gentler ones could never pay for a year's threshold with the labels of a
# year.
STRENGTHS = 0.05 * 2.0 ** (np.arange(14) / 2.0)
WORSE = 0.8  # weight of bets that errors became more; that they became fewer is news, but nobody's night
OVERALL = 0.5  # weight of all answers against the slices
MAX_SLICES = 16  # classes that are watched by themselves, those answered most
MIN_SLICE_ROWS = 30  # labelled rows of the reference below which a class is no slice
MISLED = 0.01  # probability that the reference's own error feeds any bet; less for small budgets
MEMBER = 0.4  # share of the threshold at which a slice is named in an alarm
CERTAIN = 1e-4  # rates nearer to 0 or 1 than this can not be bet beyond
IDLE = 1e-3  # charged for every batch: a bet that can not win must not reach the threshold by the calendar
MOST = 1e6  # log evidence is capped here
ROWS, LOSS, ALL_ROWS, ALL_LOSS = range(4)


class ConceptDetector:
    """Watches the labels of one model; state of constant size.

    Args:
        reference: labelled rows of the reference.
        independent: rows of the reference that count as one independent row.
        log_threshold: from `Budget.log_threshold`, of the labels' share of the budget.
        smallest_effect: smallest change worth knowing, in standard deviations of the reference's losses.
        classes: display names, empty where unknown.

    Attributes:
        usual: float64[groups], the reference's error rates: of all answers, then of each slice.
        null: float64[2, groups], rates up to which nothing is gained upwards, and downwards.
        id: 16 bytes that name these bets: a state belongs to them.
        dependence: how errors cluster.
        log_r: float64[2, groups, N], logs of the Shiryaev-Roberts statistics, upwards and downwards.
        climb: likewise, CUSUM of the log evidence.
        run: likewise, batches since each CUSUM was last zero.
        since: float64[4, 2, groups, N], rows and loss of the group, and of all answers, in these batches.
        total: float64[2], rows and loss since the detector began, or since the last change.
        raised: the alarm that stands, if any.
    """

    def __init__(
        self,
        reference: LabelSketch,
        independent: float,
        log_threshold: float,
        smallest_effect: float = 0.02,
        classes: tuple[str, ...] = (),
    ) -> None:
        if reference.rows < 1:
            raise MalformedSketch("a reference without labels says nothing about error rates")
        self._classes = reference.classes
        self._log_threshold = log_threshold
        self._slices = _slices(reference)
        self._names = [STREAM, *(f"{STREAM}:{_name(c, classes)}" for c in self._slices)]
        rows, loss = self._sums(reference)
        self.usual = loss / rows
        groups = len(rows)
        errors = NormalDist().inv_cdf(1.0 - min(MISLED, 30.0 * math.exp(-log_threshold)) / (2 * groups))
        effective = np.maximum(rows / max(independent, 1.0), 1.0)
        # Half an error more than was seen: a reference without any does not make errors impossible.
        rate = (loss + 0.5) / (rows + 1.0)
        self._spread = np.sqrt(rate * (1.0 - rate))
        above = np.array([_bound(p, n, errors) for p, n in zip(self.usual, effective, strict=True)])
        below = np.array(
            [1.0 - _bound(1.0 - p, n, errors) for p, n in zip(self.usual, effective, strict=True)]
        )
        # A smallest change in deviations needs a deviation: of a rate that few errors tell it is the largest
        # that the rate may have. A slice without any error would otherwise call its first two a change.
        plausible = np.clip(np.stack([self.usual, above, below]), 0.0, 1.0)
        gate = smallest_effect * np.maximum(self._spread, np.sqrt(plausible * (1.0 - plausible)).max(axis=0))
        self.null = np.stack([np.minimum(above + gate, 1.0), np.maximum(below - gate, 0.0)])
        share = np.full(groups, (1.0 - OVERALL) / max(groups - 1, 1))
        share[0] = OVERALL if groups > 1 else 1.0
        weights = np.array([WORSE, 1.0 - WORSE])[:, None] * share
        # Nothing can be gained by betting on less than no errors, or on more than all.
        share = np.where(np.stack([self.null[0] < 1.0 - CERTAIN, self.null[1] > CERTAIN]), weights, 0.0)
        with np.errstate(divide="ignore"):
            self._log_weights = np.log(np.repeat(share[..., None] / len(STRENGTHS), len(STRENGTHS), axis=2))
        digest = hashlib.sha256(repr((log_threshold, independent, self._slices, self._classes)).encode())
        digest.update(self.null.tobytes() + self._log_weights.tobytes())
        self.id = digest.digest()[:16]
        self.dependence = Dependence(max(independent, 1.0))
        shape = self._log_weights.shape
        self.log_r = np.full(shape, -np.inf)
        self.climb, self.run, self.since = np.zeros(shape), np.zeros(shape), np.zeros((4, *shape))
        self.total = np.zeros(2)
        self.raised: StandingConcept | None = None

    @property
    def standing(self) -> tuple[Alarm, ...]:
        """The alarm that stands, if any."""
        return () if self.raised is None else (self.raised.alarm,)

    def rate(self) -> Rate:
        """Error rate since the detector began, or since the onset of the change that it last reported."""
        rows, loss = (float(value) for value in self.total)
        independent = self.dependence.independent
        low, high = confidence_sequence(rows, loss, independent)
        return Rate(round(rows), loss / rows if rows else math.nan, low, high, independent)

    def evidence(self) -> float:
        """Log of all evidence together; -inf while there is none."""
        return float(np.logaddexp.reduce(self._log_weights + self.log_r, axis=None))

    def step(self, batch: LabelSketch) -> list[Alarm]:
        """Reads a batch of labels, at most one for each window.

        Returns:
            Alarms raised or cleared by it; mostly none.

        Raises:
            MalformedSketch: labels of a model with other classes.
        """
        if batch.classes != self._classes:
            raise MalformedSketch(f"labels of {batch.classes} classes, the reference has {self._classes}")
        if not batch.rows:
            return []
        rows, loss = self._sums(batch)
        self.dependence.update(float(rows[0]), float(loss[0]), batch.moves)
        independent = self.dependence.independent
        self.total += rows[0], loss[0]
        sides = zip((STRENGTHS, -STRENGTHS), self.null, strict=True)
        log_e = np.stack([log_evidence(side, null, rows, loss) for side, null in sides]) / independent
        moved = np.broadcast_to((rows > 0)[:, None], log_e.shape)
        step = np.clip(np.logaddexp(self.log_r, 0.0) + log_e - IDLE, -MOST, MOST)
        self.log_r = np.where(moved, step, self.log_r)
        self.climb = np.clip(self.climb + log_e, 0.0, MOST)
        climbing = self.climb > 0.0
        self.run = np.where(climbing, self.run + 1.0, 0.0)
        for field, added in enumerate((rows[:, None], loss[:, None], rows[0], loss[0])):
            self.since[field] = np.where(climbing, self.since[field] + added, 0.0)
        if self.raised is not None:
            return self._read(self.raised, rows, loss, independent)
        if self.evidence() < self._log_threshold:
            return []
        return [self._raise(independent)]

    def state_to_bytes(self) -> bytes:
        """The whole state, a few kB."""
        return concept_state.encode(self)

    def restore(self, data: bytes) -> None:
        """Takes up a state where it was left; unchanged where that is refused.

        Raises:
            MalformedSketch: the bytes are no such state.
            UnsupportedVersion: written by a newer format.
            IncompatibleSketch: of another reference, threshold or version of the bets; start afresh then.
        """
        concept_state.restore(self, data)

    def _sums(self, sketch: LabelSketch) -> tuple[Floats, Floats]:
        """Rows and losses of all answers and of each slice: float64[groups] twice."""
        rows, loss = [float(sketch.rows)], [sketch.loss / STEPS]
        if self._slices:
            of_answer, wrong = sketch.by_answer()
            rows += [float(of_answer[c]) for c in self._slices]
            loss += [float(wrong[c]) for c in self._slices]
        return np.array(rows), np.array(loss)

    def _raise(self, independent: float) -> Alarm:
        scaled = self._log_weights + self.log_r
        side, group, bet = (int(i) for i in np.unravel_index(int(np.argmax(scaled)), scaled.shape))
        log_e = self.evidence()
        rows, loss, all_rows, all_loss = (float(x) for x in self.since[:, side, group, bet])
        changed, usual = loss / max(rows, 1.0), float(self.usual[group])
        ago = max(int(self.run[side, group, bet]) - 1, 0)
        strength = np.maximum(np.logaddexp.reduce(scaled[side], axis=1), 0.0)
        order = [group, *(int(g) for g in np.argsort(-strength, kind="stable") if g != group)]
        named = [g for g in order if g == group or strength[g] >= MEMBER * self._log_threshold]
        total = float(strength[named].sum()) or 1.0
        low, high = confidence_sequence(rows, loss, independent)
        way = "worse" if side == 0 else "better"
        where = f"answers {self._names[group].partition(':')[2]!r}" if group else "answers"
        when = "in this batch of labels" if ago == 0 else f"since about {ago} batches of labels ago"
        text = (
            f"the model became {way}: {changed:.1%} of {rows:,.0f} labelled {where} are wrong "
            f"(was {usual:.1%}; "
            f"95 % certain between {low:.1%} and {high:.1%}) {when}; {evidence_in_words(log_e)}."
        )
        alarm = Alarm(
            state="raised",
            streams=tuple((self._names[g], float(strength[g]) / total) for g in named),
            kind="concept",
            log_e=log_e,
            effect=(changed - usual) / float(self._spread[group]),
            effect_natural=changed - usual,
            unit=SHARE,
            direction="up" if changed >= usual else "down",
            onset_windows_ago=ago,
            text=text,
        )
        self.raised = StandingConcept(alarm, group, changed)
        self.total[:] = all_rows, all_loss
        self.log_r[...] = -np.inf
        return alarm

    def _read(self, raised: StandingConcept, rows: Floats, loss: Floats, independent: float) -> list[Alarm]:
        """Holds an alarm until there is as much evidence for the reference as the alarm took."""
        self.log_r[...] = -np.inf
        n, x = float(rows[raised.group]), float(loss[raised.group])
        # Against what still passes for usual on that side, not against the reference to the digit.
        side = 0 if raised.changed >= self.usual[raised.group] else 1
        usual = min(
            max(0.5 * float(self.usual[raised.group] + self.null[side, raised.group]), 1e-4), 1 - 1e-4
        )
        changed = min(max(raised.changed, 1e-4), 1.0 - 1e-4)
        gain = x * math.log(usual / changed) + (n - x) * math.log((1.0 - usual) / (1.0 - changed))
        raised.back = min(max(raised.back + gain / independent, 0.0), MOST)
        if raised.back < self._log_threshold:
            return []
        self.raised = None
        said = raised.alarm
        self.climb[...] = self.run[...] = self.since[...] = 0.0
        self.total[:] = 0.0
        text = f"{said.streams[0][0]}: labels are answered as well as on the reference again."
        return [
            Alarm(
                "cleared", said.streams, said.kind, raised.back, said.effect, said.effect_natural, said.unit,
                said.direction, said.onset_windows_ago, text,
            )
        ]  # fmt: skip


def _slices(reference: LabelSketch) -> tuple[int, ...]:
    """Classes whose answers are watched by themselves, ascending."""
    if not reference.classes:
        return ()
    rows, _ = reference.by_answer()
    often = np.argsort(-rows, kind="stable")[:MAX_SLICES]
    return tuple(sorted(int(c) for c in often if rows[c] >= MIN_SLICE_ROWS))


def _name(number: int, classes: tuple[str, ...]) -> str:
    return classes[number] if number < len(classes) else str(number)


def _bound(rate: float, rows: float, errors: float) -> float:
    """Largest mean that a rate seen in so many independent rows may still have (Chernoff's bound).

    `rows * KL(rate, bound) = errors^2 / 2`: for a normal mean it is `errors` standard errors away.
    """
    limit = errors * errors / 2.0 / rows
    low, high = rate, 1.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        if _divergence(rate, middle) < limit:
            low = middle
        else:
            high = middle
    return high


def _divergence(p: float, q: float) -> float:
    gain = p * math.log(p / q) if p > 0 else 0.0
    return gain + (
        (1.0 - p) * math.log((1.0 - p) / (1.0 - q)) if p < 1 and q < 1 else math.inf if p < 1 else 0.0
    )
