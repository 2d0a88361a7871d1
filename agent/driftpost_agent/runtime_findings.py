"""Findings about the agent itself: the model crashed, the self-test differed, the store was damaged."""

from __future__ import annotations

import logging
import sqlite3
import threading
from dataclasses import replace

from driftpost_agent.store import Store
from driftpost_sync.clock import Clock
from driftpost_sync.messages import MAX_TEXT_CHARS, FindingBody

log = logging.getLogger(__name__)

MODEL_CRASHED = "model_crashed"
CRASH_LOOP = "crash_loop"
MODEL_FAULT = "model_fault"  # the golden inputs are answered otherwise than when the bundle was built
ROLLED_BACK = "rolled_back"
STORE_DAMAGED = "store_damaged"
OVER_BUDGET = "over_budget"
BOARD = "board"


class RuntimeFindings:
    """Raises and clears findings of the source "runtime", each kind at most once at a time.

    Those that an earlier start left standing are cleared by the first event of the same kind, or by `settle`.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._standing: dict[str, FindingBody] = {}
        self._count = 0

    def raise_(self, kind: str, text: str, bundle: str = "", effect: float = 0.0, unit: str = "") -> None:
        """Something of this kind has begun; does nothing while it stands already.

        Args:
            kind: of the finding.
            text: one sentence.
            bundle: id of the bundle that it is about, "" for none.
            effect: its size, where it has one.
            unit: of that size.
        """
        with self._lock:
            if kind in self._standing:
                return
            self._count += 1
            now, wall = self._clock.mono_ms(), self._clock.wall_ms()
            finding = FindingBody(
                id=f"{self._store.incarnation:x}-{kind}-{self._count}",
                bundle=bundle,
                state="raised",
                kind=kind,
                streams=(),
                log_e=0.0,
                effect=effect,
                effect_natural=effect,
                unit=unit,
                direction="none",
                onset_mono=now,
                onset_wall=wall,
                mono=now,
                wall=wall,
                text=text[:MAX_TEXT_CHARS],
                source="runtime",
            )
            if self._record(finding):
                self._standing[kind] = finding

    def clear(self, kind: str, text: str) -> None:
        """It is over; does nothing if it does not stand."""
        with self._lock:
            finding = self._standing.get(kind)
            if finding is None:
                return
            over = replace(
                finding,
                state="cleared",
                mono=self._clock.mono_ms(),
                wall=self._clock.wall_ms(),
                text=text[:MAX_TEXT_CHARS],
            )
            if self._record(over):
                del self._standing[kind]

    def stands(self, kind: str) -> bool:
        """Whether a finding of this kind stands."""
        with self._lock:
            return kind in self._standing

    def settle(self) -> None:
        """Clear what an earlier start left standing: it spoke of a process that is gone."""
        with self._lock:
            now, wall = self._clock.mono_ms(), self._clock.wall_ms()
            for left in self._store.standing_findings():
                if not any(left.id == finding.id for finding in self._standing.values()):
                    text = f"the agent was started again since: {left.text}"[:MAX_TEXT_CHARS]
                    self._record(replace(left, state="cleared", mono=now, wall=wall, text=text))

    def _record(self, finding: FindingBody) -> bool:
        log.warning("finding %s: %s", finding.state, finding.text, extra={"finding": finding.id})
        try:
            self._store.record_finding(finding)
        except sqlite3.Error as error:
            # It stays unraised, so that the next event of its kind tries again.
            log.error("the finding could not be stored: %s", error)
            return False
        return True
