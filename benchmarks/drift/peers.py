"""Other detectors on the same streams: windowed KS, chi-square, PSI, a CUSUM, and River's where installed.

Runs as a program of its own, since River lives in another environment:

    python -m benchmarks.drift.peers SEED SOURCE DEVICES DAYS DELAY_SEED TRIALS

prints JSON: by detector, false alarms at its usual setting, the laxest setting at which it raises no more
than `allowed` of them on the very device-days on which driftpost's are counted, and its delays at that. Each
detector watches every stream of the device by itself, having seen the reference first. A setting is a limit
on the detector's statistic; the statistic's peak over quiet days says for all limits at once which streams
alarm, and only those are run again to count how often.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from benchmarks.drift.adwin import adwin_peaks
from benchmarks.drift.changes import CHANGES, HORIZON_ROWS, WARM_UP_ROWS
from benchmarks.drift.kswin import kswin_alarms, kswin_distances
from benchmarks.drift.page_hinkley import page_hinkley_peaks
from benchmarks.drift.streams import DAY_ROWS, STREAMS_PER_DEVICE, live, reference
from benchmarks.drift.tuning import Tuning

FloatArray = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

WINDOW_ROWS = 100  # of the windowed tests: with fewer they see next to nothing
TRIALS_PER_DEVICE = 5
ALLOWANCE = 0.5  # of the CUSUM: half of a shift by one standard deviation
USUAL_LEVEL = 0.05 / STREAMS_PER_DEVICE  # of the windowed tests: Bonferroni over a device's streams
KSWIN_LEAD_IN = 1_000  # rows of the reference; its window holds a hundred
KSWIN_ROWS = 3_000  # on which its usual setting is counted
KSWIN_TRIALS = 5  # River's takes 160 us a row, ours about 5: fewer changes, and one device-day of quiet
_ROUNDING = 1e-9  # a limit must not fall below the peak it was read from


@dataclass(frozen=True)
class Peer:
    """A detector for one stream.

    Attributes:
        alarms: rows (counted from 1) at which it alarms, given its reference, live rows and a limit.
        peaks: of some streams (float64[rows, streams], reference and live rows), a value each that a limit
            must reach for the stream to stay silent.
        usual: its usual limit.
        words: a limit as its users would write it.
        devices, days: on how many its false alarms are counted at most.
        trials: changes of each kind at most.
    """

    alarms: Callable[[FloatArray, FloatArray, float], Rows]
    peaks: Callable[[FloatArray, FloatArray], FloatArray]
    usual: float
    words: Callable[[float], str]
    devices: int = 1_000
    days: int = 1_000
    trials: int = 1_000


def ks_distances(known: FloatArray, values: FloatArray) -> FloatArray:
    """Two-sample Kolmogorov-Smirnov per window: the distance, scaled as in Stephens' correction."""
    known = np.sort(known)
    blocks = np.sort(values[: len(values) // WINDOW_ROWS * WINDOW_ROWS].reshape(-1, WINDOW_ROWS), axis=1)
    below = np.searchsorted(known, blocks, side="left") / len(known)
    up_to = np.searchsorted(known, blocks, side="right") / len(known)
    steps = np.arange(WINDOW_ROWS + 1) / WINDOW_ROWS
    distance = np.maximum(steps[1:] - below, up_to - steps[:-1]).max(axis=1)
    size = math.sqrt(len(known) * WINDOW_ROWS / (len(known) + WINDOW_ROWS))
    return np.asarray((size + 0.12 + 0.11 / size) * distance)


def ks_level(scaled: float) -> float:
    """Asymptotic p-value of a scaled distance."""
    if scaled < 0.5:
        return 1.0
    return 2.0 * math.fsum((-1.0) ** (k - 1) * math.exp(-2.0 * (k * scaled) ** 2) for k in range(1, 101))


def ks_limit(level: float) -> float:
    """Scaled distance whose p-value is this level."""
    low, high = 0.5, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if ks_level(middle) > level else (low, middle)
    return high


def psi_values(known: FloatArray, values: FloatArray) -> FloatArray:
    """Population stability index per window over the reference's deciles; half a row added to each."""
    edges = np.quantile(known, np.arange(1, 10) / 10)
    shares = (_decile_counts(edges, values) + 0.5) / (WINDOW_ROWS + 5.0)
    return np.asarray(((shares - 0.1) * np.log(shares / 0.1)).sum(axis=1))


def chi_square_scores(known: FloatArray, values: FloatArray) -> FloatArray:
    """Two-sample chi-square per window over the reference's deciles; Wilson and Hilferty's normal score."""
    edges = np.quantile(known, np.arange(1, 10) / 10)
    then = np.bincount(np.searchsorted(edges, known), minlength=10).astype(np.float64)
    now = _decile_counts(edges, values)
    ratio = math.sqrt(WINDOW_ROWS / len(known))
    statistic = ((then * ratio - now / ratio) ** 2 / (then + now)).sum(axis=1)
    freedom = 9.0
    score = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    return np.asarray(score)


def _decile_counts(edges: FloatArray, values: FloatArray) -> FloatArray:
    blocks = len(values) // WINDOW_ROWS
    places = np.searchsorted(edges, values[: blocks * WINDOW_ROWS]) + 10 * np.repeat(
        np.arange(blocks), WINDOW_ROWS
    )
    return np.bincount(places, minlength=10 * blocks).reshape(blocks, 10).astype(np.float64)


def cusum_alarms(known: FloatArray, values: FloatArray, limit: float) -> Rows:
    """Page's two-sided CUSUM of standardised values with the usual allowance, begun anew after an alarm."""
    rows = []
    up = down = 0.0
    for row, z in enumerate(((values - known.mean()) / known.std()).tolist(), start=1):
        up = max(up + z - ALLOWANCE, 0.0)
        down = max(down - z - ALLOWANCE, 0.0)
        if up > limit or down > limit:
            rows.append(row)
            up = down = 0.0
    return np.array(rows, dtype=np.int64)


def cusum_peaks(known: FloatArray, values: FloatArray) -> FloatArray:
    """Largest sums that the same CUSUM reaches without a limit."""
    z = (values - known.mean(axis=0)) / known.std(axis=0)
    highest = np.zeros(z.shape[1])
    for side in (z, -z):
        path = np.cumsum(side - ALLOWANCE, axis=0)
        highest = np.maximum(
            highest, (path - np.minimum(np.minimum.accumulate(path, axis=0), 0.0)).max(axis=0)
        )
    return highest


def _river(make: Callable[[float], Any]) -> Callable[[FloatArray, FloatArray, float], Rows]:
    def alarms(known: FloatArray, values: FloatArray, limit: float) -> Rows:
        detector = make(limit)
        for value in known.tolist():
            detector.update(value)
        rows = []
        for row, value in enumerate(values.tolist(), start=1):
            detector.update(value)
            if detector.drift_detected:
                rows.append(row)
        return np.array(rows, dtype=np.int64)

    return alarms


def _windowed(
    statistic: Callable[[FloatArray, FloatArray], FloatArray], usual: float, words: Callable[[float], str]
) -> Peer:
    def alarms(known: FloatArray, values: FloatArray, limit: float) -> Rows:
        return (np.flatnonzero(statistic(known, values) > limit) + 1) * WINDOW_ROWS

    def peaks(known: FloatArray, values: FloatArray) -> FloatArray:
        return np.array([statistic(k, v).max() for k, v in zip(known.T, values.T, strict=True)])

    return Peer(alarms, peaks, usual, words, devices=30)


def _from_the_reference_on(
    peaks: Callable[[FloatArray], FloatArray],
) -> Callable[[FloatArray, FloatArray], FloatArray]:
    return lambda known, values: peaks(np.concatenate([known, values]))


def _kswin_alarms(known: FloatArray, values: FloatArray, limit: float) -> Rows:
    led = min(len(known), KSWIN_LEAD_IN)
    rows = kswin_alarms(np.concatenate([known[-led:], values]), limit) - led
    return rows[rows > 0]


def _kswin_peaks(known: FloatArray, values: FloatArray) -> FloatArray:
    both = np.concatenate([known[-KSWIN_LEAD_IN:], values])
    return np.array([kswin_distances(column).max() for column in np.ascontiguousarray(both.T)])


def peers() -> dict[str, Peer]:
    """All that can be run here."""
    normal = NormalDist()
    found = {
        "KS 0.05/30": _windowed(ks_distances, ks_limit(USUAL_LEVEL), lambda x: f"level {ks_level(x):.1e}"),
        "chi-square 0.05/30": _windowed(
            chi_square_scores,
            normal.inv_cdf(1.0 - USUAL_LEVEL),
            lambda x: f"level {0.5 * math.erfc(x / math.sqrt(2)):.1e}",
        ),
        "PSI 0.2": _windowed(psi_values, 0.2, lambda x: f"{x:.2f}"),
        "CUSUM": Peer(cusum_alarms, cusum_peaks, 5.0, lambda x: f"{x:.1f}"),
    }
    try:
        drift = importlib.import_module("river.drift")
    except ImportError:
        return found
    found["ADWIN"] = Peer(
        _river(lambda limit: drift.ADWIN(delta=math.exp(-limit))),
        _from_the_reference_on(adwin_peaks),
        -math.log(0.002),
        lambda x: f"delta {math.exp(-x):.1e}",
    )
    found["Page-Hinkley"] = Peer(
        _river(lambda limit: drift.PageHinkley(threshold=limit)),
        _from_the_reference_on(page_hinkley_peaks),
        50.0,
        lambda x: f"{x:.0f}",
    )
    # Its usual level of 0.005 lies between 13 and 14 of 30.
    found["KSWIN"] = Peer(
        _kswin_alarms,
        _kswin_peaks,
        13.5 / 30,
        lambda x: f"distance {x:.2f}",
        devices=1,
        days=1,
        trials=KSWIN_TRIALS,
    )
    return found


def allowed(device_days: int) -> int:
    """False alarms that everyone is tuned to at most: one in 1,000 device-days, none in fewer."""
    return device_days // 1000


def tune(
    found: dict[str, Peer], seed: int, source: str, devices: int, days: int
) -> dict[str, dict[str, Any]]:
    """Every detector's laxest limit, by one pass over the quiet days of some devices."""
    sizes = {name: (min(devices, peer.devices), min(days, peer.days)) for name, peer in found.items()}
    tunings = {name: Tuning(peer.alarms, allowed(math.prod(sizes[name]))) for name, peer in found.items()}
    usual = dict.fromkeys(found, 0)
    for device in range(devices):
        known = reference(seed, source, device, "null")
        quiet = live(seed, source, device, "null", days * DAY_ROWS)
        streams = [(known[:, i].copy(), quiet[:, i].copy()) for i in range(STREAMS_PER_DEVICE)]
        for name, peer in found.items():
            if device < sizes[name][0]:
                rows = sizes[name][1] * DAY_ROWS
                shorter = [(before, after[:rows]) for before, after in streams]
                tunings[name].read(peer.peaks(known, quiet[:rows]), shorter)
            if device == 0:
                counted = streams if name != "KSWIN" else [(streams[0][0], streams[0][1][:KSWIN_ROWS])]
                usual[name] = sum(len(peer.alarms(*pair, peer.usual)) for pair in counted)
        if (device + 1) % max(1, devices // 10) == 0:
            _say(f"{source}: others' quiet days on {device + 1} of {devices} devices")
    usual_days = {name: float(days) for name in found}
    usual_days["KSWIN"] = KSWIN_ROWS / (DAY_ROWS * STREAMS_PER_DEVICE)
    results = {}
    for name, peer in found.items():
        limit, raised = tunings[name].found
        results[name] = {
            "usual": usual[name], "usual_days": usual_days[name], "device_days": math.prod(sizes[name]),
            "limit": limit * (1.0 + _ROUNDING), "raised": raised, "words": peer.words(limit),
        }  # fmt: skip
    return results


def _delays(peer: Peer, limit: float, seed: int, source: str, trials: int) -> dict[str, list[float | None]]:
    """On the very trials that driftpost is measured on; None where nothing was found."""
    found: dict[str, list[float | None]] = {name: [] for name in CHANGES}
    for trial in range(min(trials, peer.trials)):
        device, stream = divmod(trial, TRIALS_PER_DEVICE)
        if stream == 0:
            known = reference(seed, source, device, "delay")
            quiet = live(seed, source, device, "delay", WARM_UP_ROWS + HORIZON_ROWS)
        before, after = np.split(quiet[:, stream], [WARM_UP_ROWS])
        for name, change in CHANGES.items():
            changed = np.concatenate([before, change(after, float(before[-1]))])
            rows = peer.alarms(known[:, stream], changed, limit)
            rows = rows[rows > WARM_UP_ROWS]
            found[name].append(float(rows[0] - WARM_UP_ROWS) if len(rows) else None)
    return found


def _say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def main() -> None:
    """What the module says."""
    source = sys.argv[2]
    seed, devices, days, delay_seed, trials = (int(word) for word in (sys.argv[1], *sys.argv[3:]))
    found = peers()
    results = tune(found, seed, source, devices, days)
    for name, peer in found.items():
        results[name]["delays"] = _delays(peer, results[name]["limit"], delay_seed, source, trials)
        _say(f"{source}: delays of {name}")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
