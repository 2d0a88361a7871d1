"""How long every page and API answer takes, over HTTP, with a large fleet in the database."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
from benchmarks.fleet.seed import FLEET, visited
from sqlalchemy import Engine, select

from driftpost_aggregator.simulation.fleet import SimulatedFleet
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading
from driftpost_aggregator.web.options import WebOptions
from driftpost_aggregator.web.server import WebServer

REPEATS = 12
_SPANS = ("6h", "7d")


@dataclass(frozen=True)
class PageTime:
    """Of one address: how long its answers took, milliseconds."""

    address: str
    times_ms: tuple[float, ...]

    @property
    def p95_ms(self) -> float:
        """95th percentile."""
        return percentile(self.times_ms, 0.95)

    @property
    def median_ms(self) -> float:
        """Median."""
        return statistics.median(self.times_ms)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def addresses(engine: Engine, fleet: SimulatedFleet) -> list[str]:
    """What a person or a program asks for."""
    with reading(engine) as connection:
        found = connection.execute(select(tables.incidents.c.incident)).scalars().all()
    bundle = fleet.describe.bundle
    streams = ("input.03", "output.class")
    paths = [
        "/",
        "/devices",
        "/devices?online=yes",
        "/devices?search=0050",
        "/incidents",
        "/streams",
        "/requests",
    ]
    paths += ["/quarantine", "/labels", "/alerts", "/health", "/metrics"]
    paths += [f"/?rows=devices&span={span}" for span in _SPANS]
    paths += [f"/charts/fleet?rows={rows}&span={span}" for rows in ("cohorts", "devices") for span in _SPANS]
    paths += [f"/streams/{bundle}/{stream}" for stream in streams]
    paths += [
        f"/charts/streams/{bundle}/{kind}/{stream}?span={span}"
        for kind in ("course", "distribution")
        for stream in streams
        for span in (*_SPANS, "30d")
    ]
    for name in visited(fleet)[:3]:
        paths += [f"/devices/{name}", f"/devices/{name}?span=7d", f"/api/v1/devices/{name}"]
        paths += [
            f"/charts/devices/{name}/{chart}?span={span}"
            for chart in ("evidence", "streams")
            for span in _SPANS
        ]
    for incident in found[:3]:
        paths += [f"/incidents/{incident}", f"/api/v1/incidents/{incident}"]
        paths += [f"/api/v1/incidents/{incident}/devices", f"/charts/incidents/{incident}/input.03"]
    paths += [
        f"/api/v1/{name}" for name in ("fleet", "coverage", "devices", "findings", "incidents", "requests")
    ]
    paths += ["/api/v1/quarantine", "/api/v1/bundles", f"/api/v1/bundles/{bundle}"]
    paths += [f"/api/v1/streams/{bundle}/{stream}" for stream in streams]
    return paths


def measure(engine: Engine, fleet: SimulatedFleet, *, repeats: int = REPEATS) -> list[PageTime]:
    """Ask for everything in turn, so that no page is warmer than it would be; the slowest first."""
    paths = addresses(engine, fleet)
    times: dict[str, list[float]] = {path: [] for path in paths}
    with ExitStack() as stack:
        exit_event = threading.Event()
        server = WebServer(engine, WebOptions(fleet=FLEET, port=0), exit_event)
        server.start()
        stack.callback(server.stop)
        stack.callback(exit_event.set)
        client = stack.enter_context(httpx.Client(base_url=server.address, timeout=60))
        for _ in range(repeats):
            for path in paths:
                began = time.perf_counter()
                answer = client.get(path)
                took = 1000 * (time.perf_counter() - began)
                if answer.status_code not in (200, 404):
                    raise RuntimeError(f"{path}: {answer.status_code} {answer.text[:200]}")
                if answer.status_code == 200:
                    times[path].append(took)
    found = [PageTime(path, tuple(taken)) for path, taken in times.items() if taken]
    return sorted(found, key=lambda one: -one.p95_ms)
