"""Ranges, journal and plan: what is learnt equals what would be learnt at once, in bounded space."""

from __future__ import annotations

import numpy as np
import pytest

from driftpost_sketches.commissioning import journal as journal_module
from driftpost_sketches.commissioning.commissioning import Commissioning, Phase, Plan, PlanError
from driftpost_sketches.commissioning.journal import SPAN, Journal, Parts
from driftpost_sketches.commissioning.ranges import Ranges
from driftpost_sketches.commissioning.site_fit import fit_journal
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.fitting import fit_numeric
from driftpost_sketches.schema import Role, Schema, Stream, StreamKind

NUMBERS = tuple(Stream(f"s{i}", StreamKind.NUMERIC, Role.INPUT) for i in range(3))


def rows_of(seed: int, rows: int, phi: float = 0.7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = rng.normal(size=(rows, 3))
    for row in range(1, rows):
        out[row] = phi * out[row - 1] + np.sqrt(1 - phi**2) * out[row]
    return np.round(out, 3)


def test_the_calibration_equals_that_of_the_same_rows_fitted_at_once() -> None:
    values = rows_of(1, 12_000)
    values[::50, 1] = np.nan
    commissioning = Commissioning(NUMBERS, Plan.parse("12,000 rows"), default_effect=0.1)
    rng = np.random.default_rng(0)
    start = 0
    while start < len(values):
        stop = min(start + int(rng.integers(1, 700)), len(values))
        commissioning.update(values[start:stop])
        commissioning.close(60.0)
        start = stop
    assert commissioning.phase is Phase.DONE
    learnt = commissioning.calibration()
    seen = values[len(values) - learnt.baseline.rows :]
    at_once = Calibration.fit(learnt.schema, seen, smallest_effect=0.1)
    for ours, theirs in zip(learnt.chains, at_once.chains, strict=True):
        for name in ("shares", "matrix", "visits", "scores", "tau_chain", "tau", "excess", "caution"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
        assert (ours.rows, ours.repeats, ours.repeat_tau) == (theirs.rows, theirs.repeats, theirs.repeat_tau)
    assert np.array_equal(learnt.baseline.counts, at_once.baseline.counts)
    for t in range(3):
        assert learnt.margins(t) == at_once.margins(t)
    assert Calibration.from_bytes(learnt.to_bytes()).to_bytes() == learnt.to_bytes()


def test_edges_lie_where_the_quantiles_are() -> None:
    ranges = Ranges(NUMBERS[:1])
    values = np.random.default_rng(2).exponential(size=(30_000, 1))
    for part in np.array_split(values, 77):
        ranges.update(part)
    schema, notes = ranges.schema()
    assert not notes
    exact = fit_numeric("s0", values[:, 0], Role.INPUT)
    learnt = schema.streams[0]
    assert len(learnt.edges) == len(exact.edges)
    shares = [float((values[:, 0] < edge).mean()) for edge in learnt.edges]
    wanted = [float((values[:, 0] < edge).mean()) for edge in exact.edges]
    assert np.abs(np.array(shares) - wanted).max() < 0.03
    assert learnt.scale == pytest.approx(exact.scale, rel=0.05)


def test_a_stream_without_any_value_is_watched_for_absence_only() -> None:
    ranges = Ranges(NUMBERS[:1])
    ranges.update(np.full((500, 1), np.nan))
    schema, notes = ranges.schema()
    assert schema.streams[0].edges == ()
    assert "no value" in notes[0]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_ROWS", 16 * SPAN)
    monkeypatch.setattr(journal_module, "MAX_BLOCKS", 64)


@pytest.mark.usefixtures("small")
def test_a_journal_stays_bounded_and_its_store_holds_what_it_needs() -> None:
    schema = Schema([fit_numeric(s.name, rows_of(3, 2_000)[:, i], s.role) for i, s in enumerate(NUMBERS)])
    journal, store = Journal(schema), {}
    values = rows_of(4, 70_000)
    for part in np.array_split(values, 300):
        journal.update(part)
        parts = journal.changes()
        for name in parts.drop:
            store.pop(name, None)
        store.update(parts.put)
        assert journal.kept_rows <= 17 * SPAN
        assert len(journal.blocks) < 64
    assert journal.stride > 4
    assert journal.block_rows > SPAN
    assert set(store) == {f"span-{n}" for n in journal.spans} | {n for n in store if n.startswith("block")}
    again = Journal(schema)
    again.restore(journal.head(), store)
    again.update(values[:3_000])
    journal.break_sequence()
    journal.update(values[:3_000])
    assert again.head() == journal.head()
    assert np.array_equal(again.all_kept(), journal.all_kept())
    with pytest.raises(MalformedSketch):
        Journal(schema).restore(journal.head(), {})


@pytest.mark.usefixtures("small")
def test_what_was_thinned_keeps_the_memory_that_reaches_beyond_what_stayed() -> None:
    rng = np.random.default_rng(5)
    rows = 100_000
    # A swing of 12,000 rows under fast noise: what stays are spans of 512 rows, one of sixteen.
    swing = np.sin(2 * np.pi * np.arange(rows) / 12_000.0)
    values = np.column_stack([rng.normal(size=rows) + swing, rng.normal(size=rows), rng.normal(size=rows)])
    schema = Schema([fit_numeric(s.name, values[:, i], s.role) for i, s in enumerate(NUMBERS)])
    journal = Journal(schema)
    journal.update(values)
    whole = Calibration.fit(schema, values)
    learnt = fit_journal(journal, whole.baseline, {}, 0.1)
    assert journal.stride >= 8
    assert learnt.tau("s0") > 0.4 * whole.tau("s0") > 100.0
    assert learnt.tau("s1") < 2.0
    assert learnt.n_ref("s1") <= journal.kept_rows
    assert Calibration.from_bytes(learnt.to_bytes()).n_ref("s0") == learnt.n_ref("s0")


def test_rows_that_are_none_of_a_partial_stream_are_left_out() -> None:
    streams = (Stream("x", StreamKind.NUMERIC, Role.INPUT, partial=True), NUMBERS[0])
    values = rows_of(6, 6_000)[:, :2]
    values[np.arange(6_000) % 3 > 0, 0] = np.nan
    commissioning = Commissioning(streams, Plan.parse("6,000 rows"), default_effect=0.1)
    for part in np.array_split(values, 50):
        commissioning.update(part)
        commissioning.close(1.0)
    learnt = commissioning.calibration()
    at_once = Calibration.fit(learnt.schema, values[6_000 - learnt.baseline.rows :])
    assert learnt.chains[0].rows == at_once.chains[0].rows
    assert np.array_equal(learnt.chains[0].matrix, at_once.chains[0].matrix)


def test_a_stream_with_hardly_any_rows_is_not_watched_rather_than_in_the_way() -> None:
    streams = (Stream("x", StreamKind.NUMERIC, Role.INPUT, partial=True), NUMBERS[0])
    values = rows_of(7, 3_000)[:, :2]
    values[np.arange(3_000) % 100 > 0, 0] = np.nan
    commissioning = Commissioning(streams, Plan.parse("3,000 rows"), default_effect=0.1)
    for part in np.array_split(values, 30):
        commissioning.update(part)
        commissioning.close(1.0)
    learnt = commissioning.calibration()
    assert "not watched" in learnt.notes[0]
    assert learnt.margins(0).independent <= 1.0


def test_a_plan_in_time_waits_for_rows_and_says_how_long_it_takes() -> None:
    commissioning = Commissioning(NUMBERS, Plan.parse("2 hours"), default_effect=0.1)
    values = rows_of(8, 4_000)
    phases = []
    for start in range(0, 4_000, 100):
        commissioning.update(values[start : start + 100])
        phases.append(commissioning.close(300.0))
        if start == 0:
            left = commissioning.progress().seconds_left
            assert left == pytest.approx(6_900.0)
    # 24 windows of five minutes are two hours, and 2,400 rows are enough.
    assert phases.index(Phase.CHAINS) == 2
    assert phases.index(Phase.DONE) == 23
    few = Commissioning(NUMBERS, Plan.parse("1 hour"), default_effect=0.1)
    for _ in range(100):
        few.update(values[:1])
        few.close(300.0)
    assert few.phase is Phase.RANGES


@pytest.mark.parametrize(
    ("words", "rows", "seconds"),
    [("7 days", None, 604_800.0), ("50,000 rows", 50_000, None), ("1.5 hours", None, 5_400.0)],
)
def test_plans_are_read_from_words(words: str, rows: int | None, seconds: float | None) -> None:
    assert Plan.parse(words) == Plan(rows, seconds)
    assert Plan.parse(str(Plan.parse(words))) == Plan.parse(words)


@pytest.mark.parametrize(
    "words", ["soon", "10 rows", "7", "-1 days", "3 blocks", "1e9 days", "9" * 80, None, "0 days"]
)
def test_other_words_are_refused(words: object) -> None:
    with pytest.raises(PlanError, match="write for example"):
        Plan.parse(words)  # type: ignore[arg-type]  # whatever a file holds


def test_parts_that_were_dropped_and_put_again_stay() -> None:
    parts = Parts(put={"a": b"1", "b": b"2"}, drop={"c"})
    parts.add(Parts(put={"c": b"3"}, drop={"a"}))
    assert parts == Parts(put={"b": b"2", "c": b"3"}, drop={"a"})
