"""A threshold in the data's own unit means something else in another unit."""

import numpy as np
import pytest

from driftpost_sketches.drift.detector import DriftDetector
from simulated_streams import alarms, independent, numeric_schema
from single_windows import Judge

ROWS = 100_000


def page_hinkley(values, threshold=50.0, delta=0.005, forgetting=0.9999):
    """Rows at which the test alarms (Page 1954), with the constants that libraries ship."""
    mean, total, low, n, said = 0.0, 0.0, 0.0, 0, []
    for row, x in enumerate(values.tolist()):
        n += 1
        mean += (x - mean) / n
        total = forgetting * total + x - mean - delta
        low = min(low, total)
        if n > 30 and total - low > threshold:
            said.append(row)
            mean, total, low, n = 0.0, 0.0, 0.0, 0
    return said


def test_page_hinkley_alarms_by_the_unit_and_we_do_not():
    plain = independent(np.random.default_rng(0), 30_000)[:, 0]
    shifted = plain[:2_000] * 1e-3 + np.where(np.arange(2_000) < 1_000, 0.0, 5e-3)
    assert len(page_hinkley(10 * plain)) > 20 * max(len(page_hinkley(plain)), 1)
    assert page_hinkley(shifted) == []


@pytest.mark.parametrize("unit", [1e-3, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("zero", [0.0, 1e3])
def test_the_same_data_in_another_unit_say_the_same(unit, zero):
    rng = np.random.default_rng(1)
    reference = independent(rng, 20_000)
    judge = Judge(numeric_schema(unit * reference + zero), unit * reference + zero, threshold=np.log(1e5))
    quiet = independent(rng, ROWS)
    said = alarms(DriftDetector(judge.calibration, judge.threshold), judge.schema, unit * quiet + zero, 100)
    assert said == []
    live = np.concatenate([quiet[:1_000], quiet[1_000:2_000] + 5.0])
    ((row, alarm),) = alarms(
        DriftDetector(judge.calibration, judge.threshold), judge.schema, unit * live + zero, 20
    )
    assert row == 1_020
    assert alarm.effect == pytest.approx(5.0, abs=0.8)
    assert alarm.effect_natural == pytest.approx(5.0 * unit, rel=0.16)
