"""Several threads call one guard of a real session while windows close beside them: every number is exact."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest

from agent.bundles import tabular_rows
from driftpost_agent.guard import Guard
from driftpost_agent.recorder import ClosedWindow, Passes
from driftpost_agent.verdict import Status
from driftpost_models.bundle import Bundle
from driftpost_models.runtime import load_model

CALLERS, CALLS = 5, 600
BAD_EVERY = 50


@pytest.mark.parametrize("passes", list(Passes))
def test_calls_from_many_threads_are_counted_recorded_and_answered_exactly(
    mlp_bundle: Bundle, passes: Passes
) -> None:
    windows: list[ClosedWindow] = []
    rows = tabular_rows(CALLS)[:, np.newaxis]
    bad = rows[0].copy()
    bad[0, 3] = np.nan
    alone = load_model(mlp_bundle.model_bytes)
    name = alone.inputs[0].name
    expected = [next(iter(alone.run({name: row}).values())) for row in rows]
    alone.close()
    ids: list[list[str]] = [[] for _ in range(CALLERS)]
    wrong: list[str] = []
    together = threading.Barrier(CALLERS)

    def call(caller: int) -> None:
        together.wait(30)
        # Each begins elsewhere, so that no row comes twice in a row by chance for long.
        for number in range(CALLS):
            at = (number + caller * 97) % CALLS
            spoilt = number % BAD_EVERY == BAD_EVERY - 1
            result = guard.run(bad if spoilt else rows[at])
            ids[caller].append(result.inference_id)
            if spoilt != (result.verdict.status is not Status.OK):
                wrong.append(f"verdict of {caller}/{number}: {result.verdict}")
            elif not spoilt and not np.array_equal(result.output, expected[at]):
                wrong.append(f"answer of {caller}/{number}")

    with Guard(mlp_bundle, on_window=windows.append, flush_seconds=0.05, passes=passes) as guard:
        threads = [threading.Thread(target=call, args=(n,), name=f"caller-{n}") for n in range(CALLERS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            guard.flush()
        guard.flush()
        reading = guard.meter.read()
    assert wrong == []
    spoilt = CALLERS * CALLS // BAD_EVERY
    assert len(set().union(*ids)) == CALLERS * CALLS
    assert (reading.calls, reading.rows) == (CALLERS * CALLS, CALLERS * CALLS)
    assert reading.statuses["ok"] == CALLERS * CALLS - spoilt
    assert Counter(reading.reasons)["nonfinite_input"] == spoilt
    assert sum(closed.window.rows for closed in windows) == CALLERS * CALLS
    assert len(windows) > 1
    schema = mlp_bundle.schema
    start, end = schema.offsets[schema.index("verdict") :][:2]
    assert sum(int(closed.window.counts[start:end].sum()) for closed in windows) == CALLERS * CALLS
