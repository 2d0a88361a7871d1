"""Feeds one agent at a steady rate, as a camera process would, and keeps score of the answers."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from camera import NORMAL, Camera, Effect
from inference_client import InferenceClient, InferenceRefused


@dataclass(frozen=True)
class Tally:
    """Score of one phase.

    Attributes:
        fed: Frames that were answered.
        correct: Answers that name the digit that was before the camera.
        flagged: Answers whose verdict was not ok.
        seconds: Sum of the round trips.
    """

    fed: int = 0
    correct: int = 0
    flagged: int = 0
    seconds: float = 0.0

    @property
    def accuracy(self) -> float:
        """Share of correct answers; NaN before the first."""
        return self.correct / self.fed if self.fed else float("nan")

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.fed + other.fed,
            self.correct + other.correct,
            self.flagged + other.flagged,
            self.seconds + other.seconds,
        )


class Feeder:
    """A camera before one agent, in a thread of its own.

    Args:
        device: Name of the device; names the thread.
        client: Connection to the agent; this feeder owns it.
        camera: Where frames come from.
        rate_hz: Frames a second.
        exit_event: Ends the thread.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        device: str,
        client: InferenceClient,
        camera: Camera,
        rate_hz: float,
        *,
        exit_event: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device = device
        self._client = client
        self._camera = camera
        self._period = 1.0 / rate_hz
        self._exit = exit_event
        self._clock = clock
        self._lock = threading.Lock()
        self._phase = "quiet"
        self._effect = NORMAL
        self._tallies: dict[str, Tally] = {}
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"camera-{device}", daemon=True)

    @property
    def failure(self) -> str | None:
        """What ended the feeding early, or None."""
        return self._failure

    @property
    def phase(self) -> str:
        """What frames are counted to now."""
        with self._lock:
            return self._phase

    @property
    def effect(self) -> Effect:
        """What its camera suffers from now."""
        with self._lock:
            return self._effect

    @property
    def tallies(self) -> dict[str, Tally]:
        """Score by phase."""
        with self._lock:
            return dict(self._tallies)

    @property
    def fed(self) -> int:
        """Frames answered so far."""
        return sum(tally.fed for tally in self.tallies.values())

    def start(self) -> None:
        """Start feeding."""
        self._thread.start()

    def enter(self, phase: str, effect: Effect = NORMAL) -> None:
        """From the next frame on, count to another phase and show another effect."""
        with self._lock:
            self._phase, self._effect = phase, effect

    def join(self) -> None:
        """Wait until it has stopped; its exit event must be set."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._client.connect()
            self._feed()
        except (OSError, http.client.HTTPException, InferenceRefused) as error:
            self._failure = f"{type(error).__name__}: {error}"
        finally:
            self._client.close()

    def _feed(self) -> None:
        due = self._clock()
        while not self._exit.is_set():
            with self._lock:
                phase, effect = self._phase, self._effect
            frame = self._camera.shoot(effect)
            start = self._clock()
            answer = self._client.infer(frame.pixels)
            end = self._clock()
            score = Tally(1, int(answer.digit == frame.label), int(answer.verdict != "ok"), end - start)
            with self._lock:
                self._tallies[phase] = self._tallies.get(phase, Tally()) + score
            due += self._period
            # A camera that was held up drops frames rather than sending them in a burst.
            due = max(due, end - self._period)
            self._exit.wait(max(0.0, due - end))


def total(tallies: list[Tally]) -> Tally:
    """Sum of several scores."""
    return sum(tallies, Tally())
