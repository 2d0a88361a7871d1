"""Laws of every mergeable sketch and every byte form, found by looking through the package."""

import importlib
import inspect
import pkgutil
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import class_worlds
import driftpost_sketches
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.datasketches.frequent_items import FrequentItems
from driftpost_sketches.datasketches.hll import HllSketch
from driftpost_sketches.datasketches.kll import KllSketch
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.drift.joint.plan import JointPlan
from driftpost_sketches.drift.marginal import MarginalDetector
from driftpost_sketches.errors import IncompatibleSketch, MalformedSketch, UnsupportedVersion
from driftpost_sketches.labels.concept import ConceptDetector
from driftpost_sketches.labels.label_sketch import LabelSketch
from driftpost_sketches.labels.record import PerformanceRecord
from driftpost_sketches.labels.reliability import Reliability
from driftpost_sketches.transitions import Transitions
from driftpost_sketches.window import Window
from hanging_together import calibrated, factor_rows
from simulated_streams import mixed_schema, windows

RNG = np.random.default_rng(3)
SCHEMA, VALUES, CODES = mixed_schema(RNG)
CALIBRATION = Calibration.fit(SCHEMA, VALUES, codes=CODES)
OTHER = Calibration.fit(SCHEMA, VALUES * 1.0, smallest_effect=0.5)
PLAN = calibrated(factor_rows(RNG, 2_000, 5)).joint
_, RECORD, _ = class_worlds.learnt(RNG, 300)


def classes(*methods):
    found = set()
    for module in pkgutil.walk_packages(driftpost_sketches.__path__, "driftpost_sketches."):
        for _, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            own = cls.__module__.startswith("driftpost_sketches")
            if own and not issubclass(cls, int) and all(hasattr(cls, method) for method in methods):
                found.add(cls)
    return found


def same_window(a, b):
    return a == b


def same_transitions(a, b):
    return (
        np.array_equal(a.moves, b.moves)
        and np.array_equal(a.repeats, b.repeats)
        and np.array_equal(a.runs, b.runs)
        and np.array_equal(a.steps, b.steps)
    )


# Whose rows are not a schema's, or whose bytes are another library's: their laws stand in their own files.
DATASKETCHES = {HllSketch, KllSketch, FrequentItems}
IN_THEIR_OWN_FILE = {LabelSketch, Reliability, *DATASKETCHES}

# How to make each mergeable sketch of some rows, and to compare two of them.
MERGEABLE = {Window: (0, same_window), Transitions: (1, same_transitions)}


def sketch(kind, values, codes, chunks):
    accumulator = WindowAccumulator(SCHEMA)
    parts, start = [], 0
    for size in chunks:
        end = start + size
        accumulator.update(values[start:end], {n: t[start:end] for n, t in codes.items()})
        parts.append(accumulator.take()[MERGEABLE[kind][0]])
        start = end
    return parts


def window_bytes(data):
    return Window.from_bytes(data)


def detector_bytes(data):
    DriftDetector(CALIBRATION, 12.0).restore(data)


def marginal_bytes(data):
    marginal().restore(data)


def marginal():
    return MarginalDetector(SCHEMA, CALIBRATION.baseline, {}, {}, 0.02, 12.0)


def sample_window():
    accumulator = WindowAccumulator(SCHEMA)
    accumulator.update(VALUES[:100], {"pixels": CODES["pixels"][:100]})
    return accumulator.take()


def sample_states():
    detector, fleet = DriftDetector(CALIBRATION, 12.0), marginal()
    moved = VALUES[:300] + np.array([3.0, 0, 0, 0, 0])
    for window, transitions in windows(SCHEMA, moved, 50):
        detector.step(transitions, window)
        fleet.step(window)
    assert detector.standing
    assert fleet.standing
    return detector.state_to_bytes(), fleet.state_to_bytes()


def joint_bytes(data):
    JointPlan.from_bytes(data, 5)


def concept():
    return ConceptDetector(RECORD.labels, 1.0, 12.0)


def sample_label_state():
    detector = concept()
    for _ in range(3):
        detector.step(LabelSketch.of_classes(6, np.zeros(200), np.ones(200)))
    assert detector.standing
    return detector.state_to_bytes()


def concept_bytes(data):
    concept().restore(data)


# Every byte form: a sample and the reader that must refuse everything else.
FORMS = {
    "window": (sample_window()[0].to_bytes(), window_bytes),
    "empty window": (Window.empty(SCHEMA).to_bytes(), window_bytes),
    "calibration": (CALIBRATION.to_bytes(), Calibration.from_bytes),
    "joint plan": (PLAN.to_bytes(), joint_bytes),
    "detector": (sample_states()[0], detector_bytes),
    "marginal detector": (sample_states()[1], marginal_bytes),
    "labels": (RECORD.labels.to_bytes(), LabelSketch.from_bytes),
    "performance record": (RECORD.to_bytes(), PerformanceRecord.from_bytes),
    "label detector": (sample_label_state(), concept_bytes),
}
forms = pytest.mark.parametrize("form", sorted(FORMS))


def test_every_mergeable_sketch_is_under_these_laws():
    assert classes("merge", "empty") == {*MERGEABLE, *IN_THEIR_OWN_FILE}


def test_every_byte_form_is_under_these_laws():
    ours = {Window, Calibration, JointPlan, LabelSketch, PerformanceRecord}
    assert classes("to_bytes", "from_bytes") == ours | DATASKETCHES
    assert classes("state_to_bytes", "restore") == {DriftDetector, MarginalDetector, ConceptDetector}


@pytest.mark.parametrize("kind", MERGEABLE, ids=lambda kind: kind.__name__)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_merging_in_any_order_and_grouping_equals_one_pass(kind, data):
    rows = data.draw(st.integers(1, 60))
    start = data.draw(st.integers(0, 1000))
    values = VALUES[start : start + rows].copy()
    holes = data.draw(st.lists(st.tuples(st.integers(0, rows - 1), st.integers(0, 4)), max_size=8))
    for row, column in holes:
        values[row, column] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, 1e30, 1e-30]))
    codes = {"pixels": CODES["pixels"][start : start + rows]}
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=5)))
    chunks = np.diff([0, *cuts, rows]).tolist()
    parts = sketch(kind, values, codes, chunks)
    order = data.draw(st.permutations(range(len(parts))))
    pool = [parts[i] for i in order]
    while len(pool) > 1:
        at = data.draw(st.integers(0, len(pool) - 2))
        pool[at : at + 2] = [pool[at].merge(pool[at + 1])]
    (whole,) = sketch(kind, values, codes, [rows])
    merged = pool[0]
    if kind is Window:
        assert merged.parts == sum(size > 0 for size in chunks)
        merged = Window(**{**merged.__dict__, "parts": 1})
    assert MERGEABLE[kind][1](merged, whole)


@pytest.mark.parametrize("kind", MERGEABLE, ids=lambda kind: kind.__name__)
def test_the_empty_sketch_is_neutral(kind):
    (one,) = sketch(kind, VALUES[:40], {}, [40])
    same = MERGEABLE[kind][1]
    assert same(one.merge(kind.empty(SCHEMA)), one)
    assert same(kind.empty(SCHEMA).merge(one), one)


@pytest.mark.parametrize("kind", MERGEABLE, ids=lambda kind: kind.__name__)
def test_sketches_of_different_schemas_do_not_merge(kind):
    (one,) = sketch(kind, VALUES[:40], {}, [40])
    other, _, _ = mixed_schema(np.random.default_rng(4))
    with pytest.raises(IncompatibleSketch, match="can not merge"):
        one.merge(kind.empty(other))


@given(st.integers(0, 1500), st.integers(0, 300))
@settings(max_examples=40, deadline=None)
def test_a_window_round_trips_through_bytes(start, rows):
    accumulator = WindowAccumulator(SCHEMA)
    accumulator.update(VALUES[start : start + rows], {"pixels": CODES["pixels"][start : start + rows]})
    window, _ = accumulator.take()
    again = Window.from_bytes(window.to_bytes())
    assert again == window
    again.check(SCHEMA)


@forms
def test_bytes_are_read(form):
    data, read = FORMS[form]
    read(data)


@forms
def test_every_truncation_is_refused(form):
    data, read = FORMS[form]
    for size in [*range(min(len(data), 40)), *np.linspace(40, len(data) - 1, 40).astype(int).tolist()]:
        with pytest.raises(MalformedSketch):
            read(data[:size])


@forms
def test_bytes_beyond_the_end_are_refused(form):
    data, read = FORMS[form]
    with pytest.raises(MalformedSketch):
        read(data + b"\0")
    longer = data[:4] + zlib.compress(zlib.decompress(data[4:]) + b"\0")
    with pytest.raises(MalformedSketch, match="too many"):
        read(longer)


@forms
def test_shorter_bodies_are_refused(form):
    data, read = FORMS[form]
    body = zlib.decompress(data[4:])
    for size in np.linspace(0, len(body) - 1, 40).astype(int).tolist():
        with pytest.raises(MalformedSketch):
            read(data[:4] + zlib.compress(body[:size]))


@forms
def test_a_newer_version_says_that_the_reader_is_too_old(form):
    data, read = FORMS[form]
    with pytest.raises(UnsupportedVersion, match="upgrade the reader"):
        read(data[:3] + bytes([data[3] + 1]) + data[4:])
    with pytest.raises(MalformedSketch):
        read(data[:3] + b"\0" + data[4:])


@forms
def test_a_decompression_bomb_is_refused_without_inflating_it(form):
    data, read = FORMS[form]
    bomb = zlib.compress(bytes(200 << 20), 9)
    assert len(bomb) < 1 << 20
    with pytest.raises(MalformedSketch, match="more than"):
        read(data[:4] + bomb)


@forms
@pytest.mark.parametrize("junk", [b"", b"x", b"DPW", bytes(100), "text", None, 7])
def test_junk_is_refused(form, junk):
    with pytest.raises(MalformedSketch):
        FORMS[form][1](junk)


@forms
def test_oversized_bytes_are_refused(form):
    data, read = FORMS[form]
    with pytest.raises(MalformedSketch, match="too many"):
        read(data[:4] + bytes(80 << 20))


@forms
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_body_raises_nothing_but_a_refusal(form, data):
    whole, read = FORMS[form]
    body = bytearray(zlib.decompress(whole[4:]))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(whole[:4] + zlib.compress(bytes(body), 1))
    except (MalformedSketch, IncompatibleSketch):
        return


def test_a_detector_refuses_the_state_of_another_calibration_or_threshold():
    state = FORMS["detector"][0]
    for stranger in (DriftDetector(OTHER, 12.0), DriftDetector(CALIBRATION, 13.0)):
        with pytest.raises(IncompatibleSketch):
            stranger.restore(state)
