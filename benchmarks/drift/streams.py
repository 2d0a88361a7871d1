"""Stationary streams of zero mean and unit variance on which drift detectors are measured.

Their parameters are fixed here, so that a table names a stream by its name alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

STREAMS_PER_DEVICE = 30
DAY_ROWS = 20_000  # a device-day is 30 streams of so many rows
GARCH_ALPHA, GARCH_BETA = 0.10, 0.88
BURN_IN = 500  # rows until a simulated stream has forgotten its start


def _recursion(noise: FloatArray, *lags: float) -> FloatArray:
    """x[t] = lags[0] x[t-1] + lags[1] x[t-2] + ... + noise[t], float64[rows, streams]."""
    out: FloatArray = noise.copy()
    for t in range(len(lags), len(noise)):
        for back, weight in enumerate(lags, start=1):
            out[t] += weight * out[t - back]
    return out[BURN_IN:]


def _ar1(rng: np.random.Generator, rows: int, streams: int, rho: float) -> FloatArray:
    return _recursion(math.sqrt(1 - rho * rho) * rng.normal(size=(rows + BURN_IN, streams)), rho)


def _iid(rng: np.random.Generator, rows: int, streams: int) -> FloatArray:
    return rng.normal(size=(rows, streams))


def _ar5(rng: np.random.Generator, rows: int, streams: int) -> FloatArray:
    return _ar1(rng, rows, streams, 0.5)


def _ar9(rng: np.random.Generator, rows: int, streams: int) -> FloatArray:
    return _ar1(rng, rows, streams, 0.9)


def _ar9exp(rng: np.random.Generator, rows: int, streams: int) -> FloatArray:
    noise = rng.exponential(size=(rows + BURN_IN, streams)) - 1.0
    return _recursion(math.sqrt(1 - 0.9**2) * noise, 0.9)


def _arnoise(rng: np.random.Generator, rows: int, streams: int) -> FloatArray:
    """AR(1) 0.9 and white noise in equal parts: no Markov chain of any low order."""
    return math.sqrt(0.5) * (_ar1(rng, rows, streams, 0.9) + rng.normal(size=(rows, streams)))


def _ar2(rng: np.random.Generator, rows: int, streams: int) -> FloatArray:
    """Lags 0.75 and -0.5: swings of about six rows."""
    first, second = 0.75, -0.5
    variance = (1 - second) / ((1 + second) * ((1 - second) ** 2 - first**2))
    return _recursion(rng.normal(size=(rows + BURN_IN, streams)) / math.sqrt(variance), first, second)


def _daily(rng: np.random.Generator, rows: int, streams: int) -> FloatArray:
    """AR(1) 0.5 plus a sine of one day whose amplitude is the AR's deviation, begun at any hour."""
    hours = 2 * math.pi * (np.arange(rows)[:, None] / DAY_ROWS + rng.uniform(size=streams))
    return (_ar1(rng, rows, streams, 0.5) + np.sin(hours)) / math.sqrt(1.5)


def _daily_seasonal(rng: np.random.Generator, rows: int, streams: int) -> FloatArray:
    """The same, but begun at midnight: each stream has its peak at an hour of its own, on every day."""
    hours = 2 * math.pi * (np.arange(rows)[:, None] / DAY_ROWS + np.arange(streams) / streams)
    return (_ar1(rng, rows, streams, 0.5) + np.sin(hours)) / math.sqrt(1.5)


def _garch(rng: np.random.Generator, rows: int, streams: int) -> FloatArray:
    """GARCH(1, 1) with alpha 0.10 and beta 0.88: spells of volatility of about fifty rows."""
    out = rng.normal(size=(rows + BURN_IN, streams))
    variance = np.ones(streams)
    for t in range(len(out)):
        out[t] *= np.sqrt(variance)
        variance = (1 - GARCH_ALPHA - GARCH_BETA) + GARCH_ALPHA * out[t] ** 2 + GARCH_BETA * variance
    return out[BURN_IN:]


@dataclass(frozen=True)
class Source:
    """A kind of stream.

    Attributes:
        words: what it is.
        simulate: float64[rows, streams] from a generator of random numbers.
        reference_rows: rows from which a device learns what is normal.
        seasonal: whether it learns what is usual at each hour, too.
    """

    words: str
    simulate: Callable[[np.random.Generator, int, int], FloatArray]
    reference_rows: int
    seasonal: bool = False


SOURCES = {
    "iid": Source("independent normal", _iid, 10_000),
    "ar5": Source("AR(1) 0.5", _ar5, 10_000),
    "ar9": Source("AR(1) 0.9", _ar9, 50_000),
    "ar9exp": Source("AR(1) 0.9, exponential innovations", _ar9exp, 50_000),
    "arnoise": Source("AR(1) 0.9 + white noise", _arnoise, 50_000),
    "ar2": Source("AR(2), oscillating", _ar2, 50_000),
    "daily": Source("AR(1) 0.5 + daily cycle", _daily, 50_000),
    "daily_seasonal": Source("AR(1) 0.5 + daily cycle, seasonal", _daily_seasonal, 50_000, seasonal=True),
    "garch": Source("volatility clustering (GARCH)", _garch, 50_000),
    "ar9short": Source("AR(1) 0.9, short reference", _ar9, 10_000),
    "iidshort": Source("independent, very short reference", _iid, 1_000),
}
DELAY_SOURCES = tuple(name for name in SOURCES if not name.endswith("short"))


def generator(seed: int, source: str, device: int, purpose: str) -> np.random.Generator:
    """Random numbers of one device for one purpose, the same whoever asks."""
    words = [seed, zlib.crc32(source.encode()), device, zlib.crc32(purpose.encode())]
    return np.random.default_rng(np.random.SeedSequence(words))


def reference(seed: int, source: str, device: int, purpose: str) -> FloatArray:
    """A device's reference, float64[reference rows, 30], in time order."""
    rng = generator(seed, source, device, f"{purpose} reference")
    return SOURCES[source].simulate(rng, SOURCES[source].reference_rows, STREAMS_PER_DEVICE)


def live(seed: int, source: str, device: int, purpose: str, rows: int) -> FloatArray:
    """What a device sees afterwards while nothing changes, float64[rows, 30]."""
    rng = generator(seed, source, device, f"{purpose} live")
    return SOURCES[source].simulate(rng, rows, STREAMS_PER_DEVICE)
