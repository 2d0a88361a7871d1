"""Devices among their neighbours, bucket by bucket."""

from __future__ import annotations

import numpy as np
import pytest

from driftpost_aggregator import census
from driftpost_aggregator.census import LEAST_LOG_E, Apart, Census
from driftpost_sketches.drift.marginal import FloatArray, MarginalDetector
from paper_fleet import PaperBundle, draw, make_bundle

ROWS = 60


@pytest.fixture(scope="module")
def bundle() -> PaperBundle:
    return make_bundle()


class Play:
    """A census and the devices that it counts."""

    def __init__(self, bundle: PaperBundle) -> None:
        self.bundle = bundle
        words = bundle.describe
        self.detector = MarginalDetector(
            bundle.schema, bundle.baseline, words.tau, words.n_ref, words.smallest_effect
        )
        names = [bundle.schema.streams[i].name for i in bundle.schema.tracked_streams]
        self.census = Census(self.detector, names)
        self.rng = np.random.default_rng(3)

    def bucket(self, number: int, shifts: dict[str, float], *, noise: float = 0.0) -> dict[str, Apart]:
        return self.take(number, self.read(shifts), noise=noise)

    def read(self, shifts: dict[str, float]) -> dict[str, tuple[FloatArray, FloatArray, float]]:
        return {
            name: self.detector.read(self.bundle.window(draw(self.rng, ROWS, shift={"brightness": shift})))
            for name, shift in shifts.items()
        }

    def take(
        self, number: int, shown: dict[str, tuple[FloatArray, FloatArray, float]], *, noise: float = 0.0
    ) -> dict[str, Apart]:
        sums, rows, _ = (np.array(column) for column in zip(*shown.values(), strict=True))
        told = self.census.take(1000 * number, list(shown), sums, rows, np.full(len(shown), noise))
        return {one.device: one for one in told}


def fleet(count: int = 30, **shifts: float) -> dict[str, float]:
    return {f"m{number}": 0.0 for number in range(count)} | shifts


def test_a_change_too_small_for_one_bucket_shows_in_several(bundle: PaperBundle) -> None:
    play = Play(bundle)
    found = [play.bucket(number, fleet(m3=0.6)) for number in range(1, 13)]
    assert found[0] == {}
    assert list(found[-1]) == ["m3"]
    assert found[-1]["m3"].log_e > 2 * LEAST_LOG_E
    assert found[-1]["m3"].streams[0][0] == "brightness"
    assert found[-1]["m3"].against > LEAST_LOG_E


def test_the_onset_is_the_bucket_since_which_it_stands_apart(bundle: PaperBundle) -> None:
    play = Play(bundle)
    for number in range(1, 6):
        assert play.bucket(number, fleet()) == {}
    for number in range(6, 10):
        found = play.bucket(number, fleet(m3=3.0))
    assert found["m3"].onset_ms == 6000


def test_what_is_over_fades(bundle: PaperBundle) -> None:
    play = Play(bundle)
    for number in range(1, 4):
        assert "m3" in play.bucket(number, fleet(m3=2.0))
    last = {}
    for number in range(4, 60):
        last = play.bucket(number, fleet())
    assert last == {}


def test_devices_that_come_and_go_keep_their_own_past(bundle: PaperBundle) -> None:
    play = Play(bundle)
    for number in range(1, 100):
        shifts = fleet(20, m3=3.0) if number == 1 else {f"m{n}": 0.0 for n in range(number % 5, 20) if n != 3}
        play.bucket(number, shifts)
    assert len(play.census._line) == 19, "the one that left is forgotten"
    assert play.bucket(100, fleet(20)) == {}


def test_a_bucket_that_is_looked_at_again_counts_once(bundle: PaperBundle) -> None:
    once, twice = Play(bundle), Play(bundle)
    for number in range(1, 5):
        shown = once.read(fleet(m3=1.0))
        told = once.take(number, shown)
        for _ in range(3):
            assert twice.take(number, shown) == told
    np.testing.assert_array_equal(twice.census._rows, once.census._rows)


def test_of_a_fleet_in_which_others_are_looked_at_each_time_the_last_heard_are_remembered(
    bundle: PaperBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(census, "MAX_REMEMBERED", 50)
    play = Play(bundle)
    for number in range(1, 20):
        some = {f"m{number}-{n}": 0.0 for n in range(15)} | dict.fromkeys(["m0", "m1"], 0.0)
        play.bucket(number, some)
        assert len(play.census._line) <= 50
    rows = play.census._rows[[play.census._line[name] for name in ("m0", "m1", "m18-3", "m19-3")], 0]
    assert rows[0] == rows[1] > 8 * ROWS
    assert rows[2] < rows[3] == ROWS


def test_released_noise_is_told(bundle: PaperBundle) -> None:
    found = Play(bundle).bucket(1, fleet(m3=5.0), noise=1e-3)
    assert found["m3"].private


def test_no_device_no_word(bundle: PaperBundle) -> None:
    assert Play(bundle).census.take(0, [], np.zeros((0, 5, 24)), np.zeros((0, 5)), np.zeros(0)) == []
