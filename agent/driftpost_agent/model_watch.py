"""Whether the model in its child process is well: crashes that a call saw, and those between two calls."""

from __future__ import annotations

from collections.abc import Callable

from driftpost_agent.footprint import resident_mb
from driftpost_agent.runtime_findings import CRASH_LOOP, MODEL_CRASHED, RuntimeFindings
from driftpost_models.errors import RuntimeBackingOff, RuntimeCrashed
from driftpost_models.isolated import IsolatedRuntime
from driftpost_models.runtime import Runtime

# Seconds a model must not crash before a crash counts as over.
STABLE_S = 60.0
_ENDED = "the model's process has ended; the next call starts it again"


class ModelWatch:
    """Reports crashes of the served model as findings, and their end; ends a model that outgrows its limit.

    Attributes:
        problem: the last crash while the model has not been stable since, "" otherwise.
        stopped: why nothing is served any more, "" while the model is tried again after each crash.

    Args:
        findings: where crashes are reported.
        monotonic: seconds.
        memory_mb: MiB that the model's process may have resident; None for as many as it takes.
        crash_limit: crashes without a stable minute between them that are one finding of their own.
        stop: whether the model is then given up, until another bundle is activated or the agent restarted.
    """

    def __init__(
        self,
        findings: RuntimeFindings,
        monotonic: Callable[[], float],
        *,
        memory_mb: float | None = None,
        crash_limit: int = 10,
        stop: bool = False,
    ) -> None:
        self._findings = findings
        self._monotonic = monotonic
        self._memory_mb = memory_mb
        self._crash_limit = crash_limit
        self._stop = stop
        self._crashes = 0
        self.stopped = ""
        self._seen: object = None
        self._crashed_at = 0.0
        self.problem = ""

    def failed(self, error: Exception, bundle: str) -> bool:
        """A call got no answer; whether that was a crash. May be called from any thread."""
        # While backing off nothing new has happened.
        if not isinstance(error, RuntimeCrashed) or isinstance(error, RuntimeBackingOff):
            return False
        self._seen = error
        self._crashed(str(error), bundle)
        return True

    def begin(self) -> None:
        """Another model serves: what the one before did is over."""
        self._crashes = 0
        self.problem = self.stopped = ""
        for kind in (MODEL_CRASHED, CRASH_LOOP):
            self._findings.clear(kind, "another bundle was activated")

    def look(self, runtime: Runtime, bundle: str) -> None:
        """Called every now and then: notice a death that no call saw, and a recovery."""
        self._weigh(runtime)
        crash = getattr(runtime, "last_crash", None)
        if crash is not None and crash is not self._seen:
            self._seen = crash
            self._crashed(str(crash), bundle)
        elif not getattr(runtime, "alive", True) and not self.problem:
            # The next call finds out what it died of, and counts it.
            self.problem, self._crashed_at = _ENDED, self._monotonic()
            self._findings.raise_(MODEL_CRASHED, _ENDED, bundle)
        elif self.problem and self._monotonic() - self._crashed_at > STABLE_S:
            if self.stopped:
                return
            self.problem, self._crashes = "", 0
            for kind in (MODEL_CRASHED, CRASH_LOOP):
                self._findings.clear(kind, f"the model has run for {STABLE_S:.0f} s without a crash")

    def _crashed(self, text: str, bundle: str) -> None:
        self.problem, self._crashed_at = text, self._monotonic()
        self._crashes += 1
        self._findings.raise_(MODEL_CRASHED, text, bundle)
        if self._crashes >= self._crash_limit:
            loop = f"the model crashed {self._crashes} times without running for {STABLE_S:.0f} s: {text}"
            if self._stop and not self.stopped:
                self.stopped = loop
                loop += "; nothing is served until another bundle is activated or the agent is restarted"
            self._findings.raise_(CRASH_LOOP, loop, bundle)

    def _weigh(self, runtime: Runtime) -> None:
        """End a model whose process has outgrown its limit."""
        pid = getattr(runtime, "pid", None)
        if self._memory_mb is None or pid is None or not isinstance(runtime, IsolatedRuntime):
            return
        size = resident_mb(pid)
        if size > self._memory_mb:
            runtime.end_child(f"it had grown to {size:.0f} MiB, and model.memory_mb is {self._memory_mb:g}")
