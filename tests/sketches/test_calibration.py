import numpy as np
import pytest

from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.errors import CalibrationError, MalformedSketch
from driftpost_sketches.fitting import fit_numeric
from driftpost_sketches.schema import Role, Schema
from simulated_streams import autoregressive, independent, mixed_schema, numeric_schema

YEAR = Budget.parse("1 per device-year")


def calibrated(reference, **options):
    return Calibration.fit(numeric_schema(reference), reference, **options)


def test_the_correlation_time_of_a_known_process_is_found():
    rng = np.random.default_rng(0)
    assert calibrated(independent(rng, 10_000)).tau("x0") == pytest.approx(1.0, abs=0.2)
    # An AR(1) with rho = 0.9 has (1 + 0.9) / (1 - 0.9) = 19.
    slow = calibrated(autoregressive(rng, 50_000))
    assert slow.tau("x0") == pytest.approx(19.0, rel=0.3)
    assert slow.n_ref("x0") == pytest.approx(50_000 / slow.tau("x0"))


def test_bytes_carry_everything():
    schema, values, codes = mixed_schema(np.random.default_rng(0))
    fitted = Calibration.fit(schema, values, smallest_effect={"level": 0.3, "*": 0.1}, codes=codes)
    read = Calibration.from_bytes(fitted.to_bytes())
    assert read.to_bytes() == fitted.to_bytes()
    assert read.schema == schema
    assert read.baseline == fitted.baseline
    assert read.notes == fitted.notes
    assert [read.effect(name) for name in read.tracked_names] == [0.3, 0.1, 0.1, 0.1]
    assert read.baseline.summary(schema, 1).n == 6 * len(values)


def test_progress_counts_the_streams():
    schema, values, _ = mixed_schema(np.random.default_rng(0))
    seen = []
    Calibration.fit(schema, values, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_handful_of_rows_is_refused_with_what_is_needed():
    with pytest.raises(CalibrationError, match="at least 100"):
        calibrated(np.zeros((99, 1)))


@pytest.mark.parametrize("effect", [-0.1, float("nan"), 1e9, {"nobody": 0.1}, {"x0": -1.0}])
def test_an_effect_that_is_no_size_is_refused(effect):
    with pytest.raises(CalibrationError):
        calibrated(independent(np.random.default_rng(0), 200), smallest_effect=effect)


def test_values_of_another_schema_are_refused():
    with pytest.raises(MalformedSketch):
        Calibration.fit(mixed_schema(np.random.default_rng(0))[0], np.zeros((200, 2)))


def test_asking_for_an_untracked_stream_is_a_key_error():
    schema, values, _ = mixed_schema(np.random.default_rng(0))
    fitted = Calibration.fit(schema, values)
    for name in ("count", "pixels", "nobody"):
        with pytest.raises(KeyError):
            fitted.tau(name)


def test_a_long_reference_suffices_and_a_short_one_says_how_many_rows_are_missing():
    rng = np.random.default_rng(0)
    assert calibrated(independent(rng, 10_000)).short_for(YEAR, 300) == []
    (sentence,) = calibrated(independent(rng, 300)).short_for(YEAR, 300)
    assert "x0" in sentence
    assert "rows in time order" in sentence
    more = int(sentence.split("about ")[1].split(" rows")[0].replace(",", ""))
    assert 300 < more < 10_000
    assert calibrated(independent(rng, 300 + 2 * more)).short_for(YEAR, 300) == []


def test_a_short_reference_is_charged_more_standard_errors():
    rng = np.random.default_rng(0)
    assert calibrated(autoregressive(rng, 5_000)).short_for(YEAR, 300)
    assert calibrated(independent(rng, 300), smallest_effect=1.0).short_for(YEAR, 300) == []


def test_a_repeated_reference_counts_once():
    once = independent(np.random.default_rng(0), 500, 3)
    fitted = calibrated(np.tile(once, (10, 1)))
    assert fitted.distinct == 500
    assert fitted.n_ref("x1") == 500
    assert any("only 500 of 5,000" in note for note in fitted.notes)


def test_a_repeated_reference_is_seen_behind_a_timing_that_differs_each_time():
    rng = np.random.default_rng(0)
    values = np.column_stack([np.tile(rng.normal(size=500), 10), rng.normal(size=5000)])
    schema = Schema(
        [fit_numeric("x", values[:, 0], Role.INPUT), fit_numeric("latency", values[:, 1], Role.LATENCY)]
    )
    assert Calibration.fit(schema, values).distinct == 500


def test_rows_on_a_grid_may_coincide_without_being_repeats():
    rng = np.random.default_rng(0)
    assert calibrated(rng.integers(0, 20, (5000, 2)).astype(float)).distinct == 5000
    assert calibrated(np.round(rng.normal(size=(5000, 1)), 1)).distinct == 5000


def test_independent_rows_raise_the_question_of_shuffling_and_ordered_ones_do_not():
    rng = np.random.default_rng(0)
    slow = autoregressive(rng, 5_000)
    assert not any("shuffled" in note for note in calibrated(slow).notes)
    rng.shuffle(slow)
    assert any("shuffled" in note for note in calibrated(slow).notes)


def test_a_sorted_reference_is_noticed():
    values = np.sort(independent(np.random.default_rng(0), 3_000), axis=0)
    assert any("sorted" in note for note in calibrated(values).notes)


def test_a_slow_cycle_is_noticed():
    rng = np.random.default_rng(0)
    cycle = np.sin(np.arange(20_000) * 2 * np.pi / 400)[:, None] + rng.normal(size=(20_000, 1))
    volatile = rng.normal(size=(20_000, 1)) * np.exp(np.sin(np.arange(20_000) / 300))[:, None]
    for values in (autoregressive(rng, 20_000) * 0.7 + independent(rng, 20_000), cycle, volatile):
        assert any("remembers longer" in note or "too short" in note for note in calibrated(values).notes)


def test_a_stream_that_repeats_itself_is_noticed():
    values = np.repeat(independent(np.random.default_rng(0), 1000), 3, axis=0)
    assert any("repeat the one before" in note for note in calibrated(values).notes)


@pytest.mark.parametrize(
    "column",
    [np.full(500, 3.0), np.zeros(500), np.full(500, np.nan), np.array([0.0, 1.0] * 250), np.full(500, 1e300),
     np.array([1e-300, 2e-300] * 250), np.concatenate([np.full(499, 5.0), [1e12]])],
)  # fmt: skip
def test_degenerate_columns_are_calibrated_without_a_warning(column):
    fitted = calibrated(column[:, None])
    read = Calibration.from_bytes(fitted.to_bytes())
    assert np.isfinite(read.tau("x0"))
