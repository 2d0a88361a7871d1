import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftpost_sketches.errors import IncompatibleSketch, MalformedSketch
from driftpost_sketches.window import JOINT_LIMIT, MAX_COUNT, MAX_JOINT, SUM2_LIMIT, Window
from simulated_streams import independent, mixed_schema, numeric_schema, windows


@pytest.fixture
def schema():
    return numeric_schema(independent(np.random.default_rng(0), 500, 2))


def replaced(window, **fields):
    return Window(**{**window.__dict__, **fields})


@pytest.fixture
def window(schema):
    ((window, _),) = windows(schema, independent(np.random.default_rng(1), 50, 2), 50)
    return window


def test_an_empty_window_has_a_summary_without_numbers(schema):
    summary = Window.empty(schema).summary(schema, 0)
    assert (summary.n, summary.missing, summary.share.sum()) == (0, 0, 0.0)
    assert np.isnan([summary.mean, summary.std, summary.low, summary.high]).all()


def test_merging_changes_neither_side(schema, window):
    before = window.to_bytes()
    window.merge(window)
    assert window.to_bytes() == before


def doubled(window, times):
    for _ in range(times):
        window = window.merge(window)
    return window


def test_a_month_of_a_hundred_thousand_devices_is_summed_exactly(schema, window):
    whole = doubled(window, 32)
    assert whole.rows == 50 << 32
    assert whole.summary(schema, 0).mean == pytest.approx(window.summary(schema, 0).mean)
    assert whole.summary(schema, 0).std == pytest.approx(window.summary(schema, 0).std)
    assert Window.from_bytes(whole.to_bytes()) == whole


def test_beyond_that_the_deviation_is_unknown_rather_than_wrong_and_counting_ends(schema, window):
    whole = doubled(window, 38)
    summary = whole.summary(schema, 0)
    assert summary.mean == pytest.approx(window.summary(schema, 0).mean)
    assert np.isnan(summary.std)
    assert Window.from_bytes(whole.to_bytes()) == whole
    with pytest.raises(MalformedSketch, match="fewer windows"):
        doubled(whole, 5)


def test_squares_saturate_in_any_order(schema, window):
    near = replaced(window, sum2=np.full(2, SUM2_LIMIT - 5))
    one_way, other_way = near.merge(near).merge(window), near.merge(window).merge(near)
    assert one_way == other_way
    assert one_way.sum2.tolist() == [SUM2_LIMIT] * 2


@pytest.mark.parametrize(
    "fields",
    [
        {"parts": 0}, {"rows": 0}, {"rows": MAX_COUNT + 1}, {"missing": np.array([MAX_COUNT + 1, 0])},
        {"low": np.array([9, 9], np.float32)}, {"low": np.array([np.nan, 0], np.float32)},
        {"high": np.array([np.inf, 0], np.float32)}, {"low": np.array([np.inf, np.inf], np.float32)},
        {"sum1": np.array([50 * 65536 + 1, 0])}, {"sum1": np.array([-50 * 65537, 0])},
        {"sum1": np.array([10**6, 0]), "sum2": np.array([10, 10])}, {"sum2": np.array([1 << 62, 0])},
    ],
)  # fmt: skip
def test_numbers_that_no_rows_can_have_made_are_refused(window, fields):
    data = replaced(window, **fields).to_bytes()
    with pytest.raises(MalformedSketch):
        Window.from_bytes(data)


def test_a_window_is_checked_against_the_schema_it_names(schema, window):
    window.check(schema)
    with pytest.raises(IncompatibleSketch):
        window.check(mixed_schema(np.random.default_rng(0))[0])
    with pytest.raises(MalformedSketch, match="rows"):
        replaced(window, rows=51).check(schema)
    layout = window.layout.copy()
    layout[1] -= 1
    with pytest.raises(MalformedSketch, match="layout"):
        replaced(window, layout=layout).check(schema)


def test_summaries_of_another_schema_are_refused(window):
    with pytest.raises(IncompatibleSketch):
        window.summary(mixed_schema(np.random.default_rng(0))[0], 0)


def test_windows_are_equal_by_content_and_not_hashable(window):
    assert window == Window.from_bytes(window.to_bytes())
    assert window != replaced(window, parts=2)
    assert window != "window"
    with pytest.raises(TypeError):
        hash(window)


@pytest.mark.parametrize("name", ["missing", "nonfinite"])
def test_what_was_merged_can_be_read_again_or_is_not_merged(window, name):
    half = replaced(window, **{name: np.array([MAX_COUNT // 2, 0])})
    assert Window.from_bytes(half.merge(half).to_bytes()) == half.merge(half)
    with pytest.raises(MalformedSketch, match="at most"):
        half.merge(half).merge(replaced(window, **{name: np.array([1, 0])}))


def test_a_stream_s_bins_together_hold_no_more_than_one_could(window):
    counts = np.zeros_like(window.counts)
    counts[window.layout[0]] = MAX_COUNT - 1
    others = np.zeros_like(window.counts)
    others[window.layout[0] + 1] = 2
    with pytest.raises(MalformedSketch, match="at most"):
        replaced(window, counts=counts).merge(replaced(window, counts=others))


def with_joint(window, sums, rows=None):
    return replaced(
        window,
        joint=np.asarray(sums, dtype=np.int64),
        joint_rows=(window.rows if rows is None else rows) if len(sums) else 0,
    )


SCHEMA = numeric_schema(independent(np.random.default_rng(0), 500, 2))
PLAIN = [window for window, _ in windows(SCHEMA, independent(np.random.default_rng(1), 60, 2), 10)]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_joint_sums_and_noise_merge_exactly_in_any_order_and_grouping(data):
    features = data.draw(st.integers(1, 8))
    parts = []
    for window in PLAIN:
        largest = window.rows * JOINT_LIMIT
        sums = data.draw(st.lists(st.integers(-largest, largest), min_size=features, max_size=features))
        # Some devices of a bundle may be too old, or too small, for joint features.
        part = with_joint(window, sums if data.draw(st.booleans()) else [])
        if data.draw(st.booleans()):
            noise = data.draw(st.integers(1, 1 << 40))
            part = replaced(part, noise=noise, counts=part.counts - data.draw(st.integers(0, 50)))
        parts.append(part)
    one_way = parts[0]
    for part in parts[1:]:
        one_way = one_way.merge(part)
    pool = [parts[i] for i in data.draw(st.permutations(range(len(parts))))]
    while len(pool) > 1:
        at = data.draw(st.integers(0, len(pool) - 2))
        pool[at : at + 2] = [pool[at].merge(pool[at + 1])]
    assert pool[0] == one_way
    assert one_way.joint_rows == sum(part.joint_rows for part in parts)
    assert one_way.noise == sum(part.noise for part in parts)
    assert Window.from_bytes(one_way.to_bytes()) == one_way


def test_joint_sums_of_another_number_of_features_do_not_merge(window):
    with pytest.raises(MalformedSketch, match="different bundles"):
        with_joint(window, [1, 2]).merge(with_joint(window, [1, 2, 3]))


@pytest.mark.parametrize(
    ("sums", "rows"),
    [
        ([50 * JOINT_LIMIT + 1], 50),
        ([-50 * JOINT_LIMIT - 1], 50),
        ([1], 51),
        ([1], 0),
        ([0] * (MAX_JOINT + 1), 50),
    ],
)
def test_joint_sums_that_no_rows_can_have_made_are_refused(window, sums, rows):
    with pytest.raises(MalformedSketch, match="joint"):
        Window.from_bytes(with_joint(window, sums, rows).to_bytes())


def test_joint_rows_without_features_are_refused(window):
    with pytest.raises(MalformedSketch, match="joint"):
        Window.from_bytes(replaced(window, joint_rows=3).to_bytes())


@pytest.fixture
def released(window):
    counts = window.counts.copy()
    counts[:3] = [-4, 0, 9]
    nothing = np.full(2, np.inf, np.float32)
    zeros = np.zeros(2, np.int64)
    return replaced(window, noise=1 << 17, counts=counts, low=nothing, high=-nothing, sum1=zeros, sum2=zeros)


def test_counts_released_with_noise_may_be_negative_and_need_not_add_up(schema, released):
    again = Window.from_bytes(released.to_bytes())
    again.check(schema)
    assert again == released
    assert again.counts[0] == -4


def test_a_summary_of_noisy_counts_claims_no_extremes(schema, window, released):
    both = released.merge(window)
    for noisy in (released, both):
        summary = noisy.summary(schema, 0)
        assert np.isnan([summary.low, summary.high]).all()
    assert both.noise == released.noise


def test_moments_of_noisy_counts_may_contradict_each_other(schema, released):
    wild = replaced(released, sum1=np.array([5_000, 0]), sum2=np.array([-7, 0]))
    again = Window.from_bytes(wild.to_bytes())
    assert again == wild
    assert again.summary(schema, 0).std == 0.0


@pytest.mark.parametrize(
    "fields",
    [
        {"noise": MAX_COUNT + 1}, {"low": np.array([np.nan, 0], np.float32)},
        {"low": np.array([3, 0], np.float32)}, {"sum1": np.array([1 << 61, 1 << 62])[::-1]},
        {"rows": 0, "parts": 0}, {"missing": np.array([-MAX_COUNT - 1, 0])},
    ],
)  # fmt: skip
def test_impossible_noisy_windows_are_refused(released, fields):
    with pytest.raises(MalformedSketch):
        Window.from_bytes(replaced(released, **fields).to_bytes())


def test_too_much_noise_is_not_merged(released):
    half = replaced(released, noise=MAX_COUNT // 2 + 1)
    with pytest.raises(MalformedSketch, match="fewer windows"):
        half.merge(half)
