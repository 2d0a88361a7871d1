"""Watching a device by the training normal until it knows its own, and by its own from then on.

Two questions, two kinds of finding. "Installed differently" (skew) is measured once, when commissioning
ends, as the difference between the device's normal and the training's. "Changed since" is drift against the
device's normal. Only one detector watches at a time, so both share one budget.

What is wrong while a device learns must not become its normal unseen: an alarm that began after the first
phase stops the learning until it is cleared or accepted. One that was there from the beginning is how the
device was installed, and comes back as skew.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import numpy as np
import numpy.typing as npt

from driftpost_sketches import packing
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.commissioning.commissioning import MAX_BYTES, Commissioning, Phase, Plan, Progress
from driftpost_sketches.commissioning.journal import Parts
from driftpost_sketches.commissioning.skew import Skew, find_skew
from driftpost_sketches.drift.alarm import Alarm, evidence_in_words
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.errors import IncompatibleSketch, MalformedSketch
from driftpost_sketches.schema import Schema, Stream, StreamKind
from driftpost_sketches.transitions import Transitions
from driftpost_sketches.window import Window

MAGIC = b"DPT"
VERSION = 1
CALIBRATION = "calibration"  # name of the part that holds what was learnt
# Differences that a place, a mounting or a light can make. A stuck or dead sensor is a fault wherever it is.
INSTALLED = frozenset({"shift", "scale", "noisy", "shape", "category_share", "label_shift", "joint"})
GRACE = 2  # windows after an acceptance in which an alarm still is about what was accepted
MAX_REMEMBERED = 4096  # alarms that are kept apart; as many as a detector's state holds

Baseline = Literal["training", "site"]
Key = tuple[str, tuple[str, ...]]


class Mode(str, Enum):
    """What a watch does."""

    LEARNING = "learning"
    HELD = "held"  # learning has stopped, as an alarm stands
    FITTING = "fitting"  # all rows are there, the calibration is being made
    WATCHING = "watching"  # by the device's own normal


@dataclass(frozen=True)
class Told:
    """An alarm, and what it was compared with."""

    alarm: Alarm
    baseline: Baseline


class SiteWatch:
    """Watches one device.

    Args:
        training: the bundle's calibration; its tracked streams may be none.
        learnt: streams that the device learns: of `training.schema`, numeric and categorical.
        plan: how long it learns.
        log_threshold: what an alarm takes.
        smallest_effect: by stream, for the device's own normal.
        default_effect: of streams not named.
        hold: whether an alarm stops the learning.
        detectors: makes the detector of a calibration; with `log_threshold` and nothing else if None.

    Attributes:
        training: as given.
        detector: of the training normal; None where there is none.
        mode: what it does.
        ready: puts what `fit` made here; taken up with the next window.
        skew: what was found when learning ended; None before, and where nothing differs.
        site: the device's own calibration; None before it is known.
        site_detector: of that.
    """

    def __init__(
        self,
        training: Calibration,
        learnt: Sequence[Stream],
        plan: Plan,
        log_threshold: float,
        *,
        smallest_effect: Mapping[str, float] | None = None,
        default_effect: float,
        hold: bool = True,
        detectors: Callable[[Calibration], DriftDetector] | None = None,
    ) -> None:
        self.training = training
        self._log_threshold = log_threshold
        self._hold = hold
        self._learnt = tuple(learnt)
        schema = training.schema
        places = {int(i): c for c, i in enumerate(schema.scalar_streams)}
        self._columns = np.array([places[schema.index(s.name)] for s in learnt], dtype=np.int64)
        self._begin: Callable[[], Commissioning] = lambda: Commissioning(
            self._learnt, plan, smallest_effect, default_effect
        )
        self._detect = detectors or (lambda calibration: DriftDetector(calibration, log_threshold))
        self.mode: Mode
        self.detector: DriftDetector | None
        self.site: Calibration | None
        self.site_detector: DriftDetector | None
        self.skew: Skew | None
        self.ready: Calibration | None
        self._commissioning: Commissioning
        self._accumulator: WindowAccumulator | None
        self._here: Window
        self._windows: int
        self._installed_until: int
        self._accepted: bool
        self._standing: dict[Key, Alarm]
        self._held_back: dict[Key, Alarm]
        self._skewed: tuple[Alarm, ...]
        self._changed = Parts()
        self._stored: set[str] = set()
        self._start()

    def update(self, values: npt.NDArray[np.float64]) -> None:
        """Takes rows in time order, as the window's accumulator does: float64[rows, S_scalar]."""
        own = np.asarray(values[:, self._columns], dtype=np.float64)
        if self._accumulator is not None:
            self._accumulator.update(own)
        elif self.mode is Mode.LEARNING:
            self._commissioning.update(own)

    def step(self, transitions: Transitions, window: Window, seconds: float) -> list[Told]:
        """Reads a window whose rows `update` has taken.

        Args:
            transitions: of the training's schema.
            window: of the training's schema.
            seconds: that its rows took.

        Returns:
            What was raised and cleared.
        """
        if self.site_detector is not None:
            assert self._accumulator is not None
            own, steps = self._accumulator.take()[:2]
            return [Told(alarm, "site") for alarm in self.site_detector.step(steps, own)]
        told = []
        if self.detector is not None:
            for alarm in self.detector.step(transitions, window):
                told += self._sort(alarm)
        self._windows += 1
        if self.mode is Mode.LEARNING:
            self._here = self._here.merge(window)
            phase = self._commissioning.close(seconds)
            if phase is Phase.RANGES:
                self._installed_until = self._windows
            elif phase is Phase.DONE:
                self.mode = Mode.FITTING
        if self.mode in (Mode.LEARNING, Mode.HELD):
            self._hold_or_go_on()
        elif self.ready is not None and not (self._hold and self._standing):
            calibration, self.ready = self.ready, None
            told += self._adopt(calibration)
        return told

    def fit(self, progress: Callable[[int, int], None] | None = None) -> Calibration:
        """The device's own calibration, once all rows are there; changes nothing, so a thread may do it.

        Args:
            progress: called with (streams done, streams in all); what it raises ends the work.
        """
        return self._commissioning.calibration(progress)

    def accept(self) -> list[Told]:
        """Takes what is now for this device's normal, on a person's word: learning begins anew from here.

        Rows from before what stands are of another normal; a mixture of both would be neither.
        """
        if self.mode is Mode.WATCHING or not (self._standing or self._held_back):
            return []
        told = self._cleared("a person accepted it as this device's normal")
        self._discard()
        self._accepted = True
        self._installed_until = GRACE
        return told

    def forget(self) -> None:
        """Forgets which alarms were told, for nobody remembers them; what was learnt stays.

        What speaks for a change still is told again, or kept back as how the device was installed.
        """
        if self.site is not None:
            self.site_detector = self._detect(self.site)
            return
        self._standing.clear()
        self._held_back.clear()
        self._installed_until = self._windows + GRACE
        self._hold_or_go_on()

    def again(self) -> list[Told]:
        """Forgets what was learnt and begins to learn anew."""
        told = self._cleared("the device learns its normal anew")
        for alarm in self._skewed:
            over = dataclasses.replace(alarm, state="cleared", text="the device learns its normal anew")
            told.append(Told(over, "training"))
        self._discard()
        return told

    @property
    def held_back(self) -> tuple[Alarm, ...]:
        """Differences from the training normal that were there from the first, before they are measured."""
        return tuple(self._held_back.values())

    @property
    def standing(self) -> tuple[Alarm, ...]:
        """Alarms that were told and not cleared."""
        if self.site_detector is not None:
            return self.site_detector.standing
        return tuple(self._standing.values())

    def progress(self) -> Progress:
        """How far the learning is."""
        return self._commissioning.progress()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about what was learnt."""
        return (*self._commissioning.notes, *(self.site.notes if self.site else ()))

    def evidence(self) -> npt.NDArray[np.float32]:
        """float32[T]: log evidence of each tracked stream of the training's schema; -inf for none."""
        names = self.training.tracked_names
        if self.site_detector is not None:
            assert self.site is not None
            own = dict(zip(self.site.tracked_names, self.site_detector.evidence(), strict=True))
            return np.array([own.get(name, -np.inf) for name in names], dtype=np.float32)
        if self.detector is None:
            return np.full(len(names), -np.inf, dtype=np.float32)
        return self.detector.evidence()

    def break_sequence(self) -> None:
        """Says that the next row does not follow the last one in time."""
        self._commissioning.break_sequence()
        if self._accumulator is not None:
            self._accumulator.break_sequence()

    def changes(self) -> Parts:
        """Parts to store anew since this was last asked; `head` is asked for beside it."""
        if self.mode is not Mode.WATCHING:
            self._changed.add(self._commissioning.changes())
        changed, self._changed = self._changed, Parts()
        self._stored = (self._stored | set(changed.put)) - changed.drop
        return changed

    def head(self) -> bytes:
        """All of the state that is neither in parts nor in the training detector's."""
        plain = {
            "mode": self.mode.value,
            "windows": self._windows,
            "installed_until": self._installed_until,
            "accepted": self._accepted,
            "skewed": [_plain(alarm) for alarm in self._skewed],
            "standing": [_plain(alarm) for alarm in self._standing.values()],
            "held_back": [_plain(alarm) for alarm in self._held_back.values()],
            "parts": sorted(self._stored | set(self._changed.put)),
        }
        pieces = [packing.blob_bytes(json.dumps(plain, separators=(",", ":")).encode())]
        if self.site_detector is not None:
            pieces.append(packing.blob_bytes(self.site_detector.state_to_bytes()))
        else:
            pieces += [
                packing.blob_bytes(self._here.to_bytes()),
                packing.blob_bytes(self._commissioning.head()),
            ]
        return MAGIC + bytes([VERSION]) + b"".join(pieces)

    def restore(self, head: bytes, parts: Mapping[str, bytes]) -> None:
        """Takes up a state where it was left; nothing is changed when it is refused.

        A threshold that has changed since costs the site detector its evidence, and nothing else.

        Raises:
            MalformedSketch: it is none, or of other streams or another plan.
            UnsupportedVersion: written by a newer format.
            IncompatibleSketch: of another schema.
        """
        if len(head) > MAX_BYTES or head[:3] != MAGIC or head[3:4] != bytes([VERSION]):
            raise MalformedSketch("the bytes do not begin like a site's state")
        reader = packing.Reader(head[4:])
        try:
            plain = json.loads(reader.blob(MAX_BYTES))
            mode, windows = Mode(plain["mode"]), int(plain["windows"])
            until, accepted = int(plain["installed_until"]), bool(plain["accepted"])
            skewed = tuple(_alarm(each) for each in plain["skewed"])
            standing = [_alarm(each) for each in plain["standing"]]
            held_back = [_alarm(each) for each in plain["held_back"]]
            stored = {str(name) for name in plain["parts"]}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MalformedSketch(f"a site's state can not be read: {error}") from error
        if max(len(standing), len(held_back)) > MAX_REMEMBERED or windows < 0:
            raise MalformedSketch("a site's state holds too many alarms")
        commissioning, here = self._begin(), self._here
        site = site_detector = None
        if mode is Mode.WATCHING:
            if CALIBRATION not in parts:
                raise MalformedSketch("a site's state lacks its calibration")
            site = Calibration.from_bytes(parts[CALIBRATION])
            if [s.name for s in site.schema.streams] != [s.name for s in self._learnt]:
                raise MalformedSketch("a site's calibration is of other streams")
            site_detector = self._detect(site)
            state = reader.blob(MAX_BYTES)
            reader.finish()
            try:
                site_detector.restore(state)
            except IncompatibleSketch:
                site_detector = self._detect(site)
        else:
            here = Window.from_bytes(reader.blob(MAX_BYTES))
            here.check(self.training.schema)
            commissioning.restore(reader.blob(MAX_BYTES), parts)
            reader.finish()
        self.mode, self._windows, self._installed_until, self._skewed = mode, windows, until, skewed
        self._accepted = accepted
        self._standing = {_key(alarm): alarm for alarm in standing}
        self._held_back = {_key(alarm): alarm for alarm in held_back}
        self._here, self._commissioning = here, commissioning
        self._changed, self._stored = Parts(), stored
        self.site, self.site_detector = site, site_detector
        self._accumulator = None if site is None else WindowAccumulator(site.schema)

    @property
    def skewed(self) -> tuple[Alarm, ...]:
        """What was said about how the device is installed; nothing yet, or nothing to say."""
        return self._skewed

    def _start(self) -> None:
        self.mode = Mode.LEARNING
        self._commissioning = self._begin()
        tracked = len(self.training.schema.tracked_streams)
        self.detector = self._detect(self.training) if tracked else None
        self.site = self.site_detector = self.skew = self.ready = None
        self._accumulator = None
        self._here = Window.empty(self.training.schema)
        self._windows = self._installed_until = 0
        self._accepted = False
        self._standing = {}
        self._held_back = {}
        self._skewed = ()

    def _discard(self) -> None:
        """Begins to learn with nothing."""
        gone = self._stored | set(self._commissioning.changes().put)
        self._start()
        self._changed = Parts(drop=gone)
        self._stored = set()

    def _sort(self, alarm: Alarm) -> list[Told]:
        """Tells an alarm of the training detector, or keeps it back as how the device was installed."""
        key = _key(alarm)
        if alarm.state == "cleared":
            if self._held_back.pop(key, None) is not None:
                return []
            self._standing.pop(key, None)
            return [Told(alarm, "training")]
        onset = self._windows - alarm.onset_windows_ago
        from_the_first = onset <= self._installed_until or self._commissioning.phase is Phase.RANGES
        # A person has seen what stood and accepted it, whatever its kind.
        accepted = self._accepted and onset <= GRACE
        if accepted or (alarm.kind in INSTALLED and from_the_first):
            self._held_back[key] = alarm
            return []
        self._standing[key] = alarm
        return [Told(alarm, "training")]

    def _hold_or_go_on(self) -> None:
        if self.mode is Mode.LEARNING and self._hold and self._standing:
            self.mode = Mode.HELD
        elif self.mode is Mode.HELD and not self._standing:
            self.mode = Mode.LEARNING
            self._commissioning.break_sequence()

    def _adopt(self, calibration: Calibration) -> list[Told]:
        """From learning to watching."""
        told = self._cleared("it is part of this device's normal, as the policy accepts alarms")
        tau = {name: calibration.tau(name) for name in calibration.tracked_names}
        self.skew = find_skew(self.training, self._here, tau, self._log_threshold) if self.detector else None
        if self.skew is not None:
            told.append(Told(_skew_alarm(self.skew), "training"))
        else:
            told += [Told(dataclasses.replace(a, kind="skew"), "training") for a in self._held_back.values()]
        self._skewed = tuple(each.alarm for each in told if each.alarm.kind == "skew")
        self._held_back.clear()
        self.mode = Mode.WATCHING
        self.site = calibration
        self.site_detector = self._detect(calibration)
        self._accumulator = WindowAccumulator(calibration.schema)
        gone = self._stored | set(self._commissioning.changes().put)
        self._changed = Parts(put={CALIBRATION: calibration.to_bytes()}, drop=gone)
        return told

    def _cleared(self, why: str) -> list[Told]:
        over = list(self._standing.values())
        baseline: Baseline = "training"
        if self.site_detector is not None:
            over, baseline = list(self.site_detector.standing), "site"
        self._standing = {}
        return [Told(dataclasses.replace(alarm, state="cleared", text=why), baseline) for alarm in over]


def streams_to_learn(schema: Schema, unknown: Sequence[str]) -> tuple[Stream, ...]:
    """Streams a device can learn: those that detectors watch, and those whose bins nobody knows.

    Args:
        schema: the bundle's.
        unknown: names of streams that have no bins yet.
    """
    return tuple(
        s for s in schema.streams if s.kind is not StreamKind.CODES and (s.tracked or s.name in set(unknown))
    )


def _skew_alarm(skew: Skew) -> Alarm:
    first = skew.differences[0]
    log_e = 0.5 * first.errors**2
    return Alarm(
        state="raised",
        streams=skew.streams,
        kind="skew",
        log_e=log_e,
        effect=first.effect,
        effect_natural=first.natural,
        unit=first.unit,
        direction=first.direction,
        onset_windows_ago=0,
        text=f"{skew.text[:1].upper()}{skew.text[1:-1]}; {evidence_in_words(log_e)}.",
    )


def _key(alarm: Alarm) -> Key:
    return alarm.kind, tuple(name for name, _ in alarm.streams)


def _plain(alarm: Alarm) -> dict[str, object]:
    return {name: getattr(alarm, name) for name in Alarm.__dataclass_fields__}


def _alarm(plain: Mapping[str, object]) -> Alarm:
    values = dict(plain)
    if set(values) != set(Alarm.__dataclass_fields__):
        raise KeyError("alarm")
    pairs = values["streams"]
    if not isinstance(pairs, list):
        raise TypeError("streams")
    values["streams"] = tuple((str(name), float(share)) for name, share in pairs)
    return Alarm(**values)  # type: ignore[arg-type]  # JSON of the same fields
