"""A database of a large fleet with thirty days behind it, brought in by the product's own ingest and triage.

Devices, their births, a window and the findings of those that drift come in as messages. The days before are
written as rollups of every length: of the fleet and every cohort all of them, of some devices that are then
looked at all of them too. A hundred thousand devices' own past would only make the file larger, not a page
slower, as each page reads the range of one device.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import numpy as np
from sqlalchemy import Engine, select

from driftpost_aggregator import merge
from driftpost_aggregator.batch import Incoming
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.merge import Key
from driftpost_aggregator.simulation.fleet import Message, SimulatedFleet
from driftpost_aggregator.simulation.script import Disturbance, Script
from driftpost_aggregator.simulation.world import paper_bundle
from driftpost_aggregator.store import bulk, tables
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.triage_round import Triage
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.window import Window
from driftpost_sync.messages import Presence

FLEET = "bench"
BUCKET_S, DAYS, RAW_DAYS = 300, 30, 7
VISITED = 20
DAY_MS = 86_400_000
_BATCH = 1_000
# One firmware on one camera drifts, one device's sensor is stuck.
SCRIPT = Script(
    disturbances=(
        Disturbance("shift", "input.03", -0.9, {"camera": "B", "firmware": "2.3.0"}, 0.95, 0, 1 << 31, 0),
        Disturbance("stuck", "input.07", 1.0, {"site": "mill", "camera": "A"}, 0.0005, 0, 1 << 31, 0),
    )
)


def seed(engine: Engine, devices: int, *, triage: bool = True) -> SimulatedFleet:
    """Fill a migrated, empty database."""
    now_ms = int(time.time() * 1000)
    start_ms = now_ms // (BUCKET_S * 1000) * BUCKET_S * 1000 - BUCKET_S * 1000
    describe = paper_bundle(41, window_s=float(BUCKET_S), seed=7)
    fleet = SimulatedFleet(describe, SCRIPT, devices=devices, fleet=FLEET, seed=7, start_ms=start_ms)
    ingest = Ingest(engine, fleet=FLEET, bucket_s=BUCKET_S, now_ms=lambda: now_ms)
    for batch in _batches(itertools.chain([fleet.described(0)], fleet.births(), fleet.round(0))):
        ingest.take([Incoming(one.topic, one.payload, now_ms) for one in batch])
    _past(engine, fleet, start_ms)
    if triage:
        numbers = itertools.count(1)
        clock = now_ms
        looking = Triage(
            engine,
            budget=Budget.parse("1 per fleet-month"),
            bucket_s=BUCKET_S,
            settle_windows=0.0,
            reopen_s=86_400.0,
            now_ms=lambda: clock,
            new_id=lambda: f"inc-{next(numbers)}",
        )
        for _ in range(2):
            looking.round()
            clock += 1_000
    return fleet


def visited(fleet: SimulatedFleet) -> list[str]:
    """Devices with thirty days of their own."""
    step = max(len(fleet) // VISITED, 1)
    return [fleet.name(index) for index in range(0, len(fleet), step)][:VISITED]


def presence(payload: bytes) -> Presence:
    """A presence of the fleet, for whoever wants to look."""
    return Presence.from_bytes(payload)


def _batches(messages: Iterator[Message]) -> Iterator[list[Message]]:
    while batch := list(itertools.islice(messages, _BATCH)):
        yield batch


def _past(engine: Engine, fleet: SimulatedFleet, until_ms: int) -> None:
    """Rollups of thirty days, and the visited devices' windows."""
    generator = np.random.default_rng(11)
    pool = [(packed, Window.from_bytes(packed)) for packed in fleet.world.windows(())]
    with reading(engine) as connection:
        cohorts = connection.execute(
            select(tables.rollups.c.scope_key).where(tables.rollups.c.scope == "cohort").distinct()
        ).scalars()
        scopes = [("fleet", "", len(fleet)), *(("cohort", key, len(fleet) // 4) for key in cohorts)]
    scopes += [("device", name, 1) for name in visited(fleet)]
    bundle = fleet.describe.bundle
    for scope, key, counted in scopes:
        rows: list[bulk.Values] = []
        for length, days in ((BUCKET_S, RAW_DAYS), (3_600, DAYS), (DAY_MS // 1000, DAYS)):
            first = (until_ms - days * DAY_MS) // (length * 1000) * length * 1000
            for at in range(first, until_ms - length * 1000, length * 1000):
                packed, window = pool[int(generator.integers(len(pool)))]
                cohort_list = ["camera=A"] if scope == "device" else None
                rows.append(
                    merge.row(
                        Key(scope, key, bundle, length, at),
                        window,
                        packed,
                        devices=counted,
                        cohorts=cohort_list,
                        now_ms=at + length * 1000,
                    )
                )
        with writing(engine) as connection:
            bulk.insert(connection, tables.rollups, merge.COLUMNS, rows)
    _windows(engine, fleet, until_ms, pool)


def _windows(engine: Engine, fleet: SimulatedFleet, until_ms: int, pool: list[tuple[bytes, Window]]) -> None:
    generator = np.random.default_rng(12)
    columns = [column.name for column in tables.windows.columns]
    tracked = len(fleet.world.known.schema.tracked_streams)
    with writing(engine) as connection:
        for name in visited(fleet):
            rows: list[bulk.Values] = []
            step_ms = BUCKET_S * 1000
            first = until_ms - RAW_DAYS * DAY_MS
            for number, at in enumerate(range(first, until_ms - step_ms, step_ms)):
                packed, window = pool[int(generator.integers(len(pool)))]
                evidence = np.abs(generator.normal(0, 0.8, tracked)).astype("<f2").tobytes()
                row = {
                    "device": name,
                    "incarnation": 1,
                    "seq": number + 1,
                    "bundle": fleet.describe.bundle,
                    "schema_id": window.schema_id,
                    "start_ms": at,
                    "end_ms": at + step_ms,
                    "clock": "device",
                    "received_ms": at + step_ms,
                    "rows": window.rows,
                    "parts": 1,
                    "window": packed,
                    "evidence": evidence,
                    "merged": True,
                }
                rows.append(tuple(row[column] for column in columns))
            bulk.insert(connection, tables.windows, columns, rows)
