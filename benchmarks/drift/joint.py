"""Changes that no single stream shows: driftpost beside windowed MMD and Hotelling's T2.

Thirty streams hang together by four common factors (three quarters of a standard deviation of each). Then
one stream turns round: what was high is low. Its own distribution does not change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt
from benchmarks.drift.changes import WARM_UP_ROWS
from benchmarks.drift.product import BUDGETS, WINDOW_ROWS, detector_for, windows
from benchmarks.drift.streams import DAY_ROWS, SOURCES, STREAMS_PER_DEVICE, generator

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.fitting import fit_numeric
from driftpost_sketches.schema import Role, Schema

FloatArray = npt.NDArray[np.float64]
Metric = Callable[[str, float, str], None]

JOINT_SOURCES = ("iid", "ar5", "ar9")
NULL_SOURCES = (*JOINT_SOURCES, "garch")  # the last: common factors that swing wider for a while
FACTORS = 4
LOADING = 0.75  # standard deviations of a stream that the factors explain
STRICT = 1  # false alarms per 1,000 device-days
HORIZON = 20_000  # rows watched after the change
PEER_ROWS = 100  # rows of the others' windows
FREQUENCIES = 64  # random Fourier features of the MMD: a cosine and a sine of each


class Streams:
    """Thirty streams of one kind that hang together by factors."""

    def __init__(self, seed: int, source: str, device: int) -> None:
        self._rng = generator(seed, source, device, "joint")
        self._simulate = SOURCES[source].simulate
        loads = self._rng.normal(size=(STREAMS_PER_DEVICE, FACTORS))
        self._loads = LOADING * loads / np.linalg.norm(loads, axis=1, keepdims=True)

    def rows(self, count: int) -> FloatArray:
        """float64[count, 30] of unit variance."""
        shared = self._simulate(self._rng, count, FACTORS) @ self._loads.T
        own = self._simulate(self._rng, count, STREAMS_PER_DEVICE)
        return np.asarray(shared + own * math.sqrt(1.0 - LOADING**2))


class Mmd:
    """Windowed maximum mean discrepancy by random Fourier features at the median distance."""

    def __init__(self, reference: FloatArray) -> None:
        rng = np.random.default_rng(0)
        pairs = rng.integers(0, len(reference), (2, 1000))
        gaps = reference[pairs[0]] - reference[pairs[1]]
        width = float(np.median(np.sqrt((gaps**2).sum(axis=1))))
        self._directions = rng.normal(size=(reference.shape[1], FREQUENCIES)) / width
        self._usual = self._features(reference).mean(axis=0)

    def _features(self, rows: FloatArray) -> FloatArray:
        angles = rows @ self._directions
        return np.hstack([np.cos(angles), np.sin(angles)])

    def statistics(self, rows: FloatArray) -> FloatArray:
        """One number a window, larger for more drift."""
        means = _windowed(self._features(rows))
        return np.asarray(((means - self._usual) ** 2).sum(axis=1))


class Hotelling:
    """Hotelling's T2 on the means of windows."""

    def __init__(self, reference: FloatArray) -> None:
        self._usual = reference.mean(axis=0)
        self._inverse = np.linalg.inv(np.cov(reference.T))

    def statistics(self, rows: FloatArray) -> FloatArray:
        """One number a window, larger for more drift."""
        gaps = _windowed(rows) - self._usual
        return np.asarray(np.einsum("wi,ij,wj->w", gaps, self._inverse, gaps))


def _windowed(rows: FloatArray) -> FloatArray:
    whole = len(rows) // PEER_ROWS * PEER_ROWS
    return np.asarray(rows[:whole].reshape(-1, PEER_ROWS, rows.shape[1]).mean(axis=1))


@dataclass(frozen=True)
class Measured:
    """One device.

    Attributes:
        alarms: that driftpost raised on quiet days, joint ones and all.
        delays: rows until an alarm, by detector; infinity where none came.
        single: changes that an alarm of another kind than "joint" told of first.
    """

    alarms: tuple[int, int]
    delays: dict[str, list[float]]
    single: int


def measure(seed: int, source: str, device: int, days: int, trials: int) -> Measured:
    """Watches quiet days, then changes, of one device.

    The others' thresholds are the highest value that they reach on the same quiet days: no false alarm there,
    as driftpost at its budget has (nearly) none. That is generous to them: days are few.
    """
    streams = Streams(seed, source, device)
    reference = streams.rows(SOURCES[source].reference_rows)
    schema = Schema([fit_numeric(f"x{i}", column, Role.INPUT) for i, column in enumerate(reference.T)])
    calibration = Calibration.fit(schema, reference, joint=True)
    assert calibration.joint is not None, "these references are long enough"
    features = calibration.joint.features
    peers: dict[str, Mmd | Hotelling] = {"windowed MMD": Mmd(reference), "Hotelling T2": Hotelling(reference)}
    limits = dict.fromkeys(peers, 0.0)
    detector = detector_for(calibration, STRICT)
    accumulator = WindowAccumulator(schema, features)
    joint = every = 0
    for _ in range(days):
        quiet = streams.rows(DAY_ROWS)
        limits = {name: max(limits[name], float(peers[name].statistics(quiet).max())) for name in peers}
        for window, transitions in windows(accumulator, quiet):
            raised = [a.kind for a in detector.step(transitions, window) if a.state == "raised"]
            joint, every = joint + raised.count("joint"), every + len(raised)
    delays: dict[str, list[float]] = {name: [] for name in ("driftpost", *peers)}
    single = 0
    for trial in range(trials):
        values = streams.rows(WARM_UP_ROWS + HORIZON)
        values[WARM_UP_ROWS:, trial % STREAMS_PER_DEVICE] *= -1.0
        detector = detector_for(calibration, STRICT)
        accumulator = WindowAccumulator(schema, features)
        found = math.inf
        for at, (window, transitions) in enumerate(windows(accumulator, values)):
            raised = [a.kind for a in detector.step(transitions, window) if a.state == "raised"]
            if raised and (at + 1) * WINDOW_ROWS > WARM_UP_ROWS:
                single += raised[0] != "joint"
                found = float((at + 1) * WINDOW_ROWS - WARM_UP_ROWS)
                break
        delays["driftpost"].append(found)
        for name, peer in peers.items():
            over = np.flatnonzero(peer.statistics(values[WARM_UP_ROWS:]) > limits[name])
            delays[name].append(float((over[0] + 1) * PEER_ROWS) if len(over) else math.inf)
    return Measured((joint, every), delays, single)


@dataclass(frozen=True)
class Quiet:
    """One device while nothing changes.

    Attributes:
        joint: joint alarms by budget.
        every: all alarms by budget.
        watched: whether the reference could carry a joint test at all.
    """

    joint: dict[int, int]
    every: dict[int, int]
    watched: bool


def quiet(seed: int, source: str, device: int, days: int) -> Quiet:
    """Counts alarms of one device by budget, the laxest first.

    A device that raised nothing at a budget raises nothing at a stricter one: more evidence is asked for
    there, and the reference is charged at least as much.
    """
    streams = Streams(seed, source, device)
    reference = streams.rows(SOURCES[source].reference_rows)
    schema = Schema([fit_numeric(f"x{i}", column, Role.INPUT) for i, column in enumerate(reference.T)])
    calibration = Calibration.fit(schema, reference, joint=True)
    values = streams.rows(days * DAY_ROWS)
    joint, every = dict.fromkeys(BUDGETS, 0), dict.fromkeys(BUDGETS, 0)
    features = None if calibration.joint is None else calibration.joint.features
    for budget in BUDGETS:
        detector = detector_for(calibration, budget)
        for window, transitions in windows(WindowAccumulator(schema, features), values):
            raised = [a.kind for a in detector.step(transitions, window) if a.state == "raised"]
            joint[budget] += raised.count("joint")
            every[budget] += len(raised)
        if not every[budget]:
            break
    return Quiet(joint, every, calibration.joint is not None)


def false_alarms(
    seed: int, sources: Sequence[str], devices: int, days: int, *, pool: Executor, metric: Metric
) -> str:
    """Counts joint alarms while nothing changes; returns a Markdown table.

    Args:
        seed: of the run.
        sources: some of `NULL_SOURCES`.
        devices: of each kind of streams.
        days: device-days of each device, watched without a break.
        pool: runs devices beside each other.
        metric: is told name, value and unit of each result.
    """
    lines = [
        f"| streams | joint test on | joint alarms at {' / '.join(f'{b:,}' for b in BUDGETS)} | all alarms |",
        "| --- | --- | --- | --- |",
    ]
    for source in sources:
        found = list(pool.map(quiet, repeat(seed), repeat(source), range(devices), repeat(days)))
        joint, every = (
            {b: sum(counts[b] for counts in side) for b in BUDGETS}
            for side in ([one.joint for one in found], [one.every for one in found])
        )
        for b in BUDGETS:
            scale = 1000 / (devices * days)
            metric(f"fa.{source}.joint.{b}", scale * joint[b], "joint alarms per 1,000 device-days")
            metric(f"fa.{source}.with_joint.{b}", scale * every[b], "alarms per 1,000 device-days")
        on = sum(one.watched for one in found)
        words = f"common factors, {SOURCES[source].words}"
        lines.append(
            f"| {words} | {on} of {devices} devices | {' / '.join(str(joint[b]) for b in BUDGETS)} | "
            f"{' / '.join(str(every[b]) for b in BUDGETS)} |"
        )
    return "\n".join(lines)


def compare(seed: int, devices: int, days: int, trials: int, *, pool: Executor, metric: Metric) -> str:
    """Measures all kinds of streams; returns a Markdown table.

    Args:
        seed: of the run.
        devices: of each kind.
        days: quiet device-days of each.
        trials: changes of each.
        pool: runs devices beside each other.
        metric: is told name, value and unit of each result.
    """
    lines = [
        "| streams | false alarms (joint / all) | driftpost | windowed MMD | Hotelling T2 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for source in JOINT_SOURCES:
        found = list(
            pool.map(measure, repeat(seed), repeat(source), range(devices), repeat(days), repeat(trials))
        )
        joint, every = (sum(one.alarms[k] for one in found) for k in range(2))
        cells = []
        for name in ("driftpost", "windowed MMD", "Hotelling T2"):
            rows = [row for one in found for row in one.delays[name]]
            cells.append(f"{_rows(rows, 0.5)} / {_rows(rows, 0.9)}")
            key = name.split()[-1].lower() if name != "driftpost" else ""
            label = f"delay.{source}.correlation" + (f".{key}" if key else "")
            metric(label, _quantile(rows, 0.5), "rows")
        metric(f"fa.{source}.joint", 1000 * joint / (devices * days), "joint alarms per 1,000 device-days")
        lines.append(
            f"| {SOURCES[source].words} | {joint} / {every} in {devices * days} days | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _quantile(rows: list[float], share: float) -> float:
    return sorted(rows)[min(int(share * len(rows)), len(rows) - 1)]


def _rows(rows: list[float], share: float) -> str:
    value = _quantile(rows, share)
    return f"{value:,.0f}" if math.isfinite(value) else f"> {HORIZON:,}"
