"""Bets on how far a stream moves from row to row."""

import numpy as np
import pytest

from driftpost_sketches.cells import ABSENT, CELLS
from driftpost_sketches.drift.bets import Family, build_bets
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.chain import fit_chain
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.drift.perron import principal
from driftpost_sketches.drift.roughness import TILTS, sizes, step_score
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.fitting import fit_numeric
from driftpost_sketches.schema import Role, Schema
from simulated_streams import windows


def volatile(rng, rows):
    """GARCH(1, 1): spells of about fifty rows, variance 1."""
    out, variance = rng.normal(size=rows), 1.0
    for t in range(rows):
        out[t] *= variance**0.5
        variance = 0.02 + 0.1 * out[t] ** 2 + 0.88 * variance
    return out


def day(rng, rows):
    """An autoregression that swings with the hour; a day is 20,000 rows."""
    noise = np.sqrt(0.75) * rng.normal(size=rows)
    for t in range(1, rows):
        noise[t] += 0.5 * noise[t - 1]
    return noise + np.sin(2 * np.pi * np.arange(rows) / 20_000)


def calibrated(values):
    schema = Schema([fit_numeric("x", values, Role.INPUT)])
    return Calibration.fit(schema, values[:, None])


def first_alarm(calibration, values, log_threshold=20.0):
    detector = DriftDetector(calibration, log_threshold)
    for at, (window, transitions) in enumerate(windows(calibration.schema, values[:, None], 20)):
        alarms = detector.step(transitions, window)
        if alarms:
            return 20 * (at + 1), alarms[0].kind
    return None


def chain_of(cells):
    cells = np.asarray(cells, dtype=np.int64)
    return fit_chain(cells, cells.astype(float), True, int(cells.max()) + 1)


def test_the_score_of_steps_is_standard_under_the_chain_and_knows_no_absent_values():
    rng = np.random.default_rng(1)
    chain = calibrated(day(rng, 20_000)).chains[0]
    score = step_score(chain.shares, chain.matrix)
    weight = chain.shares[:, None] * chain.matrix
    weight[ABSENT] = weight[:, ABSENT] = 0.0
    assert (weight * score).sum() == pytest.approx(0.0, abs=1e-9)
    assert (weight * score**2).sum() / weight.sum() == pytest.approx(1.0)
    assert not score[ABSENT].any()
    assert not score[:, ABSENT].any()
    assert np.array_equal(score, score.T)


def test_no_step_is_expected_to_gain_while_nothing_changes():
    calibration = calibrated(volatile(np.random.default_rng(2), 20_000))
    chain = calibration.chains[0]
    bets = build_bets(chain, calibration.margins(0).toward(16.0, 1), None)
    rough = slice(np.flatnonzero(bets.families == Family.SCALE).max() - TILTS + 1, None)
    # Tempered bets are powers of e-values, whose mean over a stationary chain is below 1 as well.
    powers = np.exp(bets.table[:, :, rough][:, :, :TILTS]).transpose(2, 0, 1)
    rho, _ = principal(chain.matrix[None] * powers)
    assert (rho <= 1.0).all()


def test_of_two_steps_by_hand():
    # Two cells in turn and each twice: steps of none and of one, alike often.
    score = step_score(np.r_[0.5, 0.5, np.zeros(CELLS - 2)], np.pad([[0.5, 0.5], [0.5, 0.5]], (0, CELLS - 2)))
    assert score[0, 1] == pytest.approx(1.0)
    assert score[0, 0] == pytest.approx(-1.0)


def test_a_stream_that_hardly_moves_is_not_bet_on():
    chain = chain_of(np.zeros(500))
    assert not chain.roughness.caution.any()
    assert not step_score(chain.shares, chain.matrix)[0, 0]


def test_bold_and_gentle_tilts_go_both_ways_and_remember_the_streams_memory():
    assert sizes(1.0).tolist() == [0.2, -0.2, 0.5, -0.5]
    assert sizes(4.0).tolist() == [0.05, -0.05, 0.125, -0.125]


@pytest.mark.parametrize("factor", [1.5, 1 / 1.5])
def test_another_scale_is_found_behind_volatile_spells(factor):
    rng = np.random.default_rng(3)
    calibration = calibrated(volatile(rng, 50_000))
    quiet = volatile(rng, 20_000)
    assert first_alarm(calibration, quiet) is None
    rows, kind = first_alarm(calibration, quiet * factor)
    assert rows < 10_000
    assert kind in {"scale", "noisy", "shape"}


@pytest.mark.parametrize("factor", [1.5, 1 / 1.5])
def test_another_scale_is_found_behind_a_daily_cycle(factor):
    rng = np.random.default_rng(4)
    calibration = calibrated(day(rng, 50_000))
    quiet = day(rng, 20_000)
    assert first_alarm(calibration, quiet) is None
    rows, kind = first_alarm(calibration, quiet * factor)
    assert rows < 5_000
    assert kind in {"scale", "noisy", "shape"}


def test_bytes_carry_the_memory_of_steps_and_impossible_ones_are_refused():
    calibration = calibrated(np.random.default_rng(5).normal(size=2_000))
    again = Calibration.from_bytes(calibration.to_bytes()).chains[0].roughness
    kept = calibration.chains[0].roughness
    assert (again.tau_chain, again.tau) == (kept.tau_chain, kept.tau)
    assert np.array_equal(again.caution, kept.caution)
    object.__setattr__(kept, "tau", kept.tau_chain / 2)
    with pytest.raises(MalformedSketch, match="memory of its steps"):
        Calibration.from_bytes(calibration.to_bytes())
