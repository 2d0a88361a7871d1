"""What follows from an attempt, and when the next one is due. Pure."""

from __future__ import annotations

import email.utils
from dataclasses import dataclass
from datetime import timezone
from typing import Literal

# Standard Webhooks' suggested waits before each attempt, seconds.
SCHEDULE_S = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
# Each wait is stretched by up to this share, at random, so that requests do not come back in step.
JITTER = 0.2
# Beside an attempt's own timeout: what starting it and noting its outcome may take, ms.
_LEASE_SLACK_MS = 10_000
# A receiver may ask for more patience, but not for ever, seconds.
MAX_RETRY_AFTER_S = 86_400.0

State = Literal["delivered", "pending", "failed"]


@dataclass(frozen=True)
class Answer:
    """What came of one attempt.

    Attributes:
        status: HTTP status, None if there was no answer.
        error: what went wrong, "" if nothing did.
        retry_after_s: the receiver's wish, None if it had none.
    """

    status: int | None
    error: str
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What follows from an answer.

    Attributes:
        state: the delivery's new state.
        disable: whether the target is to be left alone from now on (410 Gone).
    """

    state: State
    disable: bool = False


def judge(answer: Answer, attempts: int) -> Verdict:
    """Decide after an attempt. Pure.

    Args:
        answer: what came back.
        attempts: attempts made, this one included.
    """
    if answer.status is not None and 200 <= answer.status < 300:
        return Verdict("delivered")
    if answer.status == 410:
        return Verdict("failed", disable=True)
    return Verdict("pending" if attempts < len(SCHEDULE_S) else "failed")


def next_attempt(attempts: int, now_ms: int, retry_after_s: float | None, jitter: float) -> int:
    """When to try again, Unix ms. Pure.

    Args:
        attempts: attempts made so far.
        now_ms: Unix ms.
        retry_after_s: the receiver's wish; it can only lengthen the wait.
        jitter: 0 to 1, drawn at random.
    """
    wait = SCHEDULE_S[min(attempts, len(SCHEDULE_S) - 1)] * (1 + JITTER * jitter)
    if retry_after_s is not None:
        wait = max(wait, min(retry_after_s, MAX_RETRY_AFTER_S) * (1 + JITTER * jitter))
    return now_ms + int(wait * 1000)


def lease(attempts: int, now_ms: int, timeout_s: float, jitter: float) -> int:
    """When an attempt that is about to begin is due again if nobody notes its outcome, Unix ms. Pure.

    Not before it can have ended: another worker would make the same attempt beside it.

    Args:
        attempts: attempts made, this one included.
        now_ms: Unix ms.
        timeout_s: that the attempt may take.
        jitter: 0 to 1, drawn at random.
    """
    over_ms = now_ms + round(timeout_s * 1000) + _LEASE_SLACK_MS
    return max(next_attempt(attempts, now_ms, None, jitter), over_ms)


def retry_after(value: str | None, now_ms: int) -> float | None:
    """A Retry-After header in seconds from now; None if absent or unreadable (RFC 9110, 10.2.3)."""
    if not value:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(moment.timestamp() - now_ms / 1000, 0.0)
