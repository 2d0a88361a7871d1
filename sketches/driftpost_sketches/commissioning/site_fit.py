"""From a journal to a calibration: the chains, and the memory beyond what was kept row by row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from driftpost_sketches.cells import CELLS, value_cells
from driftpost_sketches.commissioning.journal import NOT_MINE, REPEAT, Journal
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.chain import Chain, fit_chain, independent_chain
from driftpost_sketches.drift.memory import memory
from driftpost_sketches.drift.reference_notes import notes_on
from driftpost_sketches.drift.tilts import plan_tilts
from driftpost_sketches.schema import Stream, StreamKind
from driftpost_sketches.window import Window

MIN_ROWS = 100  # of a stream; fewer show no memory
MIN_BLOCKS = 40  # fewer sums say nothing about memory

Coded = npt.NDArray[np.uint8]


def fit_journal(
    journal: Journal,
    baseline: Window,
    smallest_effect: Mapping[str, float],
    default_effect: float,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """The calibration of the rows that a journal saw.

    It takes a tenth of a second a stream on a desktop machine, and a few tenths on a small board.

    Args:
        journal: of a schema whose streams are all tracked.
        baseline: window of the same rows.
        smallest_effect: by stream, in standard deviations of what was seen.
        default_effect: of streams not named.
        progress: called with (streams done, streams in all); what it raises ends the work.

    Raises:
        IncompatibleSketch: the window is of another schema.
    """
    schema = journal.schema
    baseline.check(schema)
    rows = journal.all_kept()
    chains: list[Chain] = []
    most: list[float] = []
    rare: list[str] = []
    for i, stream in enumerate(schema.streams):
        column = rows[:, i]
        own = column[column < NOT_MINE]
        if len(own) < MIN_ROWS:
            chains.append(_unknown(stream, own))
            most.append(1.0)
            rare.append(f"{stream.name}: only {len(own)} rows while commissioning; it is not watched here")
            continue
        chain = _fit(stream, own)
        most.append(chain.rows / chain.correlation_rows if journal.stride > 1 else float(chain.rows))
        chains.append(_lengthened(chain, journal, i) if journal.stride > 1 and not stream.partial else chain)
        if progress is not None:
            progress(i + 1, len(schema.streams))
    effects = np.array([smallest_effect.get(s.name, default_effect) for s in schema.streams])
    notes = notes_on(schema, chains, journal.rows, journal.rows)
    return Calibration(
        schema=schema,
        chains=tuple(chains),
        smallest_effect=effects,
        ceiling=np.array(most, dtype=np.float64),
        distinct=max(journal.rows, 1),
        baseline=baseline,
        notes=(*rare, *notes),
    )


def _fit(stream: Stream, own: Coded) -> Chain:
    cells = (own & (REPEAT - 1)).astype(np.int64)
    # All that a chain asks of values is which of them repeat the one before: any series that does will do.
    values = np.cumsum((own & REPEAT) == 0).astype(np.float64)
    return fit_chain(cells, values, stream.kind is StreamKind.NUMERIC, value_cells(stream))


def _unknown(stream: Stream, own: Coded) -> Chain:
    """A chain of next to nothing: worth a single row, it is charged so much error that it never alarms."""
    counts = np.bincount(own & (REPEAT - 1), minlength=CELLS).astype(np.int64)
    if not counts.any():
        counts[0] = 1
    return independent_chain(counts, stream.kind is StreamKind.NUMERIC, value_cells(stream))


def _lengthened(chain: Chain, journal: Journal, i: int) -> Chain:
    """The chain with the memory that only sums over long blocks show, worth all rows that were seen.

    What was kept row by row is one span in several, so slow swings would look faster than they are there.
    Counts of blocks say nothing of steps, so those are not bet on.
    """
    if len(journal.blocks) < MIN_BLOCKS:
        return chain
    counts = np.array([block[i] for block in journal.blocks], dtype=np.float64)
    sizes = counts.sum(axis=1, keepdims=True)
    shares = counts.sum(axis=0) / max(float(sizes.sum()), 1.0)
    tau = chain.tau.copy()
    for k, score in enumerate(chain.scores):
        variance = float(shares @ score**2) - float(shares @ score) ** 2
        means = (counts / np.maximum(sizes, 1.0)) @ score
        if variance > 1e-12 and float(means.var()) > 0.0:
            slow = journal.block_rows * float(means.var()) / variance * memory(means)
            tau[k] = max(tau[k], slow)
    lengthened = dataclasses.replace(chain, tau=tau, rows=journal.rows)
    plan = plan_tilts(chain.ordered, chain.scores, chain.shares, chain.tau_chain)
    temper = lengthened.temper[[tilt.score for tilt in plan]] if plan else np.ones(0)
    return dataclasses.replace(lengthened, caution=np.minimum(chain.caution, temper), roughness=None)
