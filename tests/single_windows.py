"""One window against one reference, as batch methods are used: how often is something said?

Evidence that reaches 20 has a probability of at most 1 in 20 when nothing has changed, so a threshold of
`ONE_IN_TWENTY` makes a detector's single window comparable with a test at the level of 5 %.
"""

import math

import numpy as np

from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.drift.marginal import MarginalDetector
from simulated_streams import windows

ONE_IN_TWENTY = math.log(20.0)
LEVEL = 0.05


def at_most(trials, level=LEVEL):
    """Alarms that a test of this level exceeds about once in 10,000 times."""
    return int(trials * level + 3.7 * math.sqrt(trials * level * (1 - level)) + 1)


class Judge:
    """Both detectors, each new for every window they are asked about."""

    def __init__(self, schema, reference, threshold=ONE_IN_TWENTY, **options):
        self.schema, self.threshold = schema, threshold
        self.calibration = Calibration.fit(schema, reference, **options)
        names = self.calibration.tracked_names
        self._tau = {name: self.calibration.tau(name) for name in names}
        self._n_ref = {name: self.calibration.n_ref(name) for name in names}
        self._effect = {name: self.calibration.effect(name) for name in names}
        self._device = DriftDetector(self.calibration, threshold)
        self._fresh = self._device.state_to_bytes()
        self._fleet = MarginalDetector(
            schema, self.calibration.baseline, self._tau, self._n_ref, self._effect, threshold
        )
        self._fleet_fresh = self._fleet.state_to_bytes()

    def on_device(self, live):
        """What the device's detector says about a single window of these rows."""
        self._device.restore(self._fresh)
        ((window, transitions),) = windows(self.schema, live, len(live))
        return self._device.step(transitions, window)

    def in_fleet(self, live):
        """What the fleet's detector says about them."""
        self._fleet.restore(self._fleet_fresh)
        ((window, _),) = windows(self.schema, live, len(live))
        return self._fleet.step(window)

    def says(self, live):
        """What either says."""
        return self.on_device(live) + self.in_fleet(live)


def kolmogorov_p(distance, n, m):
    """Asymptotic two-sample p-value of a Kolmogorov-Smirnov distance."""
    root = math.sqrt(n * m / (n + m))
    x = (root + 0.12 + 0.11 / root) * distance
    if x < 0.2:
        return 1.0
    return min(1.0, 2.0 * sum((-1) ** (k - 1) * math.exp(-2.0 * k * k * x * x) for k in range(1, 101)))


def kolmogorov_distance(a, b):
    """Largest difference of two samples' distribution functions."""
    a, b = np.sort(a), np.sort(b)
    every = np.concatenate([a, b])
    below_a = np.searchsorted(a, every, side="right") / len(a)
    below_b = np.searchsorted(b, every, side="right") / len(b)
    return float(np.abs(below_a - below_b).max())
