"""What the device's detector says, and when it says nothing.

Budgets are one alarm in 1,000 device-days of 1,000 windows unless a test says otherwise; seeds are fixed.
"""

import numpy as np
import pytest

from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.errors import IncompatibleSketch
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.schema import Role, Schema
from driftpost_sketches.transitions import Transitions
from driftpost_sketches.window import Window
from simulated_streams import alarms, autoregressive, categories, independent, numeric_schema, windows

THRESHOLD = np.log(1e6)
YEAR = Budget.parse("1 per device-year")


class Watch:
    """A reference, and detectors calibrated on it."""

    def __init__(self, reference, schema=None, threshold=THRESHOLD, **options):
        self.schema = schema or numeric_schema(reference)
        self.calibration = Calibration.fit(self.schema, reference, **options)
        self.threshold = threshold

    def detector(self):
        return DriftDetector(self.calibration, self.threshold)

    def over(self, values, rows=20):
        return alarms(self.detector(), self.schema, values, rows)

    def evidence_over(self, values, rows=20):
        """Largest total log evidence reached without ever alarming."""
        detector = self.detector()
        most = -np.inf
        for window, transitions in windows(self.schema, values, rows):
            assert detector.step(transitions, window) == []
            total = np.logaddexp.reduce(detector.evidence()) - np.log(len(self.calibration.chains))
            most = max(most, float(total))
        return most


@pytest.fixture(scope="module")
def plain():
    return Watch(independent(np.random.default_rng(0), 10_000, 4))


def changed(change, start=1000, rows=8000, streams=4, seed=1):
    values = independent(np.random.default_rng(seed), rows, streams)
    values[start:, 0] = change(values[start:, 0])
    return values


# --- nothing changed


def sparse(rng, n):
    return rng.choice(3, p=[0.98, 0.015, 0.005], size=(n, 3)).astype(float)


NULLS = {
    "independent": lambda rng, n: independent(rng, n, 4),
    "AR(1) 0.9": lambda rng, n: autoregressive(rng, n, 4),
    "heavy tails": lambda rng, n: rng.standard_t(2, size=(n, 4)),
    "skewed": lambda rng, n: rng.exponential(size=(n, 4)),
    "mostly zero": lambda rng, n: np.maximum(independent(rng, n, 4) - 1.0, 0.0),
    "few values": lambda rng, n: rng.integers(0, 3, (n, 4)).astype(float),
    "constant": lambda rng, n: np.full((n, 4), 7.0),
    "sometimes missing": lambda rng, n: np.where(rng.random((n, 4)) < 0.1, np.nan, independent(rng, n, 4)),
    "missing in bursts": lambda rng, n: np.where(
        autoregressive(rng, n, 4) > 1.5, np.nan, independent(rng, n, 4)
    ),
    "rounded": lambda rng, n: np.round(independent(rng, n, 4), 1),
    "added noise": lambda rng, n: autoregressive(rng, n, 4) + independent(rng, n, 4),
}


@pytest.mark.parametrize("name", NULLS)
def test_no_drift_raises_no_alarm(name):
    rng = np.random.default_rng(11)
    watch = Watch(NULLS[name](rng, 20_000))
    # Two device-days at one alarm in 1,000: an alarm here would be a chance of 1 in 500.
    assert watch.evidence_over(NULLS[name](rng, 40_000)) < THRESHOLD


@pytest.mark.parametrize("count", [3, 10, 30])
def test_categories_without_drift_raise_no_alarm(count):
    rng = np.random.default_rng(count)
    shares = rng.dirichlet(np.full(count, 2.0))
    reference = categories(rng, 10_000, shares)[:, None]
    watch = Watch(reference, Schema([fit_categorical("class", reference, Role.OUTPUT)]))
    assert watch.evidence_over(categories(rng, 20_000, shares)[:, None]) < THRESHOLD


@pytest.mark.parametrize("rows", [1, 3, 50, 5_000, 50_000])
def test_windows_of_any_size_raise_no_alarm_without_drift(plain, rows):
    values = independent(np.random.default_rng(rows), max(2_000, 3 * rows), 4)
    assert plain.evidence_over(values, rows) < THRESHOLD


def test_a_short_reference_does_not_break_the_promise():
    for seed in range(8):
        rng = np.random.default_rng(seed)
        watch = Watch(independent(rng, 300, 8))
        assert watch.evidence_over(independent(rng, 10_000, 8), 50) < THRESHOLD


def test_one_outlier_and_one_unseen_category_in_a_hundred_thousand_are_no_alarm():
    rng = np.random.default_rng(0)
    reference = np.column_stack([rng.normal(size=10_000), rng.integers(0, 3, 10_000)])
    watch = Watch(
        reference,
        Schema(
            [fit_numeric("x", reference[:, 0], Role.INPUT), fit_categorical("c", reference[:, 1], Role.INPUT)]
        ),
    )
    live = np.column_stack([rng.normal(size=100_000), rng.integers(0, 3, 100_000)])
    live[50_000] = [1e9, 77]
    assert watch.over(live, 1000) == []


def test_a_trifle_is_no_alarm_however_many_rows_show_it(plain):
    live = independent(np.random.default_rng(3), 400_000, 4) + 0.015
    assert plain.over(live, 100_000) == []


def test_the_smallest_effect_is_the_users_to_choose():
    rng = np.random.default_rng(5)
    reference, live = independent(rng, 20_000, 2), independent(rng, 20_000, 2) + 0.3
    assert Watch(reference).over(live)
    assert Watch(reference, smallest_effect=0.5).over(live) == []
    assert Watch(reference, smallest_effect={"*": 0.5, "x1": 0.02}).over(live)[0][1].streams[0][0] == "x1"


def test_a_single_cell_that_moves_less_than_the_smallest_effect_is_no_alarm():
    # 43 % to 52 % of rows in one cell: 0.18 standard deviations of its indicator.
    rng = np.random.default_rng(6)
    reference = np.where(rng.random((2000, 1)) < 0.434, 0.0, rng.exponential(size=(2000, 1)))
    live = np.where(rng.random((40_000, 1)) < 0.523, 0.0, rng.exponential(size=(40_000, 1)))
    assert Watch(reference, smallest_effect=0.25).over(live, 40) == []
    assert Watch(reference, smallest_effect=0.02).over(live, 40)


@pytest.mark.parametrize("threshold", [np.log(20.0), np.log(1000.0)])
def test_idle_streams_do_not_alarm_by_the_calendar(threshold):
    watch = Watch(np.full((1000, 3), 5.0), threshold=threshold)
    assert watch.over(np.full((20_000, 3), 5.0), 10) == []


# --- something changed

CHANGES = {
    "half a deviation up": (lambda x: x + 0.5, "shift", "up", 400),
    "half a deviation down": (lambda x: x - 0.5, "shift", "down", 400),
    "one deviation up": (lambda x: x + 1.0, "shift", "up", 120),
    "one deviation down": (lambda x: x - 1.0, "shift", "down", 120),
    "far beyond the reference": (lambda x: x + 50.0, "shift", "up", 20),
    "wider": (lambda x: 1.5 * x, "scale", "up", 500),
    "narrower": (lambda x: x / 1.5, "scale", "down", 600),
    "stuck": (lambda x: np.full_like(x, x[0]), "stuck", "none", 20),
    "stuck at a fault value": (lambda x: np.full_like(x, -99.0), "stuck", "none", 20),
    "coarse steps": (lambda x: np.round(2 * x) / 2, "quantized", "none", 120),
    "clipped above": (lambda x: np.minimum(x, 0.5), "saturated", "up", 120),
    "clipped below": (lambda x: np.maximum(x, -0.5), "saturated", "down", 120),
    "missing": (lambda x: np.full_like(x, np.nan), "missing", "up", 60),
    "infinite": (lambda x: np.full_like(x, np.inf), "missing", "up", 60),
    "missing at times": (
        lambda x: np.where(np.arange(len(x)) % 20 == 0, np.nan, x), "missing", "up", 1000,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_found_named_and_dated(plain, name):
    change, kind, direction, within = CHANGES[name]
    row, alarm = plain.over(changed(change))[0]
    assert 1000 < row <= 1000 + within
    assert (alarm.state, alarm.kind, alarm.direction) == ("raised", kind, direction)
    assert alarm.streams[0][0] == "x0"
    assert alarm.streams[0][1] > 0.5
    assert alarm.log_e >= THRESHOLD
    onset = row - 20 * (alarm.onset_windows_ago + 1)
    assert abs(onset - 1000) <= max(60, 0.4 * (row - 1000))
    assert "x0" in alarm.text
    assert "evidence" in alarm.text


@pytest.mark.parametrize(("shift", "effect"), [(1.0, 1.0), (-3.0, -3.0), (0.4, 0.4)])
def test_the_effect_is_in_reference_deviations_and_natural_units(shift, effect):
    rng = np.random.default_rng(2)
    watch = Watch(1000.0 + 20.0 * independent(rng, 10_000))
    _, alarm = watch.over(1000.0 + 20.0 * (independent(rng, 8_000) + shift))[0]
    assert alarm.effect == pytest.approx(effect, abs=0.35)
    assert alarm.effect_natural == pytest.approx(20.0 * alarm.effect, rel=0.01)
    assert alarm.unit == "lx"


@pytest.mark.parametrize("factor", [1e-3, 1e3, 1e9])
def test_the_scale_of_a_stream_changes_nothing(plain, factor):
    rng = np.random.default_rng(0)
    scaled = Watch(factor * independent(rng, 10_000, 4))
    values = changed(lambda x: x + 0.5)
    ours, theirs = plain.over(values), scaled.over(factor * values)
    assert [(row, a.kind) for row, a in ours] == [(row, a.kind) for row, a in theirs]


def test_up_and_down_are_found_alike(plain):
    up = [plain.over(changed(lambda x: x + 0.5, seed=s))[0][0] for s in range(5)]
    down = [plain.over(changed(lambda x: x - 0.5, seed=s))[0][0] for s in range(5)]
    assert np.median(up) == pytest.approx(np.median(down), abs=160)


def test_a_correlated_stream_takes_longer_but_is_found():
    rng = np.random.default_rng(4)
    watch = Watch(autoregressive(rng, 50_000))
    live = autoregressive(rng, 12_000)
    live[2000:] += 1.0
    row, alarm = watch.over(live)[0]
    assert 2000 < row <= 5000
    assert alarm.kind == "shift"


def test_white_noise_on_a_smooth_stream_is_called_noisy():
    rng = np.random.default_rng(4)
    watch = Watch(autoregressive(rng, 20_000))
    live = autoregressive(rng, 6_000)
    live[2000:] += 1.2 * rng.normal(size=(4000, 1))
    assert watch.over(live)[0][1].kind == "noisy"


@pytest.mark.parametrize(
    ("shares", "kind"), [([0.2, 0.5, 0.3, 0.0], "category_share"), ([0.5, 0.3, 0.1, 0.1], "new_category")]
)
def test_categories_that_change_are_found(shares, kind):
    rng = np.random.default_rng(0)
    reference = categories(rng, 5_000, [0.5, 0.3, 0.2, 0.0])[:, None]
    watch = Watch(reference, Schema([fit_categorical("class", reference, Role.OUTPUT, {0: "cat"})]))
    row, alarm = watch.over(categories(rng, 2_000, shares)[:, None])[0]
    assert row <= 400
    assert alarm.kind == kind
    assert alarm.unit == "share"
    assert abs(alarm.effect) > 0.05


def test_a_constant_that_moves_is_found_in_either_direction():
    for value in (4.9, 5.1):
        watch = Watch(np.full((1000, 1), 5.0))
        ((row, alarm),) = watch.over(np.full((200, 1), value))[:1]
        assert row <= 20
        assert abs(alarm.effect) > 10
        assert alarm.direction == ("up" if value > 5 else "down")


def test_short_windows_notice_a_strong_change_at_once_on_a_short_reference():
    rng = np.random.default_rng(0)
    watch = Watch(independent(rng, 1000, 12), threshold=YEAR.log_threshold(2.0), smallest_effect=0.1)
    live = independent(rng, 1200, 12)
    live[600:, :3] -= 3.0
    row, alarm = watch.over(live, 30)[0]
    assert 600 < row <= 660
    assert {name for name, _ in alarm.streams} == {"x0", "x1", "x2"}


@pytest.mark.parametrize("cut", [4, 12, 25])
def test_a_sensor_that_freezes_in_mid_window_is_stuck_and_alarms_once(cut):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        watch = Watch(independent(rng, 2000, 5))
        live = independent(rng, 1200, 5)
        live[600 + cut :] = live[600 + cut - 1]
        said = watch.over(live, 30)
        assert [(a.state, a.kind) for _, a in said] == [("raised", "stuck")]
        assert said[0][0] <= 660


# --- after an alarm


def test_one_change_is_one_alarm_and_its_end_one_clearing(plain):
    values = changed(lambda x: x + 0.6, rows=30_000)
    values[20_000:] = independent(np.random.default_rng(9), 10_000, 4)
    said = plain.over(values)
    assert [alarm.state for _, alarm in said] == ["raised", "cleared"]
    assert said[0][1].kind == said[1][1].kind == "shift"
    assert said[0][1].streams == said[1][1].streams
    assert 20_000 < said[1][0] <= 20_400
    assert "back to what the reference showed" in said[1][1].text


@pytest.mark.parametrize("change", ["stuck", "missing", "coarse steps", "narrower"])
def test_other_kinds_clear_as_well_and_may_come_again(plain, change):
    values = changed(CHANGES[change][0], rows=12_000)
    values[4_000:8_000] = independent(np.random.default_rng(9), 4_000, 4)
    said = plain.over(values)
    assert [(alarm.state, alarm.kind) for _, alarm in said] == [
        ("raised", CHANGES[change][1]), ("cleared", CHANGES[change][1]), ("raised", CHANGES[change][1]),
    ]  # fmt: skip
    assert 4_000 < said[1][0] <= 5_000
    assert said[2][0] > 8_000


def test_a_drift_that_recurs_is_told_each_time_it_comes_and_goes(plain):
    values = independent(np.random.default_rng(1), 26_000, 4)
    for start in range(2_000, 24_000, 4_000):
        values[start : start + 2_000, 0] += 1.0
    said = plain.over(values)
    assert [alarm.state for _, alarm in said] == ["raised", "cleared"] * 6
    for k, start in enumerate(range(2_000, 24_000, 4_000)):
        assert start < said[2 * k][0] <= start + 120
        assert start + 2_000 < said[2 * k + 1][0] <= start + 2_200


def test_a_slow_ramp_is_one_alarm(plain):
    values = independent(np.random.default_rng(1), 30_000, 4)
    values[2_000:22_000, 0] += np.linspace(0, 3, 20_000)
    values[22_000:, 0] += 3
    assert [alarm.state for _, alarm in plain.over(values)] == ["raised"]


def test_a_second_change_in_another_stream_raises_its_own_alarm(plain):
    values = changed(lambda x: x + 1.0)
    values[4_000:, 2] *= 3.0
    said = plain.over(values)
    assert [(alarm.kind, alarm.streams[0][0]) for _, alarm in said] == [("shift", "x0"), ("scale", "x2")]


def test_a_second_change_in_the_same_stream_raises_its_own_alarm(plain):
    values = changed(lambda x: x + 1.0)
    values[4_000:, 0] = values[4_000, 0]
    assert [alarm.kind for _, alarm in plain.over(values)] == ["shift", "stuck"]


def test_a_swing_to_the_other_side_is_told(plain):
    values = changed(lambda x: x + 1.0)
    values[4_000:, 0] -= 3.0
    raised = [(row, alarm.direction) for row, alarm in plain.over(values) if alarm.state == "raised"]
    assert [direction for _, direction in raised] == ["up", "down"]
    assert 4_000 < raised[1][0] <= 4_400


def test_streams_that_join_a_change_later_raise_nothing_more(plain):
    values = changed(lambda x: x + 2.0)
    values[1_000:, 1:] += 0.7
    assert [alarm.state for _, alarm in plain.over(values)] == ["raised"]


def test_standing_alarms_can_be_asked_for(plain):
    detector = plain.detector()
    said = alarms(detector, plain.schema, changed(lambda x: x + 1.0), 20)
    assert detector.standing == (said[0][1],)


# --- state


def test_a_restart_in_mid_stream_changes_nothing(plain):
    values = changed(lambda x: x + 0.5, rows=6_000)
    values[3_000:, 1] *= 2
    values[4_500:] = independent(np.random.default_rng(9), 1_500, 4)
    steady, restarted = plain.detector(), plain.detector()
    said, again = [], []
    for window, transitions in windows(plain.schema, values, 20):
        said += steady.step(transitions, window)
        again += restarted.step(transitions, window)
        state = restarted.state_to_bytes()
        restarted = plain.detector()
        restarted.restore(state)
        assert restarted.state_to_bytes() == state
    assert len(said) >= 4
    assert said == again
    assert steady.state_to_bytes() == restarted.state_to_bytes()


def test_the_state_stays_below_four_kilobytes_a_stream():
    reference = independent(np.random.default_rng(0), 2_000, 41)
    watch = Watch(reference)
    detector, rng = watch.detector(), np.random.default_rng(1)
    sizes = []
    for _ in range(3000):
        # One window's sketch over and over: only the detector's own state is in question.
        window, transitions = next(windows(watch.schema, independent(rng, 20, 41), 20))
        detector.step(transitions, window)
    sizes.append(len(detector.state_to_bytes()))
    assert max(sizes) < 41 * 4096


def test_windows_of_another_schema_are_refused(plain):
    other = numeric_schema(independent(np.random.default_rng(7), 100, 4))
    detector = plain.detector()
    with pytest.raises(IncompatibleSketch):
        detector.step(Transitions.empty(plain.schema), Window.empty(other))
    with pytest.raises(IncompatibleSketch):
        detector.step(Transitions.empty(other), Window.empty(plain.schema))


def test_an_empty_window_says_nothing_and_changes_nothing(plain):
    detector = plain.detector()
    before = detector.state_to_bytes()
    assert detector.step(Transitions.empty(plain.schema), Window.empty(plain.schema)) == []
    assert detector.state_to_bytes() == before


def test_a_schema_without_tracked_streams_is_watched_without_a_word():
    values = independent(np.random.default_rng(0), 200)
    schema = Schema([fit_numeric("x", values, Role.LATENCY, tracked=False)])
    watch = Watch(values, schema)
    assert watch.over(values) == []
    assert watch.detector().evidence().shape == (0,)
