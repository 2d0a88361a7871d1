import numpy as np
import pytest

from driftpost_sketches.drift.folding import OWN_CELLS, selection_bias
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.schema import Role, Schema
from simulated_streams import categories, windows


def reference(shares, rows=1000, seed=0):
    values = categories(np.random.default_rng(seed), rows, shares)
    stream = fit_categorical("class", values, Role.OUTPUT, categories=range(len(shares)))
    ((window, _),) = windows(Schema([stream]), values[:, None], rows)
    return stream, window.counts


def understated(shares, rows=1000):
    """How much rarer the folded categories look than they are, in standard deviations, on average."""
    gaps = []
    for seed in range(60):
        stream, counts = reference(shares, rows, seed)
        folded = np.array(stream.categories[OWN_CELLS:])
        true = float(np.asarray(shares)[folded].sum())
        gaps.append((true - counts[OWN_CELLS:].sum() / rows) / np.sqrt(true * (1 - true)))
    return float(np.mean(gaps))


@pytest.mark.parametrize("count", [18, 30, 64])
def test_equal_categories_are_charged_for_having_been_chosen_as_rare(count):
    shares = np.full(count, 1.0 / count)
    charged = [selection_bias(*reference(shares, seed=seed), 1000) for seed in range(10)]
    actual = understated(shares)
    assert actual > 0.05
    assert 0.9 * actual < np.mean(charged) < 2.0 * actual


def test_categories_of_clearly_different_frequency_are_charged_little():
    shares = 0.7 ** np.arange(30)
    shares /= shares.sum()
    assert selection_bias(*reference(shares, 100_000), 100_000) < 0.01


def test_streams_whose_categories_all_have_cells_are_charged_nothing():
    assert selection_bias(*reference(np.full(16, 1 / 16)), 1000) == 0.0
    numbers = fit_numeric("x", np.arange(100.0), Role.INPUT)
    assert selection_bias(numbers, np.ones(numbers.n_bins, np.int64), 100) == 0.0


def test_a_reference_without_rows_is_charged_nothing():
    stream, counts = reference(np.full(30, 1 / 30))
    assert selection_bias(stream, 0 * counts, 0.0) == 0.0
