"""Doubts about a reference that its numbers raise: order, repetition, length, slow swings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from driftpost_sketches.drift.chain import Chain
from driftpost_sketches.schema import Role, Schema, StreamKind

FEW_INDEPENDENT = 100  # independent rows below which a stream's reference says little
LONG_MEMORY = 2.0  # measured over modelled correlation from which evidence suffers noticeably
MANY_REPEATS = 0.1  # share of exact repeats from which a stuck sensor is harder to tell
CONTINUOUS = 0.9  # share of distinct rows that one stream alone tells apart: it has no coarse grid
FINE_GRID = 10.0  # range over smallest step, in distinct values: below it values lie on a grid
SHUFFLED = 3.0  # standard errors of a lag-1 correlation that still look like none
_TIMING = (Role.LATENCY, Role.HEALTH)


def distinct_rows(schema: Schema, values: npt.NDArray[np.float64]) -> int:
    """How many rows of a reference are news.

    A set that was repeated or resampled to make a longer one knows no more than the set. Rows on a grid
    (whole numbers, categories) coincide by chance as well, so repetition is only concluded where some numeric
    stream has no grid. Timings are left out: they differ even when the same row is fed twice.

    Args:
        schema: the streams.
        values: float64[n, S_scalar].

    Returns:
        Distinct rows, or n where coincidences prove nothing.
    """
    n = len(values)
    columns = [
        c for c, i in enumerate(schema.scalar_streams)
        if schema.streams[i].tracked and schema.streams[i].role not in _TIMING
    ]  # fmt: skip
    if not columns or not n:
        return n
    rows = np.ascontiguousarray(np.nan_to_num(values[:, columns], nan=1.25e308)) + 0.0
    distinct = len(np.unique(rows.view(np.dtype((np.void, rows.dtype.itemsize * len(columns))))))
    if distinct > CONTINUOUS * n:
        return n
    for at, c in enumerate(columns):
        if schema.streams[schema.scalar_streams[c]].kind is not StreamKind.NUMERIC:
            continue
        single = np.unique(rows[:, at])
        if len(single) < max(CONTINUOUS * distinct, 3):
            continue
        if float(single[-1] - single[0]) > FINE_GRID * len(single) * float(np.diff(single).min()):
            return distinct
    return n


def notes_on(schema: Schema, chains: Sequence[Chain], rows: int, distinct: int) -> tuple[str, ...]:
    """Sentences for the person who builds a bundle.

    Args:
        schema: the streams.
        chains: of the tracked streams.
        rows: of the reference.
        distinct: from `distinct_rows`.
    """
    notes = []
    if distinct < rows:
        notes.append(
            f"only {distinct:,} of {rows:,} reference rows are distinct: a repeated set knows no more than "
            f"the set, so the reference counts as {distinct:,} rows"
        )
    independent = []
    for i, chain in zip(schema.tracked_streams, chains, strict=True):
        name = schema.streams[i].name
        used = np.abs(chain.scores).sum(axis=1) > 0
        count = chain.rows / chain.correlation_rows
        if count < FEW_INDEPENDENT:
            notes.append(
                f"{name}: {chain.rows:,} rows count as only {count:,.0f} independent ones; the reference is "
                "too short, or sorted (by class, by size) instead of in the order of time"
            )
        elif used.any() and float((chain.tau / chain.tau_chain)[used].max()) > LONG_MEMORY:
            notes.append(
                f"{name}: remembers longer than its last row tells (a slow cycle, a trend, volatile "
                "spells?); evidence is discounted by that, so changes take longer to prove"
            )
        if chain.ordered and chain.repeats >= MANY_REPEATS:
            notes.append(
                f"{name}: {chain.repeats:.0%} of the reference's rows repeat the one before exactly, so a "
                "stuck sensor is recognised more slowly"
            )
        if chain.ordered and used.any():
            flow = chain.shares[:, None] * chain.matrix
            independent.append(abs(float(chain.scores[0] @ flow @ chain.scores[0])))
    if independent and max(independent) < SHUFFLED / math.sqrt(rows) + 0.01:
        notes.append(
            "neighbouring rows look independent in every stream: right for unrelated single items, but if "
            "rows were shuffled, rebuild with the reference in time order, or alarms will come too often"
        )
    return tuple(notes)
