"""The device's own normal: learnt, kept in the store, watched by. The arithmetic is `SiteWatch`'s."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftpost_agent import site_store
from driftpost_agent.recorder import ClosedWindow
from driftpost_agent.site_store import SiteChange
from driftpost_agent.store import Store
from driftpost_models.bundle import Bundle
from driftpost_models.policy import Policy
from driftpost_models.site_policy import HOLD
from driftpost_sketches.commissioning.journal import Parts
from driftpost_sketches.commissioning.watch import Mode, SiteWatch, Told, streams_to_learn
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.errors import SketchError

log = logging.getLogger(__name__)

# Seconds that the thread gets to end: one stream's chain on a small board.
STOP_S = 5.0


class _Stopped(Exception):
    """Ends a fit from within."""


class SiteBaseline:
    """What one device learns while it runs one bundle. Not locked: `WindowChecks` does that.

    Args:
        bundle: the one that is guarded.
        policy: the owner's wishes, with this device's settings in them.
        store: where it is kept; None keeps nothing.
        log_threshold: what an alarm takes.
        detectors: makes the detector of a calibration.
        background: make the calibration in a thread of its own; it takes seconds on a small board.

    Attributes:
        watch: what does the work.
        news: whether the last window changed what is told, kept back or done: detectors' states go along.
        taken_over: id of the bundle whose normal goes on; "" when it begins afresh or was this bundle's own.
    """

    def __init__(
        self,
        bundle: Bundle,
        policy: Policy,
        store: Store | None,
        *,
        log_threshold: float,
        detectors: Callable[[Calibration], DriftDetector],
        background: bool,
    ) -> None:
        self._bundle = bundle
        self._schema = bundle.schema.id.hex()
        self._store = store
        self._background = background
        self._exit = threading.Event()
        self._fitting: threading.Thread | None = None
        self._made: Calibration | None = None
        self.news = False
        self.taken_over = ""
        self.watch = SiteWatch(
            bundle.calibration,
            streams_to_learn(bundle.schema, bundle.unknown_streams),
            policy.site.plan,
            log_threshold,
            smallest_effect=policy.smallest_effects,
            default_effect=policy.smallest_effect,
            hold=policy.site.on_alarm == HOLD,
            detectors=detectors,
        )
        if store is not None:
            self._restore(store, keep=policy.site.keep)
        self._make()

    def step(self, closed: ClosedWindow) -> list[Told]:
        """Read a closed window whose rows the watch has taken."""
        if self._made is not None:
            self.watch.ready, self._made = self._made, None
        before, kept = self.watch.mode, self.watch.held_back
        told = self.watch.step(
            closed.transitions, closed.window, (closed.mono_end - closed.mono_start) / 1000.0
        )
        if self.watch.mode is not before:
            log.info("site baseline", extra={"mode": self.watch.mode.value, "before": before.value})
        for alarm in self.watch.held_back:
            log.debug("differs since it was installed: %s", alarm.text)
        self.news = bool(told) or self.watch.mode is not before or self.watch.held_back != kept
        self._make()
        return told

    def change(self, *, due: bool) -> SiteChange | None:
        """What has to be stored now.

        Args:
            due: whether the detectors' evidence is. What was learnt goes with every window.
        """
        parts = self.watch.changes()
        if self.watch.mode is Mode.WATCHING and not due and not parts.put and not parts.drop:
            return None
        return SiteChange(self._schema, self.watch.head(), parts)

    def facts(self) -> dict[str, Any]:
        """For the status document."""
        watch = self.watch
        progress = watch.progress()
        learning = watch.mode is not Mode.WATCHING
        return {
            "baseline": "training" if learning else "site",
            "mode": watch.mode.value,
            "phase": progress.phase.value if learning else "done",
            "rows": progress.rows if learning else (watch.site.baseline.rows if watch.site else 0),
            "rows_wanted": progress.rows_wanted if learning else None,
            "seconds_left": progress.seconds_left if learning else None,
            "held_by": [alarm.text for alarm in watch.standing] if watch.mode is Mode.HELD else [],
            "differs": [alarm.text for alarm in watch.held_back],
            "skew": [alarm.text for alarm in watch.skewed],
            "notes": list(watch.notes),
            "taken_over": self.taken_over,
        }

    def close(self) -> None:
        """End the thread, if it runs; what it had made is made again at the next start."""
        self._exit.set()
        if self._fitting is not None:
            self._fitting.join(STOP_S)

    def _make(self) -> None:
        """Make the calibration when all rows are there."""
        if self.watch.mode is not Mode.FITTING or self.watch.ready is not None or self._made is not None:
            return
        if not self._background:
            self.watch.ready = self.watch.fit()
        elif self._fitting is None or not self._fitting.is_alive():
            self._fitting = threading.Thread(target=self._fit, name="driftpost-commissioning", daemon=True)
            self._fitting.start()

    def _fit(self) -> None:
        try:
            self._made = self.watch.fit(self._go_on)
        except _Stopped:
            return
        except SketchError as error:
            log.error("what this device saw makes no calibration, it goes on as before: %s", error)

    def _go_on(self, _done: int, _all: int) -> None:
        if self._exit.is_set():
            raise _Stopped

    def _restore(self, store: Store, *, keep: bool) -> None:
        with store.transaction() as db:
            kept = site_store.read(db, self._bundle.id)
            if kept is None and keep:
                self.taken_over = site_store.take_over(db, self._bundle.id, self._schema)
                kept = site_store.read(db, self._bundle.id)
            site_store.prune(db, self._bundle.id)
        if kept is None:
            return
        try:
            self.watch.restore(*kept)
        except SketchError as error:
            log.warning("this device learns its normal anew, what it had learnt can't be used: %s", error)
            anew = SiteChange(self._schema, self.watch.head(), Parts(drop=set(kept[1])))
            with store.transaction() as db:
                site_store.write(db, self._bundle.id, anew)
            self.taken_over = ""

    def evidence(self) -> NDArray[np.float32]:
        """Log evidence of each tracked stream of the bundle, float32[T]; -inf for none."""
        return self.watch.evidence()
