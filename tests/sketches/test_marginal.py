import numpy as np
import pytest

from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.marginal import MarginalDetector
from driftpost_sketches.errors import CalibrationError, IncompatibleSketch
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.schema import Role, Schema
from driftpost_sketches.window import Window
from simulated_streams import autoregressive, independent, mixed_schema, numeric_schema, windows

THRESHOLD = np.log(1e6)


def watching(reference, schema=None, effect=0.02):
    schema = schema or numeric_schema(reference)
    fitted = Calibration.fit(schema, reference)
    names = fitted.tracked_names
    tau, n_ref = {n: fitted.tau(n) for n in names}, {n: fitted.n_ref(n) for n in names}
    return schema, MarginalDetector(schema, fitted.baseline, tau, n_ref, effect, THRESHOLD)


def merged(schema, devices, rows):
    """The cohort's windows: every device's, merged."""
    series = [windows(schema, values, rows) for values in devices]
    for together in zip(*series, strict=True):
        whole = Window.empty(schema)
        for window, _ in together:
            whole = whole.merge(window)
        yield whole


def said(schema, detector, devices, rows=50):
    return [a for window in merged(schema, devices, rows) for a in detector.step(window)]


@pytest.mark.parametrize("generate", [independent, autoregressive], ids=["independent", "AR(1) 0.9"])
def test_a_cohort_that_did_not_drift_raises_no_alarm(generate):
    rng = np.random.default_rng(0)
    schema, detector = watching(generate(rng, 50_000, 3))
    assert said(schema, detector, [generate(rng, 10_000, 3) for _ in range(8)]) == []


@pytest.mark.parametrize("rows", [1, 20, 200_000])
def test_windows_of_any_size_raise_no_alarm_without_drift(rows):
    rng = np.random.default_rng(0)
    schema, detector = watching(independent(rng, 10_000, 2))
    assert said(schema, detector, [independent(rng, max(200, 3 * rows), 2)], rows) == []


def test_a_trifle_is_no_alarm_in_a_million_rows():
    rng = np.random.default_rng(0)
    schema, detector = watching(independent(rng, 10_000))
    assert said(schema, detector, [independent(rng, 1_000_000) + 0.015], 250_000) == []


@pytest.mark.parametrize(
    ("change", "kind"),
    [(lambda x: x + 0.3, "shift"), (lambda x: x - 3, "shift"), (lambda x: 1.5 * x, "scale"),
     (lambda x: x * np.nan, "missing")],
)  # fmt: skip
def test_a_cohort_that_drifted_is_found_and_cleared(change, kind):
    rng = np.random.default_rng(0)
    schema, detector = watching(independent(rng, 10_000, 3))
    devices = [independent(rng, 6_000, 3) for _ in range(6)]
    for device in devices:
        device[1_000:4_000, 1] = change(device[1_000:4_000, 1])
    told = said(schema, detector, devices)
    assert [(a.state, a.kind, a.streams[0][0]) for a in told] == [
        ("raised", kind, "x1"),
        ("cleared", kind, "x1"),
    ]


def test_a_category_that_grows_is_found():
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 4, (5_000, 1)).astype(float)
    schema, detector = watching(reference, Schema([fit_categorical("class", reference, Role.OUTPUT)]))
    live = rng.choice(4, p=[0.4, 0.2, 0.2, 0.2], size=(2_000, 1)).astype(float)
    (alarm,) = said(schema, detector, [live])
    assert (alarm.kind, alarm.direction) == ("category_share", "up")
    assert alarm.effect == pytest.approx(0.15, abs=0.08)


def test_correlated_rows_count_for_less():
    rng = np.random.default_rng(0)
    schema = numeric_schema(independent(rng, 10_000))
    fitted = Calibration.fit(schema, independent(rng, 10_000))
    live = next(iter(merged(schema, [independent(rng, 200) + 0.5], 200)))
    strength = []
    for tau in (1.0, 10.0):
        detector = MarginalDetector(schema, fitted.baseline, {"x0": tau}, {"x0": 1e4}, 0.02, 99.0)
        detector.step(live)
        strength.append(float(detector.evidence()[0]))
    assert strength[0] > strength[1] + 5


def test_a_restart_in_mid_stream_changes_nothing():
    rng = np.random.default_rng(0)
    schema, steady = watching(independent(rng, 10_000, 2))
    _, restarted = watching(independent(np.random.default_rng(0), 10_000, 2))
    values = independent(rng, 4_000, 2)
    values[1_000:3_000] += 1.0
    for window in merged(schema, [values], 50):
        state = restarted.state_to_bytes()
        _, restarted = watching(independent(np.random.default_rng(0), 10_000, 2))
        restarted.restore(state)
        assert steady.step(window) == restarted.step(window)
    assert steady.state_to_bytes() == restarted.state_to_bytes()


def test_codes_and_untracked_streams_are_left_alone():
    schema, values, codes = mixed_schema(np.random.default_rng(0))
    fitted = Calibration.fit(schema, values, codes=codes)
    detector = MarginalDetector(schema, fitted.baseline, {}, {}, log_threshold=THRESHOLD)
    assert detector.evidence().shape == (4,)
    for window, _ in windows(schema, values, 100, codes):
        assert detector.step(window) == []


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_sizes_that_are_none_are_refused(wrong):
    rng = np.random.default_rng(0)
    reference = independent(rng, 200)
    schema = numeric_schema(reference)
    baseline = Calibration.fit(schema, reference).baseline
    for arguments in (({"x0": wrong}, {}), ({}, {"x0": wrong})):
        with pytest.raises(CalibrationError, match="x0"):
            MarginalDetector(schema, baseline, *arguments)
    with pytest.raises(CalibrationError, match="smallest effect"):
        MarginalDetector(schema, baseline, {}, {}, {"x0": -1.0})


def test_another_schemas_windows_and_baselines_are_refused():
    rng = np.random.default_rng(0)
    schema, detector = watching(independent(rng, 500))
    other = Schema([fit_numeric("other", independent(rng, 500), Role.INPUT)])
    with pytest.raises(IncompatibleSketch):
        detector.step(Window.empty(other))
    with pytest.raises(IncompatibleSketch):
        MarginalDetector(schema, Window.empty(other), {}, {})
