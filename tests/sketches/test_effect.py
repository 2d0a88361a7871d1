import math

import numpy as np
import pytest

from driftpost_sketches.drift.effect import effect_sizes
from driftpost_sketches.errors import IncompatibleSketch
from driftpost_sketches.window import Window
from simulated_streams import independent, mixed_schema, numeric_schema, windows


def window_of(schema, values):
    ((window, _),) = windows(schema, values, len(values))
    return window


def effects(change, rows=20_000, outlier=False):
    rng = np.random.default_rng(0)
    then, now = independent(rng, rows), change(independent(rng, rows))
    if outlier:
        then[0] = 1e6
    schema = numeric_schema(then)
    return effect_sizes(schema, window_of(schema, then), window_of(schema, now))[0]


@pytest.mark.parametrize("shift", [-1.0, 0.5, 3.0])
def test_a_shift_is_told_in_deviations_units_and_direction(shift):
    effect = effects(lambda x: x + shift)
    assert effect.sd_shift == pytest.approx(shift, abs=0.03)
    assert effect.natural_shift == pytest.approx(shift, abs=0.03)
    assert effect.std_ratio == pytest.approx(1.0, abs=0.02)
    assert effect.direction == ("up" if shift > 0 else "down")


def test_a_change_of_scale_is_told_as_a_ratio():
    effect = effects(lambda x: 2 * x)
    assert effect.std_ratio == pytest.approx(2.0, abs=0.05)
    assert effect.size == pytest.approx(math.log(2), abs=0.05)


def test_one_outlier_in_the_reference_hides_nothing():
    clean, spoilt = effects(lambda x: x + 0.5), effects(lambda x: x + 0.5, outlier=True)
    assert spoilt.psi == pytest.approx(clean.psi, rel=0.1)
    assert spoilt.sd_shift == pytest.approx(0.5, abs=0.05)


def test_missing_values_are_told_as_a_share():
    effect = effects(lambda x: np.where(np.arange(len(x))[:, None] % 4 == 0, np.nan, x))
    assert effect.missing_change == pytest.approx(0.25)


def test_a_constant_that_moves_is_a_large_effect_and_not_infinite():
    then, now = np.full((100, 1), 5.0), np.full((100, 1), 5.5)
    schema = numeric_schema(then)
    (effect,) = effect_sizes(schema, window_of(schema, then), window_of(schema, now))
    assert 10 < effect.sd_shift < 1e4
    assert effect.natural_shift == pytest.approx(0.5, abs=0.01)


def test_unseen_categories_and_moved_shares_are_told():
    schema, values, _ = mixed_schema(np.random.default_rng(0))
    moved = values.copy()
    moved[:200, 4] = 99
    moved[200:600, 4] = 0
    by_name = {e.stream: e for e in effect_sizes(schema, window_of(schema, values), window_of(schema, moved))}
    assert by_name["class"].new_category_share == pytest.approx(0.1)
    assert by_name["class"].largest_bin == 0
    assert by_name["class"].share_change == pytest.approx(0.14, abs=0.03)
    assert by_name["level"].size == pytest.approx(0.0, abs=1e-6)


def test_no_rows_are_no_effect_and_other_schemas_are_refused():
    schema, values, _ = mixed_schema(np.random.default_rng(0))
    whole = window_of(schema, values)
    assert all(e.size == 0 for e in effect_sizes(schema, whole, Window.empty(schema)))
    with pytest.raises(IncompatibleSketch):
        effect_sizes(schema, whole, Window.empty(mixed_schema(np.random.default_rng(1))[0]))
