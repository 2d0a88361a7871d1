"""Streams of which not every row is one."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.cells import ABSENT, CELLS
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.drift.marginal import MarginalDetector
from driftpost_sketches.errors import CalibrationError, MalformedSketch
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.schema import Role, Schema, Stream, StreamKind
from driftpost_sketches.window import Window

ROWS = 3_000


def _streams():
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.normal(size=(ROWS, 3)), rng.integers(0, 4, ROWS)])
    values[rng.random(ROWS) < 0.7, 1] = np.nan
    values[rng.random(ROWS) < 0.4, 3] = np.nan
    values[::50, 1] = np.inf
    whole = [fit_numeric("whole", values[:, 0], Role.INPUT), fit_numeric("also", values[:, 2], Role.INPUT)]
    part = Stream(**{**fit_numeric("part", values[:, 1], Role.INPUT).__dict__, "partial": True})
    kind = Stream(**{**fit_categorical("kind", values[:, 3], Role.INPUT).__dict__, "partial": True})
    return Schema([whole[0], part, whole[1], kind]), values


SCHEMA, VALUES = _streams()
CALIBRATION = Calibration.fit(SCHEMA, VALUES)


def test_rows_that_are_none_of_a_streams_are_neither_counted_nor_missing():
    accumulator = WindowAccumulator(SCHEMA)
    accumulator.update(VALUES)
    window, _ = accumulator.take()
    part = window.summary(SCHEMA, 1)
    assert part.n == np.isfinite(VALUES[:, 1]).sum()
    assert (part.missing, part.nonfinite) == (0, np.isinf(VALUES[:, 1]).sum())
    assert window.summary(SCHEMA, 0).n == window.rows == ROWS
    window.check(SCHEMA)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_moves_link_the_rows_that_are_there_however_blocks_and_windows_are_cut(data):
    start, rows = data.draw(st.integers(0, 2_000)), data.draw(st.integers(1, 80))
    values = VALUES[start : start + rows].copy()
    for _ in range(data.draw(st.integers(0, 4))):
        first = data.draw(st.integers(0, rows - 1))
        values[first : first + data.draw(st.integers(1, 40)), data.draw(st.sampled_from([1, 3]))] = np.nan
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, rows), max_size=6))), rows]
    accumulator = WindowAccumulator(SCHEMA)
    windows, transitions = [], []
    for begin, end in pairwise(cuts):
        accumulator.update(values[begin:end])
        if data.draw(st.booleans()) or end == rows:
            window, moves = accumulator.take()
            windows.append(Window.from_bytes(window.to_bytes()))
            assert windows[-1] == window
            window.check(SCHEMA)
            transitions.append(moves)
    merged, moved = windows[0], transitions[0]
    for window, moves in zip(windows[1:], transitions[1:], strict=True):
        merged, moved = merged.merge(window), moved.merge(moves)
    single = WindowAccumulator(SCHEMA)
    single.update(values)
    whole, _ = single.take()
    assert np.array_equal(merged.counts, whole.counts)
    assert np.array_equal(merged.sum1, whole.sum1)
    for t in range(4):
        own = values[~np.isnan(values[:, t]), t]
        alone = WindowAccumulator(SCHEMA)
        column = np.zeros((len(own), 4))
        column[:, t] = own
        alone.update(column)
        expected = alone.take()[1]
        assert np.array_equal(moved.moves[t], expected.moves[t])
        assert moved.repeats[t] == expected.repeats[t]
        assert moved.runs[t] == expected.runs[t]
        assert moved.steps[t] == max(len(own) - 1, 0) == moved.moves[t].sum()


def test_the_last_row_of_its_own_waits_over_windows_and_a_break_forgets_it():
    accumulator = WindowAccumulator(SCHEMA)
    row = np.array([[0.0, 1.0, 0.0, 2.0]])
    silent = np.array([[0.0, np.nan, 0.0, np.nan]])
    for block in (row, silent, silent):
        accumulator.update(block)
        accumulator.take()
    accumulator.update(row)
    moves = accumulator.take()[1]
    assert moves.steps.tolist() == [1, 1, 1, 1]
    assert moves.repeats.tolist() == [1, 1, 1, 1]
    accumulator.break_sequence()
    accumulator.update(row)
    assert accumulator.take()[1].steps.tolist() == [0, 0, 0, 0]


def test_a_row_without_a_value_is_absent_and_not_silent():
    accumulator = WindowAccumulator(SCHEMA)
    accumulator.update(np.array([[0.0, 1.0, 0.0, 2.0], [0.0, np.inf, 0.0, np.inf]]))
    window, moves = accumulator.take()
    assert window.nonfinite.tolist() == [0, 1, 0, 1]
    assert moves.moves[1][:, ABSENT].sum() == moves.moves[3][:, ABSENT].sum() == 1


def test_the_reference_of_a_partial_stream_is_the_chain_of_its_own_rows():
    own = VALUES[~np.isnan(VALUES[:, 1])]
    alone = Calibration.fit(Schema([Stream(**{**SCHEMA.streams[1].__dict__, "partial": False})]), own[:, 1:2])
    assert CALIBRATION.chains[1].rows == len(own)
    assert np.array_equal(CALIBRATION.chains[1].matrix, alone.chains[0].matrix)
    assert CALIBRATION.n_ref("part") <= len(own)
    again = Calibration.from_bytes(CALIBRATION.to_bytes())
    assert np.array_equal(again.ceiling, CALIBRATION.ceiling)
    assert again.schema == SCHEMA


def test_a_stream_with_hardly_any_rows_of_its_own_is_refused_and_named():
    values = VALUES.copy()
    values[99:, 1] = np.nan
    with pytest.raises(CalibrationError, match="reference rows belong to part"):
        Calibration.fit(SCHEMA, values)


def test_a_ceiling_lowers_what_a_reference_counts_as():
    low = Calibration.fit(SCHEMA, VALUES, ceiling={"whole": 50.0})
    assert low.n_ref("whole") == 50.0
    assert low.n_ref("also") == CALIBRATION.n_ref("also")


def test_a_change_in_a_partial_stream_is_found_by_device_and_fleet_and_silence_is_not():
    rng = np.random.default_rng(5)
    tau = {name: CALIBRATION.tau(name) for name in CALIBRATION.tracked_names}
    n_ref = {name: CALIBRATION.n_ref(name) for name in CALIBRATION.tracked_names}
    detectors = (
        DriftDetector(CALIBRATION, 10.0),
        MarginalDetector(SCHEMA, CALIBRATION.baseline, tau, n_ref, 0.02, 10.0),
    )
    accumulator = WindowAccumulator(SCHEMA)
    said: list[list[str]] = [[], []]
    for at in range(120):
        values = np.column_stack([rng.normal(size=(50, 3)), rng.integers(0, 4, 50)])
        values[rng.random(50) < 0.7, 1] = np.nan
        if 20 <= at < 60:
            values[:, 1] = np.nan
        if at >= 60:
            values[:, 1] += 1.5
        accumulator.update(values)
        window, moves = accumulator.take()
        alarms = detectors[0].step(moves, window), detectors[1].step(window)
        for texts, raised in zip(said, alarms, strict=True):
            texts += [f"{at >= 60} {a.text}" for a in raised if a.state == "raised"]
    for texts in said:
        assert len(texts) == 1
        assert texts[0].startswith("True part is 1.")


def test_a_restart_in_mid_stream_changes_nothing():
    accumulator = WindowAccumulator(SCHEMA)
    first, second = DriftDetector(CALIBRATION, 8.0), DriftDetector(CALIBRATION, 8.0)
    shifted = VALUES + np.array([0.0, 1.0, 0.0, 0.0])
    for start in range(0, 1_500, 25):
        accumulator.update(shifted[start : start + 25])
        window, moves = accumulator.take()
        restarted = DriftDetector(CALIBRATION, 8.0)
        restarted.restore(second.state_to_bytes())
        second = restarted
        assert [a.text for a in first.step(moves, window)] == [a.text for a in second.step(moves, window)]
        assert first.state_to_bytes() == second.state_to_bytes()
    assert first.standing


def test_windows_that_contradict_their_partial_streams_are_refused():
    accumulator = WindowAccumulator(SCHEMA)
    accumulator.update(VALUES[:20])
    window, _ = accumulator.take()
    for change in (
        {"missing": window.missing + np.array([0, 1, 0, 0])},
        {"nonfinite": window.nonfinite + np.array([0, 30, 0, 0])},
    ):
        with pytest.raises(MalformedSketch, match="partial"):
            Window(**{**window.__dict__, **change}).check(SCHEMA)


def test_codes_are_never_partial():
    with pytest.raises(MalformedSketch, match="codes"):
        Stream("x", StreamKind.CODES, Role.INPUT, tracked=False, partial=True)


def test_being_partial_is_part_of_the_schemas_id_and_its_plain_form():
    plain = SCHEMA.to_dict()
    assert Schema.from_dict(plain) == SCHEMA
    plain["streams"][1]["partial"] = False
    assert Schema.from_dict(plain).id != SCHEMA.id
    assert SCHEMA.partial_streams.tolist() == [1, 3]
    assert SCHEMA.whole_streams.tolist() == [0, 2]
    assert CALIBRATION.chains[1].matrix.shape[0] == CELLS


def test_rows_in_which_a_partial_stream_is_silent_do_not_enter_joint_features():
    rng = np.random.default_rng(9)
    common = rng.normal(size=(6_000, 1))
    values = common + rng.normal(size=(6_000, 3))
    streams = [fit_numeric(f"x{i}", column, Role.INPUT) for i, column in enumerate(values.T)]
    schema = Schema([*streams[:2], Stream(**{**streams[2].__dict__, "partial": True})])
    calibration = Calibration.fit(schema, values, joint=True)
    assert calibration.joint is not None
    accumulator = WindowAccumulator(schema, calibration.joint.features)
    detector = DriftDetector(calibration, 10.0)
    said = []
    for at in range(120):
        live = rng.normal(size=(50, 1)) + rng.normal(size=(50, 3))
        live[:, 2] = np.nan if at >= 20 else live[:, 2]
        accumulator.update(live)
        window, moves = accumulator.take()
        assert (window.joint_rows, window.rows) == (0 if at >= 20 else 50, 50)
        assert Window.from_bytes(window.to_bytes()) == window
        said += detector.step(moves, window)
    assert said == []
