"""Watching the joint features: alarms of kind "joint", held and cleared, silent where streams say it all."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from driftpost_sketches.drift.alarm import Alarm, evidence_in_words
from driftpost_sketches.drift.joint.carriers import Floats, Ints
from driftpost_sketches.drift.joint.evidence import JointEvidence
from driftpost_sketches.drift.joint.explain import Explanation, explain
from driftpost_sketches.drift.joint.plan import JointPlan
from driftpost_sketches.drift.joint.starts import MAX_BLOCKS, Starts
from driftpost_sketches.drift.monitor import GRACE, MEMBER, Monitor
from driftpost_sketches.drift.standing import NOT_QUIET, patience_for
from driftpost_sketches.drift.state_bytes import alarm_bytes, read_alarm
from driftpost_sketches.errors import IncompatibleSketch, MalformedSketch
from driftpost_sketches.packing import Reader, blob_bytes
from driftpost_sketches.window import JOINT_LIMIT, MAX_COUNT

SHARE = 0.1  # of the false-alarm budget; the ordinary streams keep the rest
DOUBT = 0.7  # part of the measured shift that a return to the reference is held against
ALIKE = 0.5  # cosine of two shifts from which they count as one change
CORRELATION = "correlation"  # unit of changes of how two streams move together
FEATURES = "sd of joint features"
AGAINST = 0.1  # correlation below whose negative a stream moves against the others
MAX_ALARM = 1 << 16  # bytes of one alarm's JSON
_HEAD = struct.Struct("<16sQHH?")  # plan and threshold, windows, blocks, features, held
_HELD = struct.Struct("<QQdQ?")  # raised at, patience, back, quiet, silent


def ordinary_threshold(log_threshold: float) -> float:
    """What the streams' own evidence has to reach where a joint test takes its share of the budget."""
    return log_threshold - math.log1p(-SHARE)


@dataclass
class _Held:
    """A change that stands.

    `silent`: it came with an alarm of single streams and was never told by itself.
    """

    raised_at: int
    patience: int
    alarm: Alarm
    shift: Floats
    back: float
    quiet: int
    silent: bool


class JointWatch:
    """The joint test of one device, or of one scope's merged windows.

    Its statistic is the sum of e-values since geometrically thinned starts, a Shiryaev-Roberts statistic with
    terms left out, so it reaches A on average no sooner than after A windows.

    Args:
        plan: of the bundle.
        names: of all tracked streams.
        log_threshold: of the whole detector; this test takes `SHARE` of its budget.
        smallest: smallest change worth knowing of each tracked stream, standard deviations; the median of
            those that take part counts for every joint feature.
    """

    def __init__(
        self, plan: JointPlan, names: Sequence[str], log_threshold: float, smallest: Sequence[float]
    ) -> None:
        self._plan = plan
        self._names = tuple(names)
        self._threshold = log_threshold - math.log(SHARE)
        trifle = float(np.median(np.asarray(smallest)[plan.features.carriers.streams]))
        self._evidence = JointEvidence(plan, self._threshold, trifle)
        self._starts = Starts(plan.count)
        self._windows = 0
        self._held: _Held | None = None
        self._log_e = -math.inf
        digest = hashlib.sha256(plan.to_bytes() + repr((log_threshold, trifle)).encode())
        self._id = digest.digest()[:16]

    @property
    def standing(self) -> tuple[Alarm, ...]:
        """The alarm that was raised and has not been cleared, if any."""
        return () if self._held is None or self._held.silent else (self._held.alarm,)

    @property
    def log_e(self) -> float:
        """Log evidence after the last window, on the scale of the whole detector's threshold."""
        return self._log_e + math.log(SHARE)

    def step(self, rows: int, sums: Ints, monitor: Monitor) -> list[Alarm]:
        """Reads one window.

        Args:
            rows: rows of the joint sums.
            sums: int64[K].
            monitor: of the single streams, after it has read the same window.

        Returns:
            Alarms raised or cleared by it; mostly none.
        """
        self._windows += 1
        if not rows or len(sums) != self._plan.count:
            return []
        self._starts.push(rows, sums)
        windows, lengths, since = self._starts.since()
        t = self._evidence.standardise(since, lengths)
        logs = self._evidence.logs(t, lengths)
        self._log_e = float(np.logaddexp.reduce(logs))
        crossed = self._log_e >= self._threshold
        at = int(np.argmax(logs))
        shift, took = t[at] / lengths[at], int(windows[at])
        if self._held is not None:
            cleared = self._read_held(t[-1], float(lengths[-1]), float(logs[-1]), crossed, shift)
            if cleared is not None:
                return cleared
            if not (crossed and self._is_new(shift)):
                if crossed:
                    self._starts.clear()
                return []
        if not crossed:
            return []
        return self._raise(shift, took, monitor)

    def _is_new(self, shift: Floats) -> bool:
        """Whether a renewed crossing points elsewhere than the change that stands."""
        held = self._held
        if held is None:
            return True
        a, b = self._plan.whitening @ shift, self._plan.whitening @ held.shift
        return float(a @ b) < ALIKE * math.sqrt(float(a @ a) * float(b @ b))

    def _raise(self, shift: Floats, took: int, monitor: Monitor) -> list[Alarm]:
        onset = self._windows - took + 1
        # Monitors count windows with rows, and so do we.
        explained = [s for s in monitor.standing if onset <= s.raised_at + GRACE]
        if not explained and self._gathering(monitor):
            return []  # single streams are about to say it; if they do not, the next window asks again
        alarms = []
        if self._held is not None and not self._held.silent:
            alarms.append(self._cleared("another change took its place"))
        alarm = self._alarm(explain(self._plan, shift), took)
        self._held = _Held(self._windows, patience_for(took), alarm, shift, 0.0, 0, silent=bool(explained))
        self._starts.clear()
        if not explained:
            alarms.append(alarm)
        return alarms

    @staticmethod
    def _gathering(monitor: Monitor) -> bool:
        strength = monitor.evidence()
        return bool(len(strength)) and float(strength.max()) >= MEMBER * monitor.log_threshold

    def _read_held(
        self, newest: Floats, rows: float, loud: float, crossed: bool, shift: Floats
    ) -> list[Alarm] | None:
        """Whether what stands is over: the alarm to say so (or nothing, if it was silent), else None."""
        held = self._held
        assert held is not None, "only called while a change stands"
        lead = int(np.argmax(np.abs(held.shift) / np.sqrt(self._plan.tau)))
        mean = DOUBT * float(held.shift[lead])
        gain = (rows * mean * mean / 2.0 - mean * float(newest[lead])) / float(self._plan.tau[lead])
        renewed = crossed and not self._is_new(shift)
        held.back = 0.0 if loud >= NOT_QUIET or renewed else max(held.back + gain, 0.0)
        held.quiet = 0 if renewed else held.quiet + 1
        if held.back < self._threshold and held.quiet < held.patience:
            return None
        silent = held.silent
        said = [] if silent else [self._cleared("back to what the reference showed")]
        self._held = None
        self._starts.clear()
        return said

    def _cleared(self, why: str) -> Alarm:
        held = self._held
        assert held is not None, "only called while a change stands"
        ago = self._windows - held.raised_at
        names = ", ".join(name for name, _ in held.alarm.streams[:3])
        text = f"how {names} hang together: {why}, {ago} windows after the alarm."
        return replace(held.alarm, state="cleared", log_e=held.back, onset_windows_ago=ago, text=text)

    def _alarm(self, found: Explanation, took: int) -> Alarm:
        streams = tuple((self._names[t], share) for t, share in found.streams)
        known = not math.isnan(found.before)
        log_e = self.log_e
        return Alarm(
            state="raised",
            streams=streams,
            kind="joint",
            log_e=log_e,
            effect=found.effect,
            effect_natural=found.effect,
            unit=CORRELATION if known else FEATURES,
            direction=("up" if found.effect > 0 else "down") if known else "none",
            onset_windows_ago=took - 1,
            text=_sentence(found, [name for name, _ in streams], log_e, took - 1),
        )

    def to_bytes(self) -> bytes:
        """The whole state."""
        starts, held = self._starts, self._held
        parts = [
            _HEAD.pack(self._id, self._windows, len(starts.windows), self._plan.count, held is not None),
            struct.pack("<d", self._log_e),
            starts.windows.astype("<i8").tobytes(),
            starts.rows.astype("<i8").tobytes(),
            starts.sums.astype("<i8").tobytes(),
        ]
        if held is not None:
            parts += [
                _HELD.pack(held.raised_at, held.patience, held.back, held.quiet, held.silent),
                held.shift.astype("<f8").tobytes(),
                blob_bytes(alarm_bytes(held.alarm)),
            ]
        return b"".join(parts)

    def restore(self, data: bytes) -> None:
        """Takes up a state where it was left; nothing is changed when it is refused.

        Raises:
            MalformedSketch: the bytes are no such state.
            IncompatibleSketch: made with another plan or threshold.
        """
        reader = Reader(data)
        plan, windows, blocks, features, stands = _HEAD.unpack(reader.take(_HEAD.size))
        if plan != self._id:
            raise IncompatibleSketch(self._id, plan)
        if blocks > MAX_BLOCKS or features != self._plan.count:
            raise MalformedSketch("a joint test's state of another size")
        (log_e,) = struct.unpack("<d", reader.take(8))
        starts = Starts(features)
        starts.windows, starts.rows = reader.array("<i8", blocks), reader.array("<i8", blocks)
        starts.sums = reader.array("<i8", blocks, features)
        held = _read_held(reader, features) if stands else None
        reader.finish()
        if math.isnan(log_e) or log_e == math.inf:
            raise MalformedSketch("a joint test's evidence is none")
        if (starts.windows < 1).any() or (starts.rows < 1).any() or (starts.rows > MAX_COUNT).any():
            raise MalformedSketch("a joint test's blocks have no rows")
        if (
            np.abs(starts.sums.astype(np.float64)) > starts.rows[:, None].astype(np.float64) * JOINT_LIMIT
        ).any():
            raise MalformedSketch("a joint test's sums are larger than their rows allow")
        self._starts, self._windows, self._held, self._log_e = starts, windows, held, log_e


def _read_held(reader: Reader, features: int) -> _Held:
    raised_at, patience, back, quiet, silent = _HELD.unpack(reader.take(_HELD.size))
    shift = reader.array("<f8", features)
    alarm = read_alarm(reader.blob(MAX_ALARM))
    if not math.isfinite(back) or back < 0 or not (np.abs(shift) < 1e6).all() or alarm.kind != "joint":
        raise MalformedSketch("a joint alarm's numbers are none")
    return _Held(raised_at, patience, alarm, shift, back, quiet, silent)


def _sentence(found: Explanation, names: list[str], log_e: float, ago: int) -> str:
    others = names[1] if len(names) == 2 else ", ".join(names[1:-1]) + " and " + names[-1]
    if math.isnan(found.before):
        what = f"several streams hang together differently, chiefly {names[0]}, {others}"
    else:
        now = found.before + found.effect
        size = f"(correlation about {now:.2f}, was {found.before:.2f})"
        if found.loose and now < -AGAINST:
            what = f"{names[0]} moves against {others} {size}"
        elif found.loose and now < found.before:
            what = f"{names[0]} has come loose from {others} {size}"
        else:
            what = f"{names[0]} and {others} hang together differently {size}"
    when = "in this window" if ago == 0 else f"since about {ago} window{'s' * (ago > 1)} ago"
    return f"{what} {when}; no single stream shows it; {evidence_in_words(log_e)}."


__all__ = ["SHARE", "JointWatch", "ordinary_threshold"]
