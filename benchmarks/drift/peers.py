"""Other detectors on the same streams: windowed KS and PSI in numpy, and River's where it is installed.

Runs as a program of its own, since River lives in another environment:

    python -m benchmarks.drift.peers SEED SOURCE NULL_DAYS TRIALS

prints JSON: by detector, false alarms at its usual setting, the setting tuned to at most one false alarm a
device-day, what that one was measured at, and its delays. Each detector watches every stream of the device by
itself, having seen the end of the reference first.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from benchmarks.drift.changes import CHANGES, HORIZON_ROWS, WARM_UP_ROWS
from benchmarks.drift.streams import DAY_ROWS, STREAMS_PER_DEVICE, live, reference

FloatArray = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

WINDOW_ROWS = 100  # of the windowed tests: with fewer they see next to nothing
LEAD_IN_ROWS = 10_000  # of the reference, which River's detectors get to know first
TRIALS_PER_DEVICE = 5
ALLOWANCE = 0.5  # of the CUSUM: half of a shift by one standard deviation
KSWIN_ROWS = 3_000  # it takes more than a millisecond a row: a single quiet device-day would take ten minutes


@dataclass(frozen=True)
class Peer:
    """A detector for one stream.

    Attributes:
        alarms: rows (counted from 1) at which it alarms, given its reference, live rows and a setting.
        settings: from its usual one to less and less sensitive ones.
    """

    alarms: Callable[[FloatArray, FloatArray, float], Rows]
    settings: tuple[float, ...]


def ks_alarms(known: FloatArray, values: FloatArray, level: float) -> Rows:
    """Two-sample Kolmogorov-Smirnov per window; asymptotic p-value with Stephens' correction."""
    known = np.sort(known)
    blocks = np.sort(values[: len(values) // WINDOW_ROWS * WINDOW_ROWS].reshape(-1, WINDOW_ROWS), axis=1)
    below = np.searchsorted(known, blocks, side="left") / len(known)
    up_to = np.searchsorted(known, blocks, side="right") / len(known)
    steps = np.arange(WINDOW_ROWS + 1) / WINDOW_ROWS
    distance = np.maximum(steps[1:] - below, up_to - steps[:-1]).max(axis=1)
    size = math.sqrt(len(known) * WINDOW_ROWS / (len(known) + WINDOW_ROWS))
    scaled = (size + 0.12 + 0.11 / size) * distance
    k = np.arange(1, 101)[:, None]
    p = np.clip(2.0 * ((-1.0) ** (k - 1) * np.exp(-2.0 * k**2 * scaled**2)).sum(axis=0), 0.0, 1.0)
    return (np.flatnonzero((p < level) & (scaled > 0.5)) + 1) * WINDOW_ROWS


def psi_alarms(known: FloatArray, values: FloatArray, limit: float) -> Rows:
    """Population stability index per window over the reference's deciles; half a row added to each."""
    edges = np.quantile(known, np.arange(1, 10) / 10)
    blocks = values[: len(values) // WINDOW_ROWS * WINDOW_ROWS].reshape(-1, WINDOW_ROWS)
    bins = np.searchsorted(edges, blocks)
    shares = ((bins[:, :, None] == np.arange(10)).sum(axis=1) + 0.5) / (WINDOW_ROWS + 5.0)
    index = ((shares - 0.1) * np.log(shares / 0.1)).sum(axis=1)
    return (np.flatnonzero(index > limit) + 1) * WINDOW_ROWS


def chi_square_alarms(known: FloatArray, values: FloatArray, level: float) -> Rows:
    """Two-sample chi-square per window over the reference's deciles, by Wilson and Hilferty's p-value."""
    edges = np.quantile(known, np.arange(1, 10) / 10)
    then = np.bincount(np.searchsorted(edges, known), minlength=10).astype(np.float64)
    blocks = values[: len(values) // WINDOW_ROWS * WINDOW_ROWS].reshape(-1, WINDOW_ROWS)
    now = (np.searchsorted(edges, blocks)[:, :, None] == np.arange(10)).sum(axis=1).astype(np.float64)
    ratio = math.sqrt(WINDOW_ROWS / len(known))
    statistic = ((then * ratio - now / ratio) ** 2 / (then + now)).sum(axis=1)
    freedom = 9.0
    score = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    return (np.flatnonzero(score > NormalDist().inv_cdf(1.0 - level)) + 1) * WINDOW_ROWS


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


def _river(make: Callable[[float], Any]) -> Callable[[FloatArray, FloatArray, float], Rows]:
    def alarms(known: FloatArray, values: FloatArray, setting: float) -> Rows:
        detector = make(setting)
        for value in known[-LEAD_IN_ROWS:].tolist():
            detector.update(value)
        rows = []
        for row, value in enumerate(values.tolist(), start=1):
            detector.update(value)
            if detector.drift_detected:
                rows.append(row)
        return np.array(rows, dtype=np.int64)

    return alarms


def peers() -> dict[str, Peer]:
    """All that can be run here."""
    found = {
        "KS 0.05/30": Peer(
            ks_alarms, (0.05 / STREAMS_PER_DEVICE, *(10.0**-k for k in np.arange(3, 31, 0.25)))
        ),
        "chi-square 0.05/30": Peer(
            chi_square_alarms, (0.05 / STREAMS_PER_DEVICE, *(10.0**-k for k in np.arange(3, 16, 0.25)))
        ),
        "PSI 0.2": Peer(psi_alarms, tuple(0.2 * 1.05**k for k in range(80))),
        "CUSUM": Peer(cusum_alarms, tuple(5.0 * 1.08**k for k in range(70))),
    }
    try:
        drift = importlib.import_module("river.drift")
    except ImportError:
        return found
    found["ADWIN"] = Peer(
        _river(lambda delta: drift.ADWIN(delta=delta)), (0.002, *(10.0**-k for k in np.arange(3, 80, 0.5)))
    )
    found["Page-Hinkley"] = Peer(
        _river(lambda limit: drift.PageHinkley(threshold=limit)), tuple(50.0 * 1.1**k for k in range(60))
    )
    found["KSWIN"] = Peer(_river(lambda level: drift.KSWIN(alpha=level, seed=1)), (0.005,))
    return found


def measure(peer: Peer, seed: int, source: str, *, null_days: int, trials: int, slow: bool) -> dict[str, Any]:
    """One detector on one kind of stream."""
    known = reference(seed, source, 0, "null")
    quiet = live(seed, source, 0, "null", null_days * DAY_ROWS)
    count = KSWIN_ROWS / (DAY_ROWS * STREAMS_PER_DEVICE) if slow else float(null_days)
    columns = [(0, quiet[:KSWIN_ROWS, 0])] if slow else list(enumerate(quiet.T))
    out: dict[str, Any] = {"device_days": count, "tuned": None, "delays": {}}

    def raised(setting: float) -> int:
        return sum(len(peer.alarms(known[:, i], column, setting)) for i, column in columns)

    out["usual"] = raised(peer.settings[0])
    if not slow:
        # Alarms get fewer from setting to setting: the first that is quiet enough, in a few steps.
        at = bisect_left(peer.settings, True, key=lambda setting: raised(setting) <= null_days)
        if at < len(peer.settings):
            out["tuned"], out["tuned_alarms"] = peer.settings[at], raised(peer.settings[at])
    if out["tuned"] is not None:
        out["delays"] = _delays(peer, out["tuned"], seed, source, trials)
    return out


def _delays(peer: Peer, setting: float, seed: int, source: str, trials: int) -> dict[str, list[float | None]]:
    """On the very trials that driftpost is measured on; None where nothing was found."""
    found: dict[str, list[float | None]] = {name: [] for name in CHANGES}
    for trial in range(trials):
        device, stream = divmod(trial, TRIALS_PER_DEVICE)
        if stream == 0:
            known = reference(seed, source, device, "delay")
            quiet = live(seed, source, device, "delay", WARM_UP_ROWS + HORIZON_ROWS)
        before, after = np.split(quiet[:, stream], [WARM_UP_ROWS])
        for name, change in CHANGES.items():
            changed = np.concatenate([before, change(after, float(before[-1]))])
            rows = peer.alarms(known[:, stream], changed, setting)
            rows = rows[rows > WARM_UP_ROWS]
            found[name].append(float(rows[0] - WARM_UP_ROWS) if len(rows) else None)
    return found


def main() -> None:
    seed, source, null_days, trials = sys.argv[1:]
    found = {}
    for name, peer in peers().items():
        slow = name == "KSWIN"
        size = {"null_days": int(null_days), "trials": int(trials)}
        found[name] = measure(peer, int(seed), source, **size, slow=slow)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
