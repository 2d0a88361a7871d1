import math
import random

import numpy as np
import pytest

from driftpost_sketches.privacy.discrete_gaussian import discrete_gaussian, discrete_laplace
from driftpost_sketches.window import NOISE_STEPS

DRAWS = 20_000


def misfit(draws, weight, reach):
    """Chi-square of draws against `weight` in its own standard deviations, tails beyond `reach` pooled."""
    wide = np.arange(-60 * reach, 60 * reach + 1)
    shares = np.array([weight(int(x)) for x in wide])
    shares /= shares.sum()
    inner = np.abs(wide) <= reach
    expected = DRAWS * np.append(shares[inner], shares[~inner].sum())
    counts = np.array([np.count_nonzero(draws == x) for x in wide[inner]])
    found = np.append(counts, DRAWS - counts.sum())
    free = len(found) - 1
    return (((found - expected) ** 2 / expected).sum() - free) / math.sqrt(2 * free)


@pytest.mark.parametrize("variance", [0.4, 1.0, 7.3, 40.0])
def test_draws_follow_the_discrete_gaussian(variance):
    steps = round(variance * NOISE_STEPS)
    generator = random.Random(1)
    draws = np.array([discrete_gaussian(steps, generator) for _ in range(DRAWS)])
    exact = steps / NOISE_STEPS
    reach = max(1, int(2.5 * math.sqrt(exact)))
    assert misfit(draws, lambda x: math.exp(-x * x / (2 * exact)), reach) < 4


@pytest.mark.parametrize("scale", [1, 3, 12])
def test_draws_follow_the_discrete_laplace(scale):
    generator = random.Random(2)
    draws = np.array([discrete_laplace(scale, generator) for _ in range(DRAWS)])
    assert misfit(draws, lambda x: math.exp(-abs(x) / scale), 3 * scale) < 4


def test_wide_noise_has_the_variance_that_was_asked_for():
    generator = random.Random(3)
    steps = 20_000 * NOISE_STEPS
    draws = np.array([discrete_gaussian(steps, generator) for _ in range(DRAWS)])
    assert draws.mean() == pytest.approx(0.0, abs=4 * math.sqrt(20_000 / DRAWS))
    assert draws.var() == pytest.approx(20_000, rel=5 * math.sqrt(2 / DRAWS))


def test_nothing_but_whole_numbers_is_asked_of_the_source_of_randomness():
    class Whole(random.Random):
        def random(self):
            raise AssertionError("a float was drawn")

        def randrange(self, stop):
            assert isinstance(stop, int)
            return self.getrandbits(stop.bit_length() + 64) % stop

    generator = Whole(4)
    assert all(isinstance(discrete_gaussian(5 * NOISE_STEPS, generator), int) for _ in range(200))


@pytest.mark.parametrize("draw", [discrete_gaussian, discrete_laplace])
def test_noise_without_a_size_is_refused(draw):
    with pytest.raises(ValueError, match="positive"):
        draw(0, random.Random(0))
