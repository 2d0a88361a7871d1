"""Real processes, a real Mosquitto, and every part of the way killed in mid-stream."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from e2e.fleet_under_fire import FRAMES_PER_SECOND, WINDOW_S, FleetUnderFire, read
from mosquitto import needs_mosquitto, running_mosquitto

DEVICES = {"north": "onnx", "east": "tflite", "south": "onnx"}
KILLED = "south"
# Of the settings: rows are sketched, and the open window kept, at least this often, s.
FLUSH_S = 1.0


@pytest.mark.slow
@needs_mosquitto
def test_what_was_recorded_is_stored_once_though_broker_aggregator_and_an_agent_are_killed(
    tmp_path: Path,
) -> None:
    with running_mosquitto() as broker, FleetUnderFire(tmp_path, broker, DEVICES) as site:
        site.start_feeding()
        site.wait("every device's windows arrive", lambda: site.recorded_windows() >= 2 * len(DEVICES))

        broker.kill()
        time.sleep(2.5 * WINDOW_S)  # windows are recorded meanwhile and have nowhere to go
        before = site.recorded_windows()
        broker.restart()
        site.wait("the backlog arrives", lambda: site.recorded_windows() >= before + 2 * len(DEVICES))

        site.kill("aggregator")
        time.sleep(2.5 * WINDOW_S)
        site.start_aggregator()
        before = site.recorded_windows()
        site.wait("it goes on", lambda: site.recorded_windows() >= before + len(DEVICES))

        site.kill(KILLED)
        time.sleep(WINDOW_S)
        site.start_agent(KILLED)
        before = site.recorded_windows()
        site.wait("all go on", lambda: site.recorded_windows() >= before + 2 * len(DEVICES))

        site.stop_feeding()
        for device in DEVICES:
            site.stop(device)  # closes the last window; what is not acknowledged by then stays in the outbox
        for device in DEVICES:
            site.start_agent(device)
        site.wait("everything is acknowledged", lambda: all(site.accounts(d)[2] == 0 for d in DEVICES))
        for device in DEVICES:
            site.stop(device)
        site.stop("aggregator")

        stored = dict(read(site.database, "select device, sum(rows) from windows group by device"))  # type: ignore[arg-type]
        shortest = "bucket_s = (select min(bucket_s) from rollups)"
        summed = f"select scope_key, sum(rows) from rollups where scope = 'device' and {shortest} group by 1"
        merged = dict(read(site.database, summed))  # type: ignore[arg-type]
        names = read(site.database, "select device, incarnation, seq from windows")
        assert len(set(names)) == len(names) > 0
        for device in DEVICES:
            recorded, acked, pending, quarantined, lost = site.accounts(device)
            assert (pending, quarantined) == (0, 0)
            assert recorded == acked == stored[device] == merged[device]
            made, unknown = site.feeds[device].answered, site.feeds[device].unknown
            if device == KILLED:
                # SIGKILL takes the rows since the last flush, and the ledger says how many.
                assert 0 <= lost <= 2 * FLUSH_S * FRAMES_PER_SECOND
                assert made <= recorded + lost <= made + unknown
            else:
                assert (recorded, lost) == (made, 0)
        assert read(site.database, "select count(*) from quarantine")[0][0] == 0
