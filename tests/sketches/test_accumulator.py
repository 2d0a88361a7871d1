import numpy as np
import pytest

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.cells import ABSENT, cells_of
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.schema import Role, Schema, Stream, StreamKind
from simulated_streams import mixed_schema


@pytest.fixture
def mixed():
    return mixed_schema(np.random.default_rng(0))


def one_by_one(schema, values):
    """Bins and cells of every value the slow way: python, one row and stream at a time."""
    counts = np.zeros(int(schema.offsets[-1]), np.int64)
    cells = np.zeros(values.shape, int)
    for column, i in enumerate(schema.scalar_streams):
        stream = schema.streams[i]
        for row, x in enumerate(values[:, column]):
            if not np.isfinite(x):
                cells[row, column] = ABSENT
                continue
            if stream.kind is StreamKind.NUMERIC:
                place = sum(x >= edge for edge in stream.edges)
            else:
                place = stream.categories.index(x) if x in stream.categories else len(stream.categories)
            counts[schema.offsets[i] + place] += 1
            cells[row, column] = cells_of(stream)[place]
    return counts, cells


def test_bins_moves_and_repeats_equal_a_slow_count_of_every_value(mixed):
    schema, values, _ = mixed
    rng = np.random.default_rng(1)
    values = values[:300].copy()
    values[rng.random(values.shape) < 0.05] = np.nan
    values[rng.random(values.shape) < 0.02] = np.inf
    values[7, 4] = 99.0
    values[8, 4] = 1.5
    values[20:25] = values[20]
    accumulator = WindowAccumulator(schema)
    for start in (0, 1, 100, 101):
        end = {0: 1, 1: 100, 100: 101, 101: 300}[start]
        accumulator.update(values[start:end])
    window, transitions = accumulator.take()
    counts, cells = one_by_one(schema, values)
    assert np.array_equal(window.counts, counts)
    scalar = schema.scalar_streams
    assert np.array_equal(window.missing[scalar], np.isnan(values).sum(0))
    assert np.array_equal(window.nonfinite[scalar], np.isinf(values).sum(0))
    tracked = [list(scalar).index(i) for i in schema.tracked_streams]
    for t, column in enumerate(tracked):
        moves = np.zeros_like(transitions.moves[t])
        np.add.at(moves, (cells[:-1, column], cells[1:, column]), 1)
        assert np.array_equal(transitions.moves[t], moves)
        same = values[1:, column] == values[:-1, column]
        assert transitions.repeats[t] == same.sum()
        assert transitions.runs[t] == (np.diff(same.astype(int), prepend=0) == 1).sum()
    assert (transitions.steps == 299).all()
    window.check(schema)


def test_no_transition_is_lost_between_windows_and_a_break_adds_none(mixed):
    schema, values, _ = mixed
    accumulator = WindowAccumulator(schema)
    steps = []
    for start in range(0, 100, 10):
        accumulator.update(values[start : start + 10])
        steps.append(accumulator.take()[1].steps.tolist())
    assert steps == [[9] * 4] + [[10] * 4] * 9
    accumulator.break_sequence()
    accumulator.update(values[:10])
    assert (accumulator.take()[1].steps == 9).all()


def test_moments_and_extremes_are_those_of_the_rows(mixed):
    schema, values, _ = mixed
    accumulator = WindowAccumulator(schema)
    accumulator.update(values)
    window, _ = accumulator.take()
    level = window.summary(schema, 0)
    assert level.mean == pytest.approx(values[:, 0].mean(), abs=1e-4)
    assert level.std == pytest.approx(values[:, 0].std(), abs=1e-4)
    assert (level.low, level.high) == pytest.approx((values[:, 0].min(), values[:, 0].max()))
    assert level.share.sum() == pytest.approx(1.0)


def test_one_wild_value_moves_the_mean_by_at_most_the_clip(mixed):
    schema, values, _ = mixed
    wild = values.copy()
    wild[0, 0] = 1e300
    accumulator = WindowAccumulator(schema)
    accumulator.update(wild)
    level = accumulator.take()[0].summary(schema, 0)
    assert abs(level.mean - values[:, 0].mean()) < 17 * schema.streams[0].scale / len(values)
    assert level.high == pytest.approx(float(np.finfo(np.float32).max))


def test_codes_are_counted_exactly(mixed):
    schema, values, codes = mixed
    accumulator = WindowAccumulator(schema)
    accumulator.update(values, codes)
    pixels = accumulator.take()[0].summary(schema, 1)
    expected = np.bincount(codes["pixels"].ravel().astype(int) + 128, minlength=256)
    assert np.array_equal(pixels.counts, expected)
    assert pixels.mean == pytest.approx(codes["pixels"].mean())
    assert (pixels.low, pixels.high) == (-128, 127)


def test_rows_without_a_tensor_are_no_codes(mixed):
    schema, values, codes = mixed
    accumulator = WindowAccumulator(schema)
    accumulator.update(values[:5], {"pixels": codes["pixels"][:2]})
    accumulator.update(values[:1], {"pixels": np.empty((0, 0), np.int8)})
    accumulator.update(values[:1])
    window, _ = accumulator.take()
    assert (window.rows, window.summary(schema, 1).n) == (7, 12)
    window.check(schema)


def test_unsigned_codes_start_at_zero():
    schema = Schema([Stream("t", StreamKind.CODES, Role.INPUT, tracked=False)])
    accumulator = WindowAccumulator(schema)
    accumulator.update(np.empty((2, 0)), {"t": np.array([[0, 255], [255, 255]], np.uint8)})
    window, transitions = accumulator.take()
    assert (window.rows, window.counts[0], window.counts[255]) == (2, 1, 3)
    assert transitions.moves.shape[0] == 0


def test_category_numbers_far_apart_are_found():
    column = np.array([-(2.0**52), 0.0, 2.0**52])
    schema = Schema([fit_categorical("c", column, Role.INPUT), fit_categorical("d", column[:0], Role.INPUT)])
    accumulator = WindowAccumulator(schema)
    accumulator.update(np.column_stack([column, column]))
    accumulator.update(np.array([[7.0, 7.0]]))
    window, _ = accumulator.take()
    assert window.counts.tolist() == [1, 1, 1, 1, 4]


def test_more_edges_than_a_byte_counts_are_counted():
    stream = fit_numeric("x", np.arange(10.0), Role.INPUT, edges=[float(i) for i in range(1, 601)])
    accumulator = WindowAccumulator(Schema([stream]))
    accumulator.update(np.array([[600.5], [599.5], [-1.0]]))
    window, transitions = accumulator.take()
    assert np.flatnonzero(window.counts).tolist() == [0, 599, 600]
    assert transitions.moves.sum() == 2


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        (np.zeros((3, 4)), {}),
        (np.zeros(5), {}),
        (np.zeros((3, 5)), {"other": np.zeros((3, 1), np.int8)}),
        (np.zeros((3, 5)), {"pixels": np.zeros((3, 1), np.uint8)}),
        (np.zeros((3, 5)), {"pixels": np.zeros((4, 1), np.int8)}),
        (np.zeros((3, 5)), {"pixels": np.zeros((3, 1))}),
    ],
)
def test_a_block_that_does_not_fit_is_refused_whole(mixed, values, codes):
    accumulator = WindowAccumulator(mixed[0])
    with pytest.raises(MalformedSketch):
        accumulator.update(values, codes)
    window, transitions = accumulator.take()
    assert (window.rows, window.counts.sum(), transitions.steps.sum()) == (0, 0, 0)


def test_an_empty_block_changes_nothing(mixed):
    schema, values, _ = mixed
    accumulator = WindowAccumulator(schema)
    accumulator.update(values[:5])
    accumulator.update(values[:0])
    accumulator.update(values[5:9])
    assert accumulator.rows == 9
    assert (accumulator.take()[1].steps == 8).all()


def test_a_window_taken_is_not_changed_by_later_rows(mixed):
    schema, values, _ = mixed
    accumulator = WindowAccumulator(schema)
    accumulator.update(values[:50])
    window, transitions = accumulator.take()
    before = window.to_bytes(), transitions.moves.sum()
    accumulator.update(values[50:])
    assert (window.to_bytes(), transitions.moves.sum()) == before
