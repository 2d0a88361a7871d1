"""While nothing changes: joint alarms within their budget, over many references and many devices."""

import math

import numpy as np
import pytest

from driftpost_sketches.drift.joint.evidence import JointEvidence
from driftpost_sketches.drift.joint.starts import Starts
from hanging_together import calibrated, closed, factor_rows

SIZE = 25
WINDOWS = 60
# The level at which five runs of a hundred may alarm at most: a run's chance to reach A is windows / A.
LEVEL = math.log(WINDOWS / 0.05)
RUNS = 60
MOST = 8  # of 60 at 5 %: beyond it by chance in 0.9 % of suites, were the promise used up in full


def reaches(calibration, rows):
    plan = calibration.joint
    evidence, starts = JointEvidence(plan, LEVEL), Starts(plan.count)
    highest = -math.inf
    for window, _ in closed(calibration, rows, SIZE):
        starts.push(window.joint_rows, window.joint)
        _, lengths, since = starts.since()
        logs = evidence.logs(evidence.standardise(since, lengths), lengths)
        highest = max(highest, float(np.logaddexp.reduce(logs)))
    return highest >= LEVEL


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        ({}, 4_000),
        ({"rho": 0.9}, 10_000),
        ({"rho": 0.9}, 6_000),  # too short for its memory: charged, not broken
        ({"tails": 2.5}, 4_000),
        ({"rho": 0.5, "tails": 3.0}, 6_000),
        ({}, 1_000),
    ],
    ids=["independent", "AR 0.9", "AR 0.9 short", "heavy tails", "AR 0.5 heavy tails", "short"],
)
def test_false_alarms_stay_within_the_promise(kind, reference):
    alarms = 0
    for seed in range(RUNS // 20):
        rng = np.random.default_rng(seed)
        calibration = calibrated(factor_rows(rng, reference, 6, **kind))
        assert calibration.joint is not None
        alarms += sum(reaches(calibration, factor_rows(rng, SIZE * WINDOWS, 6, **kind)) for _ in range(20))
    assert alarms <= MOST


@pytest.mark.parametrize("streams", [3, 30, 60])
def test_the_promise_holds_in_any_dimension(streams):
    alarms = 0
    for seed in range(3):
        rng = np.random.default_rng(100 + seed)
        calibration = calibrated(factor_rows(rng, 4_000, streams))
        alarms += sum(reaches(calibration, factor_rows(rng, SIZE * WINDOWS, streams)) for _ in range(8))
    assert alarms <= 5  # of 24 at 5 %: beyond it by chance in 0.1 % of suites
