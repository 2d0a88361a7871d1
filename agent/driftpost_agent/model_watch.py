"""Whether the model in its child process is well: crashes that a call saw, and those between two calls."""

from __future__ import annotations

from collections.abc import Callable

from driftpost_agent.runtime_findings import MODEL_CRASHED, RuntimeFindings
from driftpost_models.errors import RuntimeBackingOff, RuntimeCrashed
from driftpost_models.runtime import Runtime

# Seconds a model must not crash before a crash counts as over.
STABLE_S = 60.0


class ModelWatch:
    """Reports crashes of the served model as findings, and their end.

    Attributes:
        problem: the last crash while the model has not been stable since, "" otherwise.

    Args:
        findings: where crashes are reported.
        monotonic: seconds.
    """

    def __init__(self, findings: RuntimeFindings, monotonic: Callable[[], float]) -> None:
        self._findings = findings
        self._monotonic = monotonic
        self._seen: object = None
        self._crashed_at = 0.0
        self.problem = ""

    def failed(self, error: Exception, bundle: str) -> bool:
        """A call got no answer; whether that was a crash. May be called from any thread."""
        # While backing off nothing new has happened.
        if not isinstance(error, RuntimeCrashed) or isinstance(error, RuntimeBackingOff):
            return False
        self._crashed(str(error), bundle)
        return True

    def look(self, runtime: Runtime, bundle: str) -> None:
        """Called every now and then: notice a death that no call saw, and a recovery."""
        crash = getattr(runtime, "last_crash", None)
        if crash is not None and crash is not self._seen:
            self._seen = crash
            self._crashed(str(crash), bundle)
        elif not getattr(runtime, "alive", True) and not self.problem:
            self._crashed("the model's process has ended; the next call starts it again", bundle)
        elif self.problem and self._monotonic() - self._crashed_at > STABLE_S:
            self.problem = ""
            self._findings.clear(MODEL_CRASHED, f"the model has run for {STABLE_S:.0f} s without a crash")

    def _crashed(self, text: str, bundle: str) -> None:
        self.problem, self._crashed_at = text, self._monotonic()
        self._findings.raise_(MODEL_CRASHED, text, bundle)
