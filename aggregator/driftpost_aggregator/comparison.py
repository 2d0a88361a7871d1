"""Devices of one bundle since some moment, to be merged again with and without some of them.

The merge is the robust one that the fleet's tests use (`drift/robust_merge.py`), so that neither a few lying
devices nor one that counts more than all others decide whether the rest still drifts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from driftpost_aggregator.joint_drift import clear_change
from driftpost_aggregator.merged_watch import MIN_DEVICES
from driftpost_aggregator.registry import KnownBundle
from driftpost_sketches.cells import CELLS
from driftpost_sketches.drift.joint.merge import merge_devices
from driftpost_sketches.drift.marginal import MarginalDetector
from driftpost_sketches.schema import StreamKind
from driftpost_sketches.window import Window

# Evidence from which some devices, merged, drift clearly: ten thousand to one.
CLEAR_LOG_E = math.log(1e4)
# With at least this share of the whole's change left, the rest drifts as the whole does.
SAME_SHARE = 0.5


@dataclass(frozen=True)
class Change:
    """One stream in merged windows.

    Attributes:
        shift: of a numeric stream in reference sd; of a categorical one the share that changed most.
        natural: the same in the stream's unit.
        spread: standard deviation over the reference's.
        log_e: ln e-value of these windows against the reference.
        cell: drift cell whose share changed most.
    """

    shift: float
    natural: float
    spread: float
    log_e: float
    cell: int

    @property
    def clear(self) -> bool:
        """Whether there is drift beyond what liars and nature can have done."""
        return self.log_e >= CLEAR_LOG_E

    @property
    def size(self) -> float:
        """Of the change: of location in sd, or of ln spread, whichever is larger."""
        return max(abs(self.shift), abs(math.log(self.spread)) if self.spread > 0 else 0.0)

    def goes_with(self, whole: Change) -> bool:
        """Whether this is at least half of the whole's change, in its direction."""
        if abs(whole.shift) >= abs(math.log(whole.spread) if whole.spread > 0 else 0.0):
            return self.shift * math.copysign(1.0, whole.shift) >= SAME_SHARE * abs(whole.shift)
        same_side = (self.spread > 1.0) == (whole.spread > 1.0)
        return same_side and self.size >= SAME_SHARE * whole.size


class Comparison:
    """Merges any selection of some devices.

    Args:
        known: their bundle.
        shown: what each has sent.
    """

    def __init__(self, known: KnownBundle, shown: Mapping[str, Window]) -> None:
        self._known = known
        self._detector = MarginalDetector(
            known.schema,
            known.baseline,
            known.tau,
            known.n_ref,
            known.smallest_effect,
            CLEAR_LOG_E,
            known.joint,
        )
        self._at = {name: position for position, name in enumerate(sorted(shown))}
        read = [self._detector.read(shown[name]) for name in self._at]
        self._sums = np.array([part[0] for part in read])
        self._rows = np.array([part[1] for part in read])
        self._noise = np.array([part[2] for part in read])
        self._joint = [(shown[name].joint_rows, shown[name].joint) for name in self._at]
        self._tracked = [known.schema.streams[i] for i in known.schema.tracked_streams]

    @property
    def devices(self) -> frozenset[str]:
        """All that sent something."""
        return frozenset(self._at)

    def changes(self, names: Collection[str]) -> dict[str, Change]:
        """Every tracked stream of some devices' merged windows; empty for fewer than two devices."""
        chosen = [self._at[name] for name in sorted(names) if name in self._at]
        if len(chosen) < MIN_DEVICES:
            return {}
        merged = self._detector.merge(self._sums[chosen], self._rows[chosen], self._noise[chosen])
        log_e = self._detector.once(merged)
        reference = self._detector.reference
        result = {}
        for t, stream in enumerate(self._tracked):
            if not merged.rows[t]:
                continue
            measured = reference.measure(t, merged.sums[t])
            moved = (measured.shares - reference.shares[t])[:CELLS]
            cell = int(np.abs(moved).argmax())
            numeric = stream.kind is StreamKind.NUMERIC
            shift = measured.shift if numeric else float(moved[cell])
            natural = measured.natural if numeric else float(moved[cell])
            result[stream.name] = Change(shift, natural, measured.spread, float(log_e[t]), cell)
        return result

    def joint_change(self, names: Collection[str]) -> float:
        """The largest clear change of a joint feature, in its standard deviations; 0 if none is clear."""
        rows, sums = self.joint(names)
        return clear_change(self._known, rows, sums)

    def joint(self, names: Iterable[str]) -> tuple[int, np.ndarray[tuple[int], np.dtype[np.int64]]]:
        """Joint sums of some devices, merged; (0, empty) where fewer than two send any."""
        plan = self._known.joint
        chosen = [self._joint[self._at[name]] for name in sorted(names) if name in self._at]
        told = [] if plan is None else [one for one in chosen if one[0] and len(one[1]) == plan.count]
        if plan is None or len(told) < MIN_DEVICES:
            return 0, np.zeros(0, dtype=np.int64)
        rows, sums = merge_devices(plan, np.array([n for n, _ in told]), np.array([one for _, one in told]))
        return rows, sums
