"""State that survives an alarm alarms again on the same change."""

import numpy as np

from driftpost_sketches.drift.detector import DriftDetector
from simulated_streams import alarms, independent, numeric_schema
from single_windows import Judge


def cusum_rows(values, drift=0.5, threshold=8.0):
    """Rows at which a two-sided CUSUM stands above its threshold, without being told that it has spoken."""
    up = down = 0.0
    said = []
    for row, x in enumerate(values.tolist()):
        up, down = max(0.0, up + x - drift), max(0.0, down - x - drift)
        if max(up, down) > threshold:
            said.append(row)
    return said


def test_one_change_is_one_alarm_for_as_long_as_it_lasts():
    rng = np.random.default_rng(0)
    reference = independent(rng, 10_000)
    judge = Judge(numeric_schema(reference), reference, threshold=np.log(1e5))
    live = independent(rng, 20_000)
    live[1_000:] += 1.5
    assert len(cusum_rows(live[:, 0])) > 66
    ((row, alarm),) = alarms(DriftDetector(judge.calibration, judge.threshold), judge.schema, live, 20)
    assert 1_000 < row <= 1_100
    assert alarm.state == "raised"


def test_its_end_and_its_return_are_told_once_each():
    rng = np.random.default_rng(1)
    reference = independent(rng, 10_000)
    judge = Judge(numeric_schema(reference), reference, threshold=np.log(1e5))
    live = independent(rng, 12_000)
    live[2_000:4_000] += 1.5
    live[8_000:10_000] += 1.5
    said = alarms(DriftDetector(judge.calibration, judge.threshold), judge.schema, live, 20)
    assert [a.state for _, a in said] == ["raised", "cleared", "raised", "cleared"]
