"""How much of its privacy budget a device has spent, and what a release may still cost.

Losses are counted as zero-concentrated differential privacy (Bun and Steinke 2016): Gaussian noise of
variance v on counts that one subject can move by d in Euclidean length costs rho = d**2 / (2 * v), costs of
releases add up, and rho is at most `epsilon` at `delta` when sqrt(rho) <= sqrt(ln(1/delta) + epsilon) -
sqrt(ln(1/delta)). For many streams and releases this is far cheaper than adding up epsilons: the sum grows
with the square root of their number.

Time is the device's own running time: a clock that is set forward must not earn budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

DAY_MS = 86_400_000
# Relative slack of the comparisons: costs are sums of floats that are meant to add up to the budget.
_ROUNDING = 1e-9


def rho_of(epsilon: float, delta: float) -> float:
    """The concentrated budget that (epsilon, delta) allows (Bun and Steinke 2016, proposition 1.3).

    Raises:
        ValueError: epsilon is not positive, or delta not between 0 and 1.
    """
    if not 0.0 < epsilon < math.inf or not 0.0 < delta < 1.0:
        raise ValueError(f"epsilon {epsilon} must be positive and delta {delta} between 0 and 1")
    log = math.log(1.0 / delta)
    # The difference of the roots, without cancellation for a small epsilon.
    return (epsilon / (math.sqrt(log + epsilon) + math.sqrt(log))) ** 2


def epsilon_of(rho: float, delta: float) -> float:
    """The epsilon that a concentrated loss amounts to at `delta`."""
    return rho + 2.0 * math.sqrt(rho * math.log(1.0 / delta))


@dataclass(frozen=True)
class Release:
    """What left the device once.

    Attributes:
        end_ms: running time of the device at the end of the data in it, ms.
        rho: its cost.
    """

    end_ms: int
    rho: float


@dataclass(frozen=True)
class Accountant:
    """Spending of one device; immutable, `charge` gives the next.

    Attributes:
        daily: rho that the data of any 24 hours of running time may lose.
        total: rho for good, inf for no limit.
        spent: rho lost so far.
        recent: releases that a day in the future can still touch, oldest first.
    """

    daily: float
    total: float = math.inf
    spent: float = 0.0
    recent: tuple[Release, ...] = ()

    def room(self, start_ms: int) -> float:
        """What a release of data that begins at `start_ms` may cost.

        Every release that some 24 hours share with it counts: all that end after 24 hours before its start.
        """
        near = sum(release.rho for release in self.recent if release.end_ms > start_ms - DAY_MS)
        return max(0.0, min(self.daily - near, self.total - self.spent))

    def affords(self, rho: float, start_ms: int) -> bool:
        """Whether a release of data that begins at `start_ms` may cost `rho`."""
        return 0.0 < rho <= self.room(start_ms) + self.daily * _ROUNDING

    def exhausted(self, rho: float) -> bool:
        """Whether the total budget can never pay `rho` again."""
        return self.spent + rho > self.total * (1.0 + _ROUNDING)

    def charge(self, rho: float, start_ms: int, end_ms: int) -> Accountant:
        """The account after a release of the data from `start_ms` to `end_ms`.

        Raises:
            ValueError: it is not afforded; nothing may be released then.
        """
        if not self.affords(rho, start_ms):
            raise ValueError(f"a release of rho {rho:.3g} with only {self.room(start_ms):.3g} left")
        kept = tuple(release for release in self.recent if release.end_ms > start_ms - DAY_MS)
        return replace(self, spent=self.spent + rho, recent=(*kept, Release(end_ms, rho)))

    def to_plain(self) -> dict[str, object]:
        """What must be remembered: plain types."""
        return {"spent": self.spent, "recent": [[release.end_ms, release.rho] for release in self.recent]}

    def remembering(self, spent: float, recent: Sequence[tuple[int, float]]) -> Accountant:
        """The same limits with a remembered past."""
        return replace(
            self, spent=float(spent), recent=tuple(Release(int(end), float(rho)) for end, rho in recent)
        )


def share_of_day(daily: float, release_ms: int) -> float:
    """What each of equal releases may cost, so that the data of any 24 hours stays within `daily`.

    A day that begins in mid-release touches one more than fit into it.
    """
    return daily / (math.ceil(DAY_MS / release_ms) + 1)
