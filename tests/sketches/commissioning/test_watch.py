"""A device that learns its own normal: skew once, drift against its own normal, and nothing lost."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.commissioning.commissioning import Plan
from driftpost_sketches.commissioning.journal import Parts
from driftpost_sketches.commissioning.watch import Mode, SiteWatch, Told, streams_to_learn
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.errors import SketchError
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.schema import Role, Schema, Stream, StreamKind
from driftpost_sketches.window import Window

Rows = npt.NDArray[np.float64]
STREAMS = 4
WINDOW = 100
YEAR = math.log(20_000.0)  # windows of an alarm's budget


def autoregressive(rng: np.random.Generator, rows: int, phi: float, streams: int = STREAMS) -> Rows:
    noise = rng.normal(size=(rows, streams)) * math.sqrt(1.0 - phi * phi)
    out = np.empty_like(noise)
    state = rng.normal(size=streams)
    for row in range(rows):
        state = phi * state + noise[row]
        out[row] = state
    return out


def training_of(values: Rows) -> Calibration:
    schema = Schema([fit_numeric(f"s{i}", values[:, i], Role.INPUT, "lx") for i in range(values.shape[1])])
    return Calibration.fit(schema, values, smallest_effect=0.05)


def without_reference(streams: int = STREAMS) -> Calibration:
    schema = Schema(
        [Stream(f"s{i}", StreamKind.NUMERIC, Role.INPUT, "lx", tracked=False) for i in range(streams)]
    )
    return Calibration(schema, (), np.zeros(0), np.zeros(0), 1, Window.empty(schema), ())


class Device:
    """A watch with the accumulator that feeds it, as on a device."""

    def __init__(self, watch: SiteWatch) -> None:
        self.watch = watch
        self.accumulator = WindowAccumulator(watch.training.schema)
        self.store: dict[str, bytes] = {}
        self.head = b""

    def run(self, values: Rows, size: int = WINDOW) -> list[tuple[int, Told]]:
        told = []
        for start in range(0, len(values), size):
            block = values[start : start + size]
            self.accumulator.update(block)
            self.watch.update(block)
            window, transitions = self.accumulator.take()[:2]
            told += [(start, each) for each in self.watch.step(transitions, window, 60.0)]
            if self.watch.mode is Mode.FITTING and self.watch.ready is None:
                self.watch.ready = self.watch.fit()
            self.keep(self.watch.changes())
            self.head = self.watch.head()
        return told

    def keep(self, parts: Parts) -> None:
        for name in parts.drop:
            self.store.pop(name, None)
        self.store.update(parts.put)


def watch_of(training: Calibration, plan: str = "20,000 rows", *, hold: bool = True) -> SiteWatch:
    unknown = [s.name for s in training.schema.streams]
    return SiteWatch(
        training,
        streams_to_learn(training.schema, unknown),
        Plan.parse(plan),
        YEAR,
        default_effect=0.05,
        hold=hold,
    )


@pytest.fixture(scope="module")
def training() -> Calibration:
    return training_of(autoregressive(np.random.default_rng(1), 20_000, 0.5))


def test_a_device_installed_with_an_offset_has_one_skew_and_no_drift(training: Calibration) -> None:
    rng = np.random.default_rng(2)
    device = Device(watch_of(training))
    offset = np.array([1.0, 0.0, 0.0, -0.5])
    told = device.run(autoregressive(rng, 30_000, 0.5) + offset)
    assert [(each.alarm.kind, each.alarm.state) for _, each in told] == [("skew", "raised")]
    at, skew = told[0]
    assert 20_000 <= at <= 20_200
    assert {name for name, _ in skew.alarm.streams} == {"s0", "s3"}
    assert skew.alarm.effect == pytest.approx(1.0, abs=0.1)
    assert skew.baseline == "training"
    assert "installed differently" in skew.alarm.text.lower()
    assert device.watch.mode is Mode.WATCHING
    assert not device.watch.standing

    later = autoregressive(rng, 10_000, 0.5) + offset
    later[2_000:, 0] += 0.5
    found = device.run(later)
    assert [(each.alarm.kind, each.baseline) for _, each in found] == [("shift", "site")]
    own_delay = found[0][0] - 2_000
    detector = DriftDetector(training, YEAR)
    accumulator = WindowAccumulator(training.schema)
    for start in range(0, len(later), WINDOW):
        accumulator.update(later[start : start + WINDOW] - offset)
        window, transitions = accumulator.take()[:2]
        if detector.step(transitions, window):
            break
    # As quick as a detector whose bundle was made of this very device's data.
    assert 0 < own_delay <= 1.5 * (start - 2_000) + 2 * WINDOW


def test_a_device_like_the_training_data_has_no_skew(training: Calibration) -> None:
    skews = 0
    for seed in range(6):
        device = Device(watch_of(training, "4,000 rows"))
        told = device.run(autoregressive(np.random.default_rng(100 + seed), 5_000, 0.5))
        skews += sum(each.alarm.kind == "skew" for _, each in told)
        assert device.watch.mode is Mode.WATCHING
    assert skews == 0


@pytest.mark.parametrize(("phi", "seed"), [(0.5, 3), (0.9, 4)])
def test_false_alarms_stay_in_budget_after_a_streaming_commissioning(phi: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    device = Device(watch_of(without_reference(), "50,000 rows"))
    device.run(autoregressive(rng, 50_000 + 2 * WINDOW, phi), size=500)
    site = device.watch.site
    assert site is not None
    # One false alarm in 100 windows allowed: 1,600 windows may hold 16; more than 28 is once in 400.
    detector, accumulator = DriftDetector(site, math.log(100.0)), WindowAccumulator(site.schema)
    values, alarms = autoregressive(rng, 160_000, phi), 0
    for start in range(0, len(values), WINDOW):
        accumulator.update(values[start : start + WINDOW])
        window, transitions = accumulator.take()[:2]
        alarms += sum(alarm.state == "raised" for alarm in detector.step(transitions, window))
    assert alarms <= 28


@pytest.mark.parametrize("reference", [True, False])
def test_a_kill_at_any_window_changes_nothing(training: Calibration, reference: bool) -> None:
    normal = training if reference else without_reference()
    values = autoregressive(np.random.default_rng(5), 9_000, 0.5) + 0.5
    values[8_000:, 1] += 1.0
    whole, killed = (Device(watch_of(normal, "5,000 rows")) for _ in range(2))
    told = whole.run(values, size=200)
    again = []
    for start in range(0, len(values), 200):
        again += killed.run(values[start : start + 200], size=200)
        successor = watch_of(normal, "5,000 rows")
        if killed.watch.detector is not None and successor.detector is not None:
            successor.detector.restore(killed.watch.detector.state_to_bytes())
        successor.restore(killed.head, killed.store)
        if successor.mode is Mode.FITTING:
            successor.ready = successor.fit()
        killed.watch = successor
    kinds = [(t.alarm.kind, t.alarm.state, t.baseline) for _, t in told]
    assert ("shift", "raised", "site") in kinds
    assert [(t.alarm.kind, t.alarm.state, t.baseline) for _, t in again] == kinds
    ours, theirs = whole.watch.site, killed.watch.site
    assert ours is not None
    assert theirs is not None
    # Only whether the first row after a start repeats the last one before is not known.
    assert np.array_equal(ours.baseline.counts, theirs.baseline.counts)
    assert ours.schema == theirs.schema
    for a, b in zip(ours.chains, theirs.chains, strict=True):
        assert a.rows == b.rows
        assert np.array_equal(a.matrix, b.matrix)


def test_what_breaks_while_it_learns_does_not_become_its_normal(training: Calibration) -> None:
    rng = np.random.default_rng(6)
    device = Device(watch_of(training, "10,000 rows"))
    device.run(autoregressive(rng, 5_000, 0.5))
    broken = autoregressive(rng, 20_000, 0.5)
    broken[:, 2] += 2.0
    told = device.run(broken)
    assert [(t.alarm.state, t.baseline) for _, t in told] == [("raised", "training")]
    assert device.watch.mode is Mode.HELD
    rows = device.watch.progress().rows
    assert rows < 6_000

    mended = autoregressive(rng, 10_000, 0.5)
    told = device.run(mended)
    assert [t.alarm.state for _, t in told] == ["cleared"]
    assert device.watch.mode is Mode.WATCHING
    assert device.watch.site is not None
    assert device.watch.skew is None


def test_a_person_can_accept_what_stands(training: Calibration) -> None:
    rng = np.random.default_rng(7)
    device = Device(watch_of(training, "10,000 rows"))
    device.run(autoregressive(rng, 5_000, 0.5))
    moved = autoregressive(rng, 30_000, 0.5)
    moved[:, 2] += 2.0
    device.run(moved[:5_000])
    assert device.watch.mode is Mode.HELD
    told = device.watch.accept()
    assert [(t.alarm.state, "accepted" in t.alarm.text) for t in told] == [("cleared", True)]
    told = [t for _, t in device.run(moved[5_000:])]
    assert [t.alarm.kind for t in told] == ["skew"]
    assert [name for name, _ in told[0].alarm.streams] == ["s2"]
    assert device.watch.mode is Mode.WATCHING


def test_the_policy_can_accept_alarms_and_says_so(training: Calibration) -> None:
    rng = np.random.default_rng(8)
    device = Device(watch_of(training, "10,000 rows", hold=False))
    device.run(autoregressive(rng, 5_000, 0.5))
    moved = autoregressive(rng, 8_000, 0.5)
    moved[:, 2] += 2.0
    told = [t.alarm for _, t in device.run(moved)]
    assert [a.state for a in told] == ["raised", "cleared", "raised"]
    assert [a.kind == "skew" for a in told] == [False, False, True]
    assert "policy" in told[1].text


def test_a_device_can_learn_anew(training: Calibration) -> None:
    rng = np.random.default_rng(9)
    device = Device(watch_of(training, "2,000 rows"))
    device.run(autoregressive(rng, 3_000, 0.5))
    assert device.watch.mode is Mode.WATCHING
    device.watch.again()
    device.keep(device.watch.changes())
    assert not device.store
    assert device.watch.mode is Mode.LEARNING
    told = device.run(autoregressive(rng, 4_000, 0.5) + 1.0)
    assert [t.alarm.kind for _, t in told] == ["skew"]


def test_categories_nobody_knew_are_learnt() -> None:
    rng = np.random.default_rng(10)
    stream = Stream("item", StreamKind.CATEGORICAL, Role.INPUT, tracked=False)
    schema = Schema([stream])
    normal = Calibration(schema, (), np.zeros(0), np.zeros(0), 1, Window.empty(schema), ())
    device = Device(watch_of(normal, "10,000 rows"))
    usual = np.minimum(rng.zipf(1.6, 20_000), 10**9).astype(float)[:, None]
    assert not device.run(usual)
    site = device.watch.site
    assert site is not None
    categories = site.schema.streams[0].categories
    assert {1, 2, 3} <= set(categories)
    assert len(categories) <= 64
    assert any("different categories" in note for note in device.watch.notes)
    changed = usual[:3_000].copy()
    changed[::2] = 7777.0
    told = device.run(changed)
    assert told
    assert told[0][1].alarm.kind in {"new_category", "category_share"}


def test_known_categories_stay_known(training: Calibration) -> None:
    rng = np.random.default_rng(11)
    classes = rng.integers(0, 10, 5_000).astype(float)[:, None]
    labels = {i: f"digit {i}" for i in range(10)}
    schema = Schema([fit_categorical("top_class", classes[:, 0], Role.OUTPUT, labels)])
    normal = Calibration.fit(schema, classes, smallest_effect=0.05)
    device = Device(watch_of(normal, "3,000 rows"))
    device.run(np.minimum(classes, 4.0)[:4_000])
    site = device.watch.site
    assert site is not None
    assert site.schema.streams[0].categories == tuple(range(10))
    assert site.schema.streams[0].bin_label(9) == "digit 9"


def test_a_state_that_was_damaged_is_refused_and_changes_nothing(training: Calibration) -> None:
    device = Device(watch_of(training, "5,000 rows"))
    device.run(autoregressive(np.random.default_rng(12), 3_000, 0.5))
    fresh = watch_of(training, "5,000 rows")
    before = fresh.head()
    rng = np.random.default_rng(13)
    for bad in damaged(rng, device.head):
        try:
            fresh.restore(bad, device.store)
        except SketchError:
            assert fresh.head() == before
        else:
            fresh.again()
            fresh.changes()
    with pytest.raises(SketchError):
        watch_of(training, "5,000 rows").restore(device.head, {})
    with pytest.raises(SketchError):
        watch_of(training, "7,000 rows").restore(device.head, device.store)
    broken = {name: data[:-3] for name, data in device.store.items()}
    with pytest.raises(SketchError):
        watch_of(training, "5,000 rows").restore(device.head, broken)


def damaged(rng: np.random.Generator, good: bytes) -> Iterator[bytes]:
    for _ in range(150):
        bad = bytearray(good)
        for at in rng.integers(0, len(bad), 2):
            bad[at] ^= 1 << int(rng.integers(8))
        yield bytes(bad)
    for size in range(0, len(good), len(good) // 30):
        yield good[:size]
