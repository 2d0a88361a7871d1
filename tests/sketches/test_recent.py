import numpy as np

from driftpost_sketches.drift.recent import LEVELS, PER_LEVEL, Recent


def recent_of(count):
    recent = Recent(1, 1)
    for i in range(count):
        recent.push(np.array([[float(i)]]))
    return recent


def test_the_newest_two_windows_are_exact():
    recent = recent_of(101)
    assert recent.since(1)[0, 0] == 100
    assert recent.since(2)[0, 0] in (100, 199)


def test_sums_since_a_moment_reach_back_at_least_half_way_and_never_further():
    recent = Recent(1, 1)
    for _ in range(500):
        recent.push(np.ones((1, 1)))
    for asked in range(1, 500):
        assert asked / 2 <= recent.since(asked)[0, 0] <= asked


def test_its_size_stops_growing():
    recent = recent_of(20_000)
    assert len(recent.blocks) <= LEVELS * PER_LEVEL + 1
    assert sum(width for width, _ in recent.blocks) >= 1 << LEVELS


def test_nothing_pushed_is_nothing():
    assert Recent(2, 3).since(5).tolist() == [[0.0] * 3] * 2
