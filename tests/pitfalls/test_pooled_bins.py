"""Bins over the pooled range: one wild value and all others share a bin."""

import numpy as np
import pytest

from driftpost_sketches.drift.effect import effect_sizes
from simulated_streams import independent, numeric_schema, windows
from single_windows import Judge

SHIFT = 0.5
WILD = 1e6


def pooled_index(a, b):
    """Population stability index over ten bins between the pooled extremes."""
    edges = np.linspace(min(a.min(), b.min()), max(a.max(), b.max()), 11)
    p, q = (np.histogram(x, edges)[0] / len(x) + 1e-4 for x in (a, b))
    return float(((q - p) * np.log(q / p)).sum())


@pytest.mark.parametrize("side", ["reference", "live"])
def test_one_wild_value_hides_nothing(side):
    rng = np.random.default_rng(0)
    reference, live = independent(rng, 20_000), independent(rng, 20_000) + SHIFT
    honest = pooled_index(reference[:, 0], live[:, 0])
    spoilt = {"reference": reference, "live": live}[side]
    spoilt[7] = WILD
    assert honest > 0.2
    assert pooled_index(reference[:, 0], live[:, 0]) < 0.01
    schema = numeric_schema(reference)
    judge = Judge(schema, reference)
    for said in (judge.on_device(live), judge.in_fleet(live)):
        (alarm,) = said
        assert (alarm.kind, alarm.direction) == ("shift", "up")
        assert alarm.effect == pytest.approx(SHIFT, abs=0.05)
    ((window, _),) = windows(schema, live, len(live))
    (effect,) = effect_sizes(schema, judge.calibration.baseline, window)
    assert effect.psi == pytest.approx(honest, rel=0.4)


def test_one_wild_value_is_no_change_either():
    rng = np.random.default_rng(1)
    reference, live = independent(rng, 20_000), independent(rng, 20_000)
    live[7] = -WILD
    assert Judge(numeric_schema(reference), reference).says(live) == []
