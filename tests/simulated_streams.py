"""Simulated streams for tests of sketches and detectors."""

import numpy as np

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.fitting import fit_categorical, fit_codes, fit_numeric
from driftpost_sketches.schema import Role, Schema


def independent(rng, rows, streams=1):
    return rng.normal(size=(rows, streams))


def autoregressive(rng, rows, streams=1, rho=0.9):
    """A stationary AR(1) of unit variance, float64[rows, streams]."""
    noise = rng.normal(size=(rows + 200, streams))
    out = np.empty_like(noise)
    out[0] = noise[0]
    for i in range(1, len(noise)):
        out[i] = rho * out[i - 1] + np.sqrt(1 - rho * rho) * noise[i]
    return out[200:]


def categories(rng, rows, shares):
    return rng.choice(len(shares), p=shares, size=rows).astype(float)


def numeric_schema(reference):
    """A schema of input streams x0, x1, ... fitted to the columns of a reference."""
    return Schema([fit_numeric(f"x{i}", column, Role.INPUT, "lx") for i, column in enumerate(reference.T)])


def mixed_schema(rng, rows=2000):
    """Numeric, few-valued, constant, categorical and codes streams, and a reference for them."""
    values = np.column_stack(
        [
            rng.normal(size=rows),
            rng.exponential(size=rows) * 1e3,
            rng.integers(0, 4, rows),
            np.full(rows, 7.0),
            rng.integers(0, 5, rows),
        ]
    ).astype(float)
    pixels = rng.integers(-128, 128, (rows, 6)).astype(np.int8)
    schema = Schema(
        [
            fit_numeric("level", values[:, 0], Role.INPUT, "V"),
            fit_codes("pixels", pixels, Role.INPUT),
            fit_numeric("spend", values[:, 1], Role.INPUT, "EUR"),
            fit_numeric("count", values[:, 2], Role.INPUT, tracked=False),
            fit_numeric("mode", values[:, 3], Role.OUTPUT),
            fit_categorical("class", values[:, 4], Role.OUTPUT, ["a", "b", "c", "d", "e"]),
        ]
    )
    return schema, values, {"pixels": pixels}


def windows(schema, values, rows, codes=None):
    """(window, transitions) of every `rows` rows, in order."""
    accumulator = WindowAccumulator(schema)
    for start in range(0, len(values), rows):
        end = start + rows
        part = {name: tensor[start:end] for name, tensor in (codes or {}).items()}
        accumulator.update(values[start:end], part)
        yield accumulator.take()


def alarms(detector, schema, values, rows):
    """(last row of the window, alarm) for everything the detector says."""
    said = []
    for at, (window, transitions) in enumerate(windows(schema, values, rows)):
        said += [((at + 1) * rows, alarm) for alarm in detector.step(transitions, window)]
    return said
