"""Every device of a bundle among its neighbours: which of them stand apart, and from which moment on.

Each bucket adds to what a device has shown lately (older buckets fade), and the whole population is placed
anew: the spread between devices is part of what is normal (`drift/apart.py`). What is kept of a device is its
evidence; which of them may be named is decided where they are used, by e-BH over all devices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from driftpost_sketches.drift.apart import log_e_against, log_e_apart
from driftpost_sketches.drift.marginal import FloatArray, MarginalDetector

# Buckets over which a device's past fades by a factor of e: long enough for what one bucket can not show.
MEMORY_BUCKETS = 12.0
# Devices whose past is kept, the last heard: 40 MB per 41 streams. A bucket of more is judged by itself.
MAX_REMEMBERED = 20_000
# What a device must have left to be worth keeping, rows.
_LEAST_ROWS = 1.0
# e-BH at a level of 5 % names nobody with less evidence than this, so less is not written down.
LEAST_LOG_E = math.log(20.0)
# Streams written down of a device.
MAX_STREAMS = 8


@dataclass(frozen=True)
class Apart:
    """A device that stands apart from the population.

    Attributes:
        device: its name.
        log_e: ln e-value against being one of the population.
        against: ln e-value against the reference: what its own detector must have seen, too.
        onset_ms: beginning of the first bucket since which it has stood apart, Unix ms.
        private: whether its windows come with noise, and its findings may stay at home.
        streams: (name, share of the evidence), strongest first.
        raised_ms: when it was first told, our clock, Unix ms; 0 before that.
    """

    device: str
    log_e: float
    against: float
    onset_ms: int
    private: bool
    streams: tuple[tuple[str, float], ...]
    raised_ms: int = 0


class Census:
    """The devices of one bundle; for one thread.

    Args:
        yardstick: reads and places windows.
        names: of the tracked streams.
    """

    def __init__(self, yardstick: MarginalDetector, names: Sequence[str]) -> None:
        self._yardstick = yardstick
        self._names = tuple(names)
        self._line: dict[str, int] = {}
        self._totals: npt.NDArray[np.float32] = np.zeros((0, 0, 0), dtype=np.float32)
        self._rows: FloatArray = np.zeros((0, 0))
        self._noise: FloatArray = np.zeros(0)
        self._since: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._heard: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._newest_ms = -1

    def take(
        self, start_ms: int, devices: Sequence[str], sums: FloatArray, rows: FloatArray, noise: FloatArray
    ) -> list[Apart]:
        """Add one bucket, if it is newer than those before; looked at again it counts once.

        Args:
            start_ms: its beginning, Unix ms.
            devices: that have sent windows of it.
            sums: float64[N, T, FIELDS], as `MarginalDetector.read` gives them.
            rows: float64[N, T].
            noise: float64[N].

        Returns:
            Those devices of the bucket that stand apart clearly enough to be told, strongest first.
        """
        if not devices:
            return []
        shown = self._yardstick.project(sums)
        if len(devices) > MAX_REMEMBERED:
            self._line.clear()
            since = np.full(len(devices), start_ms)
        else:
            at = self._remember(start_ms, devices, shown, rows, noise)
            shown, rows, noise, since = (
                self._totals[at].astype(np.float64),
                self._rows[at],
                self._noise[at],
                self._since[at],
            )
        placed = self._yardstick.place(shown, rows, noise)
        log_e, streams = log_e_apart(placed)
        against = log_e_against(placed)
        began = np.where((log_e > 0.0) & (since > 0), since, start_ms)
        if len(devices) <= MAX_REMEMBERED:
            self._since[at] = np.where(log_e > 0.0, began, 0)
        found = np.flatnonzero(log_e >= LEAST_LOG_E)
        return [
            Apart(
                devices[i],
                float(log_e[i]),
                float(against[i]),
                int(began[i]),
                bool(noise[i] > 0),
                self._leading(streams[i]),
            )
            for i in found[np.argsort(-log_e[found], kind="stable")]
        ]

    def _remember(
        self, start_ms: int, devices: Sequence[str], shown: FloatArray, rows: FloatArray, noise: FloatArray
    ) -> npt.NDArray[np.int64]:
        """Let the past fade, add the bucket; returns where its devices stand."""
        again = start_ms <= self._newest_ms
        if not again:
            self._newest_ms = start_ms
            left = math.exp(-1.0 / MEMORY_BUCKETS)
            self._totals *= np.float32(left)
            self._rows *= left
            self._noise *= left
            self._forget(shown.shape[1:], devices)
        new = [device for device in devices if device not in self._line]
        if new:
            first = len(self._line)
            self._line |= {device: first + number for number, device in enumerate(new)}
            grow = len(new)
            self._totals = np.concatenate([self._totals, np.zeros((grow, *shown.shape[1:]), np.float32)])
            self._rows = np.concatenate([self._rows, np.zeros((grow, rows.shape[1]))])
            self._noise = np.concatenate([self._noise, np.zeros(grow)])
            self._since = np.concatenate([self._since, np.zeros(grow, dtype=np.int64)])
            self._heard = np.concatenate([self._heard, np.full(grow, -1, dtype=np.int64)])
        at = np.array([self._line[device] for device in devices], dtype=np.int64)
        fresh = self._heard[at] < start_ms
        self._totals[at[fresh]] += shown[fresh].astype(np.float32)
        self._rows[at[fresh]] += rows[fresh]
        self._noise[at[fresh]] += noise[fresh]
        self._heard[at] = np.maximum(self._heard[at], start_ms)
        return at

    def _forget(self, shape: tuple[int, ...], devices: Sequence[str]) -> None:
        """Drop devices of which next to nothing is left, and the longest silent to make room for others."""
        if not self._line:
            self._totals = np.zeros((0, *shape), dtype=np.float32)
            self._rows, self._noise = np.zeros((0, shape[0])), np.zeros(0)
            self._since = self._heard = np.zeros(0, dtype=np.int64)
            return
        keep = self._rows.max(axis=1, initial=0.0) >= _LEAST_ROWS
        heard = self._heard.copy()
        heard[[self._line[name] for name in devices if name in self._line]] = self._newest_ms
        new = sum(name not in self._line for name in devices)
        excess = len(self._line) + new - MAX_REMEMBERED
        if excess > 0:
            keep[np.argsort(heard, kind="stable")[:excess]] = False
        if not keep.all():
            names = sorted(self._line, key=lambda name: self._line[name])
            self._line = {
                name: place
                for place, name in enumerate(name for name, kept in zip(names, keep, strict=True) if kept)
            }
            self._totals, self._rows = self._totals[keep], self._rows[keep]
            self._noise, self._since, self._heard = self._noise[keep], self._since[keep], self._heard[keep]

    def _leading(self, log_e: FloatArray) -> tuple[tuple[str, float], ...]:
        weights = np.maximum(log_e, 0.0)
        total = float(weights.sum()) or 1.0
        order = np.argsort(-weights, kind="stable")[:MAX_STREAMS]
        return tuple((self._names[t], float(weights[t] / total)) for t in order if weights[t] > 0)
