"""Points in time in tables: ISO 8601, or seconds since 1970."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from driftpost_models.errors import ConfigError

LATEST_S = 1e11
"""Seconds since 1970; larger numbers are milliseconds or finer, and must not be taken for seconds."""


def seconds_of(text: str, *, local: bool = False) -> float:
    """Seconds since 1970 of one point in time.

    Args:
        text: ISO 8601 with or without a zone, or a number of seconds.
        local: read the wall clock as written and leave its zone out, instead of converting it to UTC. Times
            without a zone are taken as they stand either way.

    Raises:
        ValueError: it is neither.
    """
    text = text.strip()
    try:
        number = float(text)
    except ValueError:
        # Python 3.10 does not know the Z.
        time = datetime.datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
        if local or time.tzinfo is None:
            time = time.replace(tzinfo=datetime.timezone.utc)
        return time.timestamp()
    if not math.isfinite(number) or abs(number) > LATEST_S:
        raise ValueError(f"{text} is no number of seconds since 1970") from None
    return number


def all_seconds(
    cells: Sequence[str] | npt.NDArray[np.generic], *, local: bool = False
) -> npt.NDArray[np.float64]:
    """Seconds since 1970 of a column: float64[rows].

    Raises:
        ValueError: a cell is no point in time; says which.
    """
    texts = cells if not isinstance(cells, np.ndarray) else [str(cell) for cell in cells.tolist()]
    out = np.empty(len(texts))
    for row, text in enumerate(texts):
        try:
            out[row] = seconds_of(text, local=local)
        except ValueError as error:
            raise ValueError(
                f"{text[:40]!r} in row {row + 1:,} is no point in time: give ISO 8601, or seconds since 1970"
            ) from error
    return out


def regular(start: str, row_seconds: float, rows: int, *, local: bool = False) -> npt.NDArray[np.float64]:
    """Times of rows that follow each other at a fixed distance: float64[rows].

    Raises:
        ConfigError: `start` is no point in time.
    """
    try:
        first = seconds_of(start, local=local)
    except ValueError as error:
        raise ConfigError(
            "--start", f"{start!r} is no point in time; give one such as 2026-03-01T00:00"
        ) from error
    return np.asarray(first + row_seconds * np.arange(rows, dtype=np.float64), dtype=np.float64)
