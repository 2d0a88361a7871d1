"""What a message from a device must satisfy before it counts. Pure: bytes in, checked values or a reason out.

The codec has already refused what breaks the protocol; here stand the checks that need knowledge beyond the
message: who may send it, what its bundle's streams are, and what can not have happened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from driftpost_aggregator.errors import MessageRejected
from driftpost_aggregator.registry import KnownBundle
from driftpost_aggregator.times import ClockUsed, Sent, interval
from driftpost_sketches import window_batch
from driftpost_sketches.errors import SketchError
from driftpost_sketches.window import Window
from driftpost_sync import topics
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.messages import Envelope, WindowBody

# More inferences than this in a second are not made by one device, rows/s: a model call takes microseconds.
MAX_ROWS_PER_S = 1_000_000
# Base windows merged into one at most: a year of one-second windows.
MAX_PARTS = 32_000_000
# A base window lasts 30 days at most, a merged one as long as a device can be offline, ms.
MAX_SPAN_MS = 10 * 365 * 86_400_000


@dataclass(frozen=True)
class CheckedWindow:
    """A window that may be counted.

    Attributes:
        body: as received.
        rows, parts: inferences, and base windows, in its sketch.
        start_ms, end_ms: corrected, Unix ms.
        clock: which clock placed it.
        evidence: largest ln evidence over its tracked streams, None if it carries none.
    """

    body: WindowBody
    rows: int
    parts: int
    start_ms: int
    end_ms: int
    clock: ClockUsed
    evidence: float | None


def check_envelope(topic: str, payload: bytes, fleet: str) -> Envelope:
    """An `up` message whose sender is who its topic says.

    Raises:
        MessageRejected: it breaks the protocol, is another fleet's, or names another device than its topic.
    """
    try:
        address = topics.parse(topic)
        envelope = Envelope.from_bytes(payload)
    except MalformedMessage as error:
        raise MessageRejected(str(error)) from error
    if address.fleet != fleet:
        raise MessageRejected(f"fleet {address.fleet!r} is not ours")
    if envelope.device != address.device:
        raise MessageRejected(
            f"it says it is {envelope.device!r} but came on the topic of {address.device!r}"
        )
    return envelope


def check_window(body: WindowBody, known: KnownBundle | None, sent: Sent) -> CheckedWindow:
    """A window that its device can have recorded.

    Args:
        body: as decoded.
        known: its bundle, None while nobody has described it.
        sent: clocks of the message.

    Raises:
        MessageRejected: with what does not fit.
    """
    return check_circumstances(body, read_sketch(body, known), known, sent)


def read_sketch(body: WindowBody, known: KnownBundle | None) -> Window:
    """The sketch of a window, checked against its bundle as far as that is known.

    Raises:
        MessageRejected: with what does not fit.
    """
    try:
        window = Window.from_bytes(body.window)
        if window.schema_id != body.schema_id:
            raise MessageRejected("its sketch is of another schema than it says")
        if known is not None:
            check_sketch(window, known)
    except SketchError as error:
        raise MessageRejected(str(error)) from error
    return window


class Counted(Protocol):
    """What of a sketch its circumstances are judged by."""

    @property
    def rows(self) -> int:
        """Inferences in it."""

    @property
    def parts(self) -> int:
        """Base windows in it."""


def check_circumstances(
    body: WindowBody, counted: Counted, known: KnownBundle | None, sent: Sent
) -> CheckedWindow:
    """A window whose sketch is good, and whose times and counts can be.

    Args:
        body: as decoded.
        counted: its sketch.
        known: its bundle, None while nobody has described it.
        sent: clocks of the message.

    Raises:
        MessageRejected: with what does not fit.
    """
    rows, parts = counted.rows, counted.parts
    span_ms = body.mono_end - body.mono_start
    if parts < 1 or parts > MAX_PARTS:
        raise MessageRejected(f"{parts} base windows in one are not 1 .. {MAX_PARTS}")
    if span_ms > MAX_SPAN_MS:
        raise MessageRejected(f"it spans {span_ms / 86_400_000:.0f} days")
    # Clocks tick in ms and a window closes a little late: one second of grace.
    if rows > MAX_ROWS_PER_S * (span_ms / 1000 + 1):
        raise MessageRejected(f"{rows} rows in {span_ms / 1000:g} s can not have been inferred")
    start, end, clock = interval(sent, body.mono_start, body.mono_end, body.wall_start, body.wall_end)
    evidence = _largest_evidence(body.evidence, known)
    return CheckedWindow(body, rows, parts, start, end, clock, evidence)


def check_sketch(window: Window, known: KnownBundle) -> None:
    """Refuse a sketch that can not have been made with a bundle.

    Raises:
        SketchError: with what does not fit.
    """
    window_batch.check_window(known.schema, window, joint_of(known))


def joint_of(known: KnownBundle) -> int | None:
    """Joint features that a window of this bundle carries, if it carries any."""
    return None if known.joint is None else known.joint.count


def _largest_evidence(packed: bytes, known: KnownBundle | None) -> float | None:
    if not packed:
        return None
    values = np.frombuffer(packed, dtype="<f2").astype(np.float64)
    if known is not None and len(values) != len(known.schema.tracked_streams):
        raise MessageRejected(
            f"evidence for {len(values)} streams, its schema tracks {len(known.schema.tracked_streams)}"
        )
    if np.isnan(values).any():
        raise MessageRejected("its evidence is not a number")
    # float16 ends at 65,504; evidence beyond it arrives as infinity and is as good as the largest number.
    largest = float(np.clip(values, -65_504.0, 65_504.0).max())
    return largest if math.isfinite(largest) else None
