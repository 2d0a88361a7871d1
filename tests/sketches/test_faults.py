"""What broke is named: sensors told apart, inputs on the wrong scale, outputs that are dead."""

import numpy as np
import pytest

from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.schema import Role, Schema
from simulated_streams import alarms, autoregressive

THRESHOLD = np.log(1e6)
CHANGE, WINDOW = 1_000, 100


def first(reference, live, roles=None, units=None):
    count = reference.shape[1]
    roles, units = roles or [Role.INPUT] * count, units or [""] * count
    schema = Schema([fit_numeric(f"x{i}", reference[:, i], roles[i], units[i]) for i in range(count)])
    detector = DriftDetector(Calibration.fit(schema, reference), THRESHOLD)
    return alarms(detector, schema, live, WINDOW)[0]


def sensor(seed, rows, rho, center=20.0):
    return autoregressive(np.random.default_rng(seed), rows, 2, rho) + center


def faulty(seed, rho, fault, begin=CHANGE, center=20.0):
    live = sensor(seed + 1, 20_000, rho, center)
    live[begin:, 0] = fault(live[begin:, 0], np.random.default_rng(seed + 2))
    return first(sensor(seed, 10_000, rho, center), live)


FAULTS = {
    "shift": lambda x, rng: x + 1.0,
    "scale": lambda x, rng: 20.0 + 1.7 * (x - 20.0),
    "stuck": lambda x, rng: np.full_like(x, x[0]),
    "saturated": lambda x, rng: np.minimum(x, 20.3),
    "quantized": lambda x, rng: np.round(2 * x) / 2,
    "missing": lambda x, rng: np.where(rng.random(len(x)) < 0.3, np.nan, x),
}


@pytest.mark.parametrize("rho", [0.0, 0.5])
@pytest.mark.parametrize("kind", FAULTS)
def test_sensor_faults_are_told_apart(kind, rho):
    named = [faulty(10 * seed, rho, FAULTS[kind])[1].kind for seed in range(5)]
    assert named.count(kind) >= 4


@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_a_slow_sensor_at_a_limit_is_told_from_one_that_froze_by_how_often_it_comes_back(rho):
    """Both repeat one value; a frozen one does it in a single run."""

    def named(fault):
        return [faulty(10 * s, rho, fault, CHANGE + 9 * s)[1].kind for s in range(10)]

    limited, frozen = named(lambda x, rng: np.minimum(x, 20.7)), named(FAULTS["stuck"])
    assert limited.count("saturated") >= 7
    assert frozen.count("stuck") >= 9


def test_noise_on_a_smooth_sensor_is_noise():
    named = [faulty(10 * s, 0.9, lambda x, rng: x + rng.normal(size=len(x)))[1].kind for s in range(5)]
    assert named.count("noisy") >= 4


SCALES = {
    "255 times": lambda x, rng: 255.0 * x,
    "1/255 of": lambda x, rng: x / 255.0,
    "1000 times": lambda x, rng: 1000.0 * x,
    "less 128": lambda x, rng: x - 128.0,
    "Fahrenheit": lambda x, rng: 1.8 * x + 32.0,
    "kelvin": lambda x, rng: x + 273.15,
}


@pytest.mark.parametrize("rho", [0.0, 0.9])
@pytest.mark.parametrize("words", SCALES)
def test_a_wrong_scale_is_found_in_its_first_window_with_the_mistake_in_words(words, rho):
    row, alarm = faulty(3, rho, SCALES[words])
    assert row == CHANGE + WINDOW
    assert alarm.kind == "wrong_scale"
    assert words in alarm.text


def test_it_is_guessed_from_a_window_that_is_half_right():
    _, alarm = faulty(3, 0.0, SCALES["1/255 of"], begin=CHANGE + 50)
    assert (alarm.kind, alarm.direction) == ("wrong_scale", "down")
    assert "1/255 of" in alarm.text


@pytest.mark.parametrize("center", [0.0, 20.0])
@pytest.mark.parametrize("shift", [-6.0, -3.0, 1.7, 3.0, 12.0])
def test_a_plain_shift_is_no_wrong_scale(center, shift):
    for seed in range(6):
        for begin in (CHANGE, CHANGE + 50):
            _, alarm = faulty(10 * seed, 0.0, lambda x, rng: x + shift, begin, center)
            assert (alarm.kind, alarm.direction) == ("shift", "up" if shift > 0 else "down")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda b, c: (b / 255, c / 255), "pixels from 0 to 1 where 0 to 255"),
        (lambda b, c: (b - 128 / 255, c), "pixels from -128 to 127 where 0 to 255"),
        (lambda b, c: (2 * b - 1, 2 * c), "pixels from -1 to 1 where 0 to 1"),
    ],
)
def test_pixels_fed_on_another_scale_are_told_from_a_dark_picture(wrong, words):
    rng = np.random.default_rng(0)

    def pictures(rows):
        return np.column_stack([rng.beta(8, 8, rows), rng.beta(8, 20, rows)])

    unit = ["of full scale"] * 2
    live = pictures(2_000)
    live[CHANGE:] = np.column_stack(wrong(*live[CHANGE:].T))
    row, alarm = first(pictures(10_000), live, units=unit)
    assert (row, alarm.kind) == (CHANGE + WINDOW, "wrong_scale")
    assert words in alarm.text
    dark = pictures(2_000)
    dark[CHANGE:] *= 0.4
    assert first(pictures(10_000), dark, units=unit)[1].kind != "wrong_scale"


def test_an_output_that_rests_while_inputs_go_on_is_dead_and_one_whose_input_rests_is_stuck():
    roles = [Role.INPUT, Role.OUTPUT]
    reference, live = sensor(1, 10_000, 0.5), sensor(2, 3_000, 0.5)
    live[CHANGE:, 1] = live[CHANGE, 1]
    _, alarm = first(reference, live, roles)
    assert (alarm.kind, [name for name, _ in alarm.streams]) == ("dead", ["x1"])
    live[CHANGE:, 0] = live[CHANGE, 0]
    assert first(reference, live, roles)[1].kind == "stuck"


def test_outputs_that_move_while_inputs_do_not_are_told_to_do_so():
    roles = [Role.INPUT, Role.OUTPUT]
    reference, live = sensor(1, 10_000, 0.5), sensor(2, 3_000, 0.5)
    live[CHANGE:, 1] += 1.0
    alone = first(reference, live, roles)[1]
    assert (alone.kind, [name for name, _ in alone.streams]) == ("shift", ["x1"])
    assert "while no input stream moved: the model, or its classes" in alone.text
    live[CHANGE:, 0] += 1.0
    assert "no input stream moved" not in first(reference, live, roles)[1].text
    # Without any input that is watched nothing is known of them.
    assert "no input stream" not in first(reference[:, 1:], live[:, 1:], [Role.OUTPUT])[1].text


def test_one_answer_to_everything_is_a_dead_output():
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 4, 10_000).astype(float)[:, None]
    schema = Schema([fit_categorical("class", reference, Role.OUTPUT, ["a", "b", "c", "d"])])
    live = rng.integers(0, 4, 3_000).astype(float)[:, None]
    live[CHANGE:] = 2.0
    detector = DriftDetector(Calibration.fit(schema, reference), THRESHOLD)
    _, alarm = alarms(detector, schema, live, WINDOW)[0]
    assert alarm.kind == "dead"
    assert "class" in alarm.text


def test_codes_that_pile_up_at_their_limits_are_saturated():
    rng = np.random.default_rng(0)
    reference, live = rng.beta(2, 60, (10_000, 1)), rng.beta(2, 60, (2_000, 1))
    live[CHANGE:] += 0.3
    row, alarm = first(reference, live, [Role.OUTPUT], ["of codes"])
    assert (row, alarm.kind, alarm.direction) == (CHANGE + WINDOW, "saturated", "up")
    assert "33% of its codes stand at their limits (was 3%)" in alarm.text
