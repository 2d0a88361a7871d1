import numpy as np
import pytest

from driftpost_sketches.drift.memory import autoregressive_tau, batch_tau, memory
from simulated_streams import autoregressive, independent


@pytest.mark.parametrize(("rho", "tau"), [(-0.5, 1 / 3), (0.0, 1.0), (0.5, 3.0), (0.9, 19.0)])
def test_both_methods_find_the_memory_of_an_autoregression(rho, tau):
    series = autoregressive(np.random.default_rng(0), 50_000, rho=rho)[:, 0]
    assert autoregressive_tau(series)[0] == pytest.approx(tau, rel=0.06)
    assert batch_tau(series)[0] == pytest.approx(tau, rel=0.2)
    assert tau * 0.97 < memory(series) < 1.15 * tau


def test_the_error_of_batch_means_is_what_it_says():
    found = [batch_tau(independent(np.random.default_rng(seed), 5_000)[:, 0]) for seed in range(200)]
    spread = np.std([tau for tau, _ in found])
    assert spread == pytest.approx(found[0][1], rel=0.25)


@pytest.mark.parametrize(
    ("rows", "swing", "least"), [(2_000, 0.5, 45), (20_000, 1.0, 600), (20_000, 0.3, 50)]
)
def test_a_cycle_beyond_the_order_of_an_autoregression_is_heard_of_by_batches(rows, swing, least):
    at = np.arange(50_000)
    cycle = np.random.default_rng(0).normal(size=50_000) + swing * np.sin(2 * np.pi * at / rows)
    assert autoregressive_tau(cycle)[0] < least / 1.2
    assert memory(cycle) > least


def test_independent_rows_are_hardly_charged_for_the_noise_of_the_measurement():
    measured = [memory(independent(np.random.default_rng(seed), 10_000)[:, 0]) for seed in range(50)]
    assert np.median(measured) < 1.02
    assert np.quantile(measured, 0.9) < 1.1


@pytest.mark.parametrize("series", [np.zeros(500), np.full(500, 1e3), np.array([1.0, 2.0] * 10)])
def test_what_does_not_vary_or_is_too_short_has_no_memory(series):
    assert memory(series) == 1.0


def test_a_strict_alternation_has_next_to_no_memory():
    assert 0 < memory(np.array([1.0, -1.0] * 500)) < 0.2
