"""Which time a season goes by on a device, and what the recorder does without one."""

from __future__ import annotations

import dataclasses

import numpy as np

from agent.bundles import FEATURES, tabular_rows
from agent.clocks import ManualClock
from driftpost_agent.block_buffer import RowLayout, TensorLayout
from driftpost_agent.guard import Guard
from driftpost_agent.recorder import ClosedWindow, Recorder
from driftpost_agent.season_clock import season_seconds
from driftpost_models.bundle import Bundle
from driftpost_sketches.derived.phase import Phase
from driftpost_sketches.derived.plan import DerivedPlan
from driftpost_sketches.derived.season import Season, Seasonal
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.schema import Schema, StreamKind

LAYOUT = RowLayout(
    (TensorLayout("x", (FEATURES,), np.dtype(np.float32)),), (TensorLayout("p", (10,), np.dtype(np.float32)),)
)
ANSWER = np.full(10, 0.1, np.float32).tobytes()


def _plan(bundle: Bundle, *, local: bool = False) -> DerivedPlan:
    columns = tuple(s.name for s in bundle.schema.streams if s.kind is not StreamKind.CODES)
    course = Seasonal(columns[0], (0.0,) * 24, (1.0,) * 24, 0.0)
    return DerivedPlan(columns, Season(Phase("hour-of-day", 24), local, (course,)))


def test_local_time_is_ahead_by_the_devices_zone(mlp_bundle: Bundle) -> None:
    def two_hours(seconds: float) -> int:
        return 7200

    assert season_seconds(5_000, _plan(mlp_bundle), two_hours) == 5.0
    assert season_seconds(5_000, _plan(mlp_bundle, local=True), two_hours) == 7205.0
    assert season_seconds(None, _plan(mlp_bundle, local=True), two_hours) is None
    assert season_seconds(5_000, DerivedPlan(("x",)), two_hours) is None
    assert season_seconds(0, _plan(mlp_bundle, local=True)) is not None


def test_a_seasonal_stream_is_recorded_with_the_clock_and_silent_without(mlp_bundle: Bundle) -> None:
    plan = _plan(mlp_bundle)
    base = mlp_bundle.schema.streams[mlp_bundle.schema.index(plan.columns[0])]
    made = dataclasses.replace(base, name=plan.names[0], partial=True)
    schema = Schema([*mlp_bundle.schema.streams, made])
    clock = ManualClock()
    closed: list[ClosedWindow] = []
    recorder = Recorder(
        mlp_bundle.probes.copy(), schema, clock=clock, window_ms=1_000, on_window=closed.append, derived=plan
    )
    for wall in (None, 1_800_000_000_000):
        clock.wall = wall
        for row in tabular_rows(50):
            recorder.append(LAYOUT, (row.tobytes(), ANSWER), 5.0, 0)
        recorder.close_window()
    silent, known = (window.window.summary(schema, len(schema) - 1).n for window in closed)
    assert (silent, known) == (0, 50)
    for window in closed:
        window.window.check(schema)
    counts = closed[1].window.summary(schema, len(schema) - 1).counts
    assert np.array_equal(counts, closed[1].window.summary(schema, schema.index(base.name)).counts)


def test_a_guard_records_what_its_bundle_derives(mlp_bundle: Bundle) -> None:
    plan = _plan(mlp_bundle)
    base = mlp_bundle.schema.streams[mlp_bundle.schema.index(plan.columns[0])]
    made = dataclasses.replace(base, name=plan.names[0], partial=True)
    schema = Schema([*mlp_bundle.schema.streams, made])
    values = np.random.default_rng(0).integers(0, 2, (500, len(schema.scalar_streams))).astype(np.float64)
    bundle = dataclasses.replace(mlp_bundle, calibration=Calibration.fit(schema, values), derived=plan)
    closed: list[ClosedWindow] = []
    clock = ManualClock(wall_ms=1_800_000_000_000)
    with Guard(bundle, clock=clock, on_window=closed.append, threaded=False) as guard:
        for row in tabular_rows(20):
            guard.run({"x": row[None]})
        guard.recorder.close_window()
    assert closed[0].window.summary(schema, len(schema) - 1).n == 20
