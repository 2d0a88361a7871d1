"""What an aggregator has to know to read a bundle's windows from this device."""

from __future__ import annotations

from driftpost_models.bundle import Bundle, describe
from driftpost_sync.messages import DescribeBody


def description(bundle: Bundle, *, window_seconds: float, budget: str) -> DescribeBody:
    """Describe a bundle with what this device's settings change of it.

    Args:
        bundle: the one that is guarded.
        window_seconds: length of the windows made here.
        budget: false alarms allowed here, in words.
    """
    return DescribeBody.from_plain({**describe(bundle), "window_s": window_seconds, "budget": budget})
