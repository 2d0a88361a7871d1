import math

import numpy as np
import pytest
from benchmarks.drift import product, table
from benchmarks.drift.adwin import adwin_peaks
from benchmarks.drift.changes import CHANGES, WORDS
from benchmarks.drift.kswin import kswin_alarms, kswin_distances
from benchmarks.drift.oracle import garch_delays
from benchmarks.drift.page_hinkley import page_hinkley_peaks
from benchmarks.drift.parts import Parts
from benchmarks.drift.peers import (
    chi_square_scores,
    cusum_alarms,
    ks_distances,
    ks_level,
    ks_limit,
    peers,
    psi_values,
)
from benchmarks.drift.screen import highest_evidence, stays_silent
from benchmarks.drift.streams import DAY_ROWS, SOURCES, live
from benchmarks.drift.tuning import Tuning

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.detector import DriftDetector


@pytest.mark.parametrize("source", SOURCES)
def test_every_stream_has_zero_mean_and_unit_variance(source):
    values = SOURCES[source].simulate(np.random.default_rng(1), 2 * DAY_ROWS, 8)
    assert values.shape == (2 * DAY_ROWS, 8)
    assert abs(values.mean()) < 0.05
    assert values.std() == pytest.approx(1.0, abs=0.05)


def test_a_device_sees_the_same_rows_whoever_asks_and_another_device_others():
    assert np.array_equal(live(1, "iid", 0, "null", 50), live(1, "iid", 0, "null", 50))
    assert not np.array_equal(live(1, "iid", 0, "null", 50), live(1, "iid", 1, "null", 50))
    assert not np.array_equal(live(1, "iid", 0, "null", 50), live(2, "iid", 0, "null", 50))


def test_every_change_has_words_and_keeps_the_number_of_rows():
    assert list(CHANGES) == list(WORDS)
    assert all(change(np.zeros(7), 0.5).shape == (7,) for change in CHANGES.values())


def test_poisson_bounds_are_the_textbook_ones():
    assert table.upper_bound(0, 1.0) == pytest.approx(math.log(20), rel=1e-6)
    assert table.upper_bound(3, 1.0) == pytest.approx(7.754, abs=1e-3)
    assert table.lower_bound(3, 1.0) == pytest.approx(0.8177, abs=1e-4)
    assert table.lower_bound(0, 1.0) == 0.0


def test_a_verdict_needs_enough_device_days():
    assert table.verdict(0, 40, 10) == "open"
    assert table.verdict(0, 400, 10) == "kept"
    assert table.verdict(12, 400, 10) == "BROKEN"


def test_delays_that_were_missed_count_as_beyond_the_horizon():
    assert table.rows_in_words([20.0, 40.0, math.inf]) == "40 / >40,000"
    assert table.median([math.inf, math.inf, 20.0]) == 40_000


def test_the_windowed_tests_keep_their_level_and_find_a_shift():
    rng = np.random.default_rng(2)
    known, quiet = rng.normal(size=10_000), rng.normal(size=200_000)
    limit = ks_limit(0.05)
    assert ks_level(limit) == pytest.approx(0.05)
    assert limit == pytest.approx(1.358, abs=1e-3)  # Kolmogorov's table
    assert 0.03 < (ks_distances(known, quiet) > limit).mean() < 0.07
    assert (ks_distances(known, quiet + 1.0) > ks_limit(1e-3)).all()
    assert (psi_values(known, quiet + 1.0) > 0.3).all()
    assert 0.03 < (chi_square_scores(known, quiet) > 1.645).mean() < 0.07
    assert (chi_square_scores(known, quiet + 1.0) > 4.75).all()


def test_the_cusum_finds_shifts_up_and_down_and_begins_anew():
    rng = np.random.default_rng(2)
    known = 5.0 + 2.0 * rng.normal(size=10_000)
    for shift in (2.0, -2.0):
        rows = cusum_alarms(known, known[:2_000] + shift, 5.0)
        assert rows[0] < 40
        assert len(rows) > 50


def test_peaks_say_at_which_limits_a_stream_alarms():
    """Without River: those that run everywhere, by their own alarms."""
    rng = np.random.default_rng(5)
    known, quiet = rng.normal(size=(2_000, 3)), rng.normal(size=(5_000, 3))
    for peer in peers().values():
        for column, peak in enumerate(peer.peaks(known, quiet)):
            of = known[:, column], quiet[:, column]
            assert not len(peer.alarms(*of, peak + 1e-6))
            assert len(peer.alarms(*of, peak - 1e-6))


# Printed by River 0.26.1 for the streams of `river_streams`: rows of all alarms.
ADWIN_CROSSES = {0: 1632, 1: 3680, 2: 544, 3: 2368}  # the one alarm at a delta a millionth above the peak
PAGE_HINKLEY_CROSSES = {0: 3407, 1: 3942, 2: 5348, 3: 5602}
KSWIN_ALARMS = {0: [1434, 1589, 2079], 3: [], 4: [316, 1504, 3012]}  # alpha 0.005, seed 1


def river_streams():
    values = np.random.default_rng(7).normal(size=(6_000, 5))
    values[:, 3] = np.round(values[:, 3])
    values[3_000:, 4] += 1.0
    return values


def test_adwins_peak_is_reached_where_rivers_adwin_alarms():
    values = river_streams()
    peaks = adwin_peaks(values)
    assert peaks == pytest.approx([2.1467, 4.8471, 2.5587, 2.3010, 418.8818], abs=1e-4)
    for stream, row in ADWIN_CROSSES.items():
        assert adwin_peaks(values[:row, [stream]])[0] == peaks[stream]
        assert adwin_peaks(values[: row - 1, [stream]])[0] < peaks[stream]


def test_page_hinkleys_peak_is_reached_where_rivers_alarms():
    values = river_streams()
    peaks = page_hinkley_peaks(values)
    assert peaks == pytest.approx([106.7153, 104.7515, 111.7538, 128.5154, 1870.0723], abs=1e-3)
    for stream, row in PAGE_HINKLEY_CROSSES.items():
        assert page_hinkley_peaks(values[:row, [stream]])[0] == pytest.approx(peaks[stream])
        assert page_hinkley_peaks(values[: row - 1, [stream]])[0] < peaks[stream]


@pytest.mark.parametrize("stream", KSWIN_ALARMS)
def test_kswin_alarms_in_the_rows_in_which_rivers_does(stream):
    rows = 3_500 if stream == 4 else 2_500
    assert kswin_alarms(river_streams()[:rows, stream], 13.5 / 30).tolist() == KSWIN_ALARMS[stream]


def test_kswin_counts_equal_values_once():
    assert not kswin_distances(np.ones(300)).any()


def test_a_limit_is_the_laxest_with_so_few_alarms():
    """Alarms are the rows above the limit; 3 streams whose peaks are 9, 7 (twice) and 5."""
    streams = [np.array(rows) for rows in ([1.0, 9.0], [7.0, 7.0], [5.0, 0.0])]

    def found(allowed):
        tuning = Tuning(lambda _, rows, limit: np.flatnonzero(rows > limit), allowed)
        for rows in streams:
            tuning.read(np.array([rows.max()]), [(np.zeros(1), rows)])
        return tuning.found

    assert found(0) == (9.0, 0)
    assert found(1) == (7.0, 1)
    assert found(2) == (7.0, 1)  # one step laxer there would be three
    assert found(3) == (5.0, 3)


def test_a_peak_in_the_reference_is_no_false_alarm():
    tuning = Tuning(lambda _, rows, limit: np.flatnonzero(rows > limit), 0)
    tuning.read(np.array([9.0, 4.0]), [(np.array([9.0]), np.array([3.0])), (np.zeros(1), np.array([4.0]))])
    assert tuning.found == (4.0, 0)


def test_a_part_is_measured_once_for_what_was_asked(tmp_path):
    parts, measured = Parts(tmp_path), []

    def measure():
        measured.append(1)
        return {"rows": [1.0, None]}

    assert parts.get("null-iid", measure, seed=1) == ({"rows": [1.0, None]}, False)
    assert Parts(tmp_path).get("null-iid", measure, seed=1) == ({"rows": [1.0, None]}, True)
    assert parts.get("null-iid", measure, seed=2)[1] is False
    assert len(measured) == 2
    assert Parts(None).get("null-iid", measure, seed=1)[1] is False
    assert not list(tmp_path.glob("*.part"))


def test_who_knows_everything_of_a_volatile_stream_needs_as_long_as_its_information_says():
    """Bounded by Wald: evidence of 17.2 nats at 0.0073 a row and 0.0172 a row."""
    found = garch_delays(1, 1)
    assert np.mean(found["scale_up"]) == pytest.approx(17.2 / 0.0073, rel=0.15)
    assert np.mean(found["scale_down"]) == pytest.approx(17.2 / 0.0172, rel=0.15)


def test_lines_on_which_another_is_sooner_are_named():
    same = {change: [20.0] for change in CHANGES}
    columns = {
        "ours": table.Column("budget 1", 0, 10, same),
        "other": table.Column("0.1", 0, 10, {**same, "mean1": [10.0], "stuck": [math.inf]}),
    }
    assert table.sooner(columns) == {"other": ["mean +1 sd"]}
    assert "| other |" in table.peer_table(columns)
    assert "0 in 10 days" in table.peer_table(columns)


def test_false_alarms_are_counted_at_every_budget():
    raised = product.false_alarms(1, "iidshort", 0, 1, *product.BUDGETS)
    assert list(raised) == [1000, 100, 10]
    assert raised[1000] >= raised[100] >= raised[10]


@pytest.mark.parametrize("source", ["iid", "ar9", "garch"])
def test_the_screen_sees_the_evidence_that_the_device_gathers(source):
    calibration = product.calibrate(1, source, 0, "null")
    values = live(1, source, 0, "null", 12_345)
    # A threshold that is never reached, so that both go on to the end.
    detector = DriftDetector(calibration, 60.0)
    seen = highest_evidence(calibration.schema, detector, values, product.WINDOW_ROWS)
    most = -np.inf
    for window, transitions in product.windows(WindowAccumulator(calibration.schema), values):
        assert detector.step(transitions, window) == []
        streams = detector.evidence().astype(float)
        most = max(most, float(np.logaddexp.reduce(streams)) - math.log(len(streams)))
    assert seen == pytest.approx(most, abs=1e-3)
    assert stays_silent(calibration.schema, DriftDetector(calibration, 60.0), values, 20, seen + 0.02)
    assert not stays_silent(calibration.schema, DriftDetector(calibration, 60.0), values, 20, seen + 0.005)


@pytest.mark.parametrize("source", ["ar5", "iidshort"])
def test_the_screen_silences_no_device_that_would_have_alarmed(source):
    budget = 100_000
    calibration = product.calibrate(2, source, 0, "null")
    values = live(2, source, 0, "null", DAY_ROWS)
    detector = product.detector_for(calibration, budget)
    raised = 0
    for window, transitions in product.windows(WindowAccumulator(calibration.schema), values):
        raised += sum(alarm.state == "raised" for alarm in detector.step(transitions, window))
    assert raised
    assert product.false_alarms(2, source, 0, 1, budget) == {budget: raised}
