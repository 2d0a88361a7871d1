"""Simulated streams with a daily course."""

import numpy as np

from simulated_streams import autoregressive, numeric_schema

DAY_S = 86_400.0


def daily(rng, days, rows_a_day, streams=1, *, first_day=0.0, amplitude=1.0, hour=0.0, rho=0.5):
    """AR(1) of unit variance and a sine over the day: float64[rows, streams], and seconds since 1970."""
    rows = int(days * rows_a_day)
    seconds = (first_day + np.arange(rows) / rows_a_day) * DAY_S
    course = amplitude * np.sin(2 * np.pi * (seconds / DAY_S - hour / 24))
    return autoregressive(rng, rows, streams, rho) + course[:, None], seconds


def schema_of(values):
    return numeric_schema(values)
