"""From evidence to alarms: accumulate, decide, hold, clear. Shared by the device's and the fleet's detector.

Each bet's evidence runs through the Shiryaev-Roberts recursion R <- (R + 1) * L (e-detector; Shin, Ramdas
and Rinaldo 2022): its weighted sum over bets and streams reaches A on average no sooner than after A
windows, under any dependence between them. Beside it runs the CUSUM of each bet, which remembers where the
climb began: the onset.

An alarm is held: the families of bets that say so (per stream) are silent until the change is over. Evidence
that reaches the threshold later belongs to it and is silenced as well if it comes from a named stream that is
still where it was at the alarm, or if a good part of it was there when the alarm was raised. Anything else is
another change and raises another alarm: a false alarm that stands must not hide a true one elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from driftpost_sketches.drift.alarm import Alarm
from driftpost_sketches.drift.bets import FAMILIES, Bets, Family
from driftpost_sketches.drift.describe import Change, describe, sentence
from driftpost_sketches.drift.faults import fault_of
from driftpost_sketches.drift.log_sums import log_sum, log_sums
from driftpost_sketches.drift.recent import Recent
from driftpost_sketches.drift.reference import FIELDS, Reference
from driftpost_sketches.drift.standing import Standing, patience_for

FloatArray = npt.NDArray[np.float64]

# (change, positions of the named streams, float64[T, FIELDS] since the onset) -> change
Interpret = Callable[[Change, Sequence[int], FloatArray], Change]

GRACE = 1  # windows after an alarm in which an onset still counts as the same change
# Evidence of another stream joins an alarm while it is younger than this many windows, or at most this many
# times as old as the time that both needed before it: at a steady climb a fifth of the evidence was there.
JOIN_WINDOWS, JOIN_FACTOR = 10, 4
WANDER = 0.2  # share of the evidence an alarm takes below which a CUSUM idles; a climb begins above it
# A stream is named in an alarm at this share of the evidence that it would take alone, and never below odds
# of a hundred to one: at a lax budget that share is what streams reach in which nothing has changed.
MEMBER, MEMBER_LEAST = 0.4, 4.6
HELD = 3.0  # log evidence from which a family of a named stream is held with the alarm
MAX_PRINCIPALS = 64  # streams whose return to normal clears an alarm; bounds the state
# Sides that one change may show: of a distribution, of a sensor that lost its freedom.
FACETS = (
    frozenset({"shift", "scale", "noisy", "shape", "wrong_scale"}),
    frozenset({"stuck", "quantized", "saturated", "dead", "wrong_scale"}),
    frozenset({"category_share", "stuck", "dead"}),
)
EXPLANATIONS = frozenset({"label_shift"})  # kinds that account for every stream at once
REVERSIBLE = frozenset({"shift"})
# Charged to every bet for every window. A bet that can neither win nor lose (on a constant) would otherwise
# gather one unit a window and reach the threshold by the calendar.
IDLE = 1e-3
LOOK_BACK = (1, 16)  # windows over which a held stream is compared with the state it alarmed with
MOST = 1e6  # log evidence is capped here; a fleet's month of data must not overflow a sum


class Monitor:
    """State of all bets of all tracked streams, and the decisions on it.

    Args:
        reference: what is normal.
        bets: of each tracked stream.
        log_threshold: natural log of the evidence that an alarm takes.

    Attributes:
        windows: windows read so far.
        log_share: log of the weight of a stream among all.
        log_r: float64[T, N], logs of the Shiryaev-Roberts statistics.
        climb: float64[T, N], CUSUM of the log evidence.
        run: int64[T, N], windows since each CUSUM last idled.
        holder: int64[T, FAMILIES], number of the standing alarm that holds a family, 0 for none.
        standing: alarms that were raised and not cleared.
        recent: recent sums of each stream.
        interpret: may rename a change by what all streams show since its onset; None leaves it as it is.
    """

    def __init__(self, reference: Reference, bets: Sequence[Bets], log_threshold: float) -> None:
        self.reference = reference
        self.log_threshold = log_threshold
        streams = len(bets)
        width = max((len(b.weights) for b in bets), default=1)
        weights = np.zeros((streams, width))
        self._families: npt.NDArray[np.int64] = np.zeros((streams, width), dtype=np.int64)
        for t, b in enumerate(bets):
            weights[t, : len(b.weights)] = b.weights
            self._families[t, : len(b.weights)] = b.families
        with np.errstate(divide="ignore"):
            self.log_weights = np.log(weights)
        self.log_share = -math.log(max(streams, 1))
        self._idle = WANDER * (log_threshold - self.log_share)
        self.windows = 0
        self.log_r = np.full((streams, width), -np.inf)
        self.climb = np.zeros((streams, width))
        self.run: npt.NDArray[np.int64] = np.zeros((streams, width), dtype=np.int64)
        self.holder: npt.NDArray[np.int64] = np.zeros((streams, FAMILIES), dtype=np.int64)
        self.standing: list[Standing] = []
        self.recent = Recent(streams, FIELDS)
        self.interpret: Interpret | None = None

    def step(self, log_e: FloatArray, sums: FloatArray, extremes: FloatArray | None = None) -> list[Alarm]:
        """Reads one window.

        Args:
            log_e: float64[T, N], log evidence of every bet.
            sums: float64[T, FIELDS].
            extremes: float64[T, 2], the window's lowest and highest values; None where not known.

        Returns:
            What was raised and cleared.
        """
        self.windows += 1
        self.log_r = np.minimum(np.logaddexp(self.log_r, 0.0) + log_e - IDLE, MOST)
        self.climb = np.clip(self.climb + log_e, 0.0, MOST)
        self.run = np.where(self.climb > self._idle, self.run + 1, 0)
        self.recent.push(sums)
        if self.standing:
            self._silence()
        alarms = self._clear(log_e, sums)
        self._reopen()
        while (found := self._crossing()) is not None:
            earlier = self._same_change(found) or self._same_explanation(found)
            if earlier is not None:
                self._join(earlier, found)
            else:
                alarms.append(self._raise(found, extremes))
        return alarms

    def evidence(self) -> FloatArray:
        """float64[T]: log of each stream's evidence, held families included as silent; -inf for none."""
        return log_sums(self.log_weights + self.log_r)

    def _silence(self) -> None:
        held = np.take_along_axis(self.holder, self._families, axis=1) > 0
        self.log_r[held] = -np.inf
        self.climb[held] = 0.0
        self.run[held] = 0

    def _crossing(self) -> tuple[int, int] | None:
        """The strongest (stream, bet) if all evidence together reaches the threshold."""
        if not self.log_r.size:
            return None
        scaled = self.log_weights + self.log_r + self.log_share
        if log_sum(scaled) < self.log_threshold:
            return None
        t, q = np.unravel_index(int(np.argmax(scaled)), scaled.shape)
        return int(t), int(q)

    def _same_change(self, found: tuple[int, int]) -> Standing | None:
        """The standing alarm that this evidence belongs to, if any."""
        t = found[0]
        took = self._took(found)
        since = [s for s in self.standing if self._joins(s, took)]
        if since:
            return min(since, key=lambda s: s.raised_at)
        holding = [s for s in self.standing if t in s.principals]
        if not holding:
            return None
        # Another side of a change that is known, unless the stream has moved on from there.
        known = max(holding, key=lambda s: s.raised_at)
        return None if self._moved_on(known, t, took, Family(int(self._families[found]))) else known

    def _same_explanation(self, found: tuple[int, int]) -> Standing | None:
        """The standing alarm that told what explains this evidence too, such as another mix of classes."""
        explained = [s for s in self.standing if s.alarm.kind in EXPLANATIONS]
        if self.interpret is None or not explained:
            return None
        t, changed = found[0], self.recent.since(self._took(found))
        measured = self.reference.measure(t, changed[t])
        change = describe(self.reference, t, Family(int(self._families[found])), measured)
        kind = self.interpret(change, [t], changed).kind
        return next((s for s in explained if s.alarm.kind == kind), None)

    def _took(self, found: tuple[int, int]) -> int:
        """Windows since the change that a bet sees began.

        A CUSUM may wander a little above zero for ages before anything happens, so its climb is dated where
        it left that level for the last time, and from there in a straight line back to zero.
        """
        above = float(self.climb[found]) - self._idle
        if above <= 0.0:
            return 1
        return max(int(float(self.run[found]) * float(self.climb[found]) / above + 0.5), 1)

    def _joins(self, standing: Standing, took: int) -> bool:
        """Whether evidence that took so many windows arose with a standing alarm."""
        since = self.windows - standing.raised_at
        before = min(took - since, standing.alarm.onset_windows_ago + 1)
        return bool(took - since >= 1 - GRACE) and since <= max(JOIN_WINDOWS, JOIN_FACTOR * before)

    def _moved_on(self, standing: Standing, t: int, windows: int, family: Family) -> bool:
        """Whether a stream has left the state it alarmed with for one that deserves another alarm.

        A drift that goes on in the same direction does not: it would alarm at every step of its way.
        """
        now = self.recent.since(windows)[t]
        if not standing.differs(self.reference, t, now, self.log_threshold):
            return False
        change = describe(self.reference, t, family, self.reference.measure(t, now))
        said = standing.alarm
        if change.kind != said.kind:
            return not any({change.kind, said.kind} <= facets for facets in FACETS)
        return t == standing.principals[0] and change.direction != said.direction

    def _reopen(self) -> None:
        """Lets a stream speak again that has swung to the other side of its reference since it alarmed."""
        for standing in self.standing:
            lead = int(standing.principals[0])
            held = self.holder[lead] == standing.number
            if standing.alarm.kind in REVERSIBLE and held[Family.LOCATION]:
                for windows in LOOK_BACK:
                    if self._moved_on(standing, lead, windows, Family.LOCATION):
                        self.holder[lead, held] = 0
                        break

    def _join(self, standing: Standing, found: tuple[int, int]) -> None:
        """Silences evidence that belongs to a standing alarm; its stream must be back too to clear it."""
        t, bet = found
        if t not in standing.principals and len(standing.principals) < MAX_PRINCIPALS:
            standing.add(t, self.recent.since(self._took(found))[t])
            standing.alarm = self._naming(standing.alarm, t)
        self.holder[t, self._families[t, bet]] = standing.number
        self._silence()

    def _naming(self, alarm: Alarm, t: int) -> Alarm:
        """A standing alarm with another stream, which gets its share of the evidence."""
        name = self.reference.streams[t].name
        own = max(float(self.evidence()[t]), 0.0)
        share = own / (own + max(alarm.log_e, 1.0))
        others = tuple((other, (1.0 - share) * part) for other, part in alarm.streams if other != name)
        return replace(alarm, streams=(*others, (name, share)))

    def _raise(self, found: tuple[int, int], extremes: FloatArray | None) -> Alarm:
        lead, bet = found
        took = self._took(found)
        strength = self.evidence()
        named = strength >= max(MEMBER * (self.log_threshold - self.log_share), MEMBER_LEAST)
        named[lead] = True
        order = [lead, *(int(t) for t in np.argsort(-strength, kind="stable") if named[t] and t != lead)]
        changed = self.recent.since(took)
        change = describe(
            self.reference,
            lead,
            Family(int(self._families[found])),
            self.reference.measure(lead, changed[lead]),
        )
        change = fault_of(self.reference, change, order, changed, extremes)
        if self.interpret is not None:
            change = self.interpret(change, order, changed)
        log_e = log_sum(self.log_weights + self.log_r + self.log_share)
        alarm = self._alarm(change, order, np.maximum(strength, 0.0), log_e=log_e, ago=took - 1)
        number = 1 + max((s.number for s in self.standing), default=0)
        principals = np.array(order[:MAX_PRINCIPALS], dtype=np.int64)
        self.standing.append(
            Standing(
                number=number,
                raised_at=self.windows,
                patience=patience_for(took),
                principals=principals,
                alarm=alarm,
                changed=changed[principals],
                pending=np.zeros((len(principals), FIELDS)),
                back=np.zeros(len(principals)),
                again=np.full((len(principals), self.log_r.shape[1]), -np.inf),
                quiet=np.zeros(len(principals), dtype=np.int64),
            )
        )
        self.holder[lead, self._families[lead, bet]] = number
        for t in order:
            for family in range(FAMILIES):
                own = self._families[t] == family
                if log_sum((self.log_weights + self.log_r)[t, own]) >= HELD:
                    self.holder[t, family] = number
        self._silence()
        return alarm

    def _alarm(
        self, change: Change, order: list[int], strength: FloatArray, *, log_e: float, ago: int
    ) -> Alarm:
        names = [stream.name for stream in self.reference.streams]
        # Evidence multiplies: by its logarithm several streams share the credit, by itself one takes it all.
        total = float(strength[order].sum()) or 1.0
        streams = tuple((names[t], float(strength[t]) / total) for t in order)
        return Alarm(
            state="raised",
            streams=streams,
            kind=change.kind,
            log_e=log_e,
            effect=change.effect,
            effect_natural=change.natural,
            unit=change.unit,
            direction=change.direction,
            onset_windows_ago=ago,
            text=sentence(change, tuple(names[t] for t in order[1:]), log_e, ago),
        )

    def _clear(self, log_e: FloatArray, sums: FloatArray) -> list[Alarm]:
        over = [
            s
            for s in self.standing
            if s.read(self.reference, sums, log_e, self.log_weights, self.log_threshold)
        ]
        cleared = []
        for standing in over:
            self.standing.remove(standing)
            self.holder[self.holder == standing.number] = 0
            said = standing.alarm
            ago = self.windows - standing.raised_at
            names = ", ".join(name for name, _ in said.streams[:3])
            text = f"{names}: back to what the reference showed, {ago} windows after the alarm ({said.kind})."
            cleared.append(
                Alarm(
                    state="cleared",
                    streams=said.streams,
                    kind=said.kind,
                    log_e=float(standing.back.min()),
                    effect=said.effect,
                    effect_natural=said.effect_natural,
                    unit=said.unit,
                    direction=said.direction,
                    onset_windows_ago=ago,
                    text=text,
                )
            )
        return cleared
