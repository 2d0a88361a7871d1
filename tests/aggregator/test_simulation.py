"""A played fleet is real to the aggregator: its books are what stands in the database."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, func, select

from driftpost_aggregator.batch import Incoming
from driftpost_aggregator.errors import ConfigurationError
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.intake import Intake
from driftpost_aggregator.simulation.cli import simulate
from driftpost_aggregator.simulation.fleet import SimulatedFleet
from driftpost_aggregator.simulation.script import Disturbance, Script, load
from driftpost_aggregator.simulation.world import paper_bundle
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading
from driftpost_aggregator.times import wall_ms
from driftpost_sketches.window import Window
from driftpost_sync.clock import SystemClock
from driftpost_sync.errors import SettingsError
from driftpost_sync.host_link import HostLink
from driftpost_sync.mqtt_settings import MqttSettings
from mosquitto import needs_mosquitto, running_mosquitto

START = 1_790_000_000_000
EVERYTHING = """\
rows = 50
window_s = 60.0
repeated = 0.2
reordered = 0.2
clockless = 0.2

[[attributes]]
name = "camera"
values = ["A", "B"]

[[disturbances]]
kind = "shift"
stream = "input.01"
amount = -2.0
begin = 2
end = 4
found_after = 1
[disturbances.where]
camera = "B"
"""


def play(script: Script, *, devices: int = 8, seed: int = 4) -> SimulatedFleet:
    describe = paper_bundle(6, window_s=60.0, seed=1)
    return SimulatedFleet(describe, script, devices=devices, fleet="sims", seed=seed, start_ms=START)


def everything(fleet: SimulatedFleet, windows: int) -> list[Incoming]:
    rounds = (fleet.round(window) for window in range(windows))
    messages = itertools.chain(fleet.births(), *rounds, fleet.rest())
    return [Incoming(one.topic, one.payload, START + windows * 60_000) for one in messages]


def total(engine: Engine, column: object) -> int:
    with reading(engine) as connection:
        return int(connection.execute(select(func.sum(column))).scalar_one() or 0)  # type: ignore[arg-type]


def test_the_books_are_what_stands_in_the_database(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(EVERYTHING)
    fleet = play(load(path))
    messages = everything(fleet, 6)
    ingest = Ingest(engine, fleet="sims", bucket_s=60, now_ms=lambda: START + 360_000)
    for begin in range(0, len(messages), 7):
        ingest.take(messages[begin : begin + 7])
    books = fleet.books
    assert (books.devices, books.windows) == (8, 48)
    assert books.messages > 48
    assert total(engine, tables.devices.c.windows) == books.windows
    assert total(engine, tables.devices.c.rows) == books.rows == 48 * 50
    assert total(engine, tables.devices.c.quarantined) == 0
    with reading(engine) as connection:
        cohorts = connection.execute(
            select(tables.rollups.c.scope_key, func.sum(tables.rollups.c.rows))
            .where(tables.rollups.c.scope == "cohort")
            .group_by(tables.rollups.c.scope_key)
        )
        assert {row.scope_key: row[1] for row in cohorts} == books.cohorts
        findings = connection.execute(select(tables.findings.c.device, tables.findings.c.state)).all()
    assert len(findings) == books.findings > 0
    assert {row.state for row in findings} == {"raised", "cleared"}


def test_the_same_seed_plays_the_same_fleet() -> None:
    first, again, other = (everything(play(Script(rows=20), seed=seed), 3) for seed in (4, 4, 5))
    assert first == again
    assert first != other


def test_what_is_disturbed_looks_disturbed_and_the_rest_as_the_reference() -> None:
    disturbances = (
        Disturbance("shift", "input.01", 3.0, {}, 1.0, 0, 9, -1),
        Disturbance("stuck", "input.02", 1.0, {}, 1.0, 0, 9, -1),
        Disturbance("missing", "input.03", 0.5, {}, 1.0, 0, 9, -1),
        Disturbance("spread", "input.04", 4.0, {}, 1.0, 0, 9, -1),
        Disturbance("classes", "output.class", 0.5, {}, 1.0, 0, 9, -1),
    )
    fleet = play(Script(rows=2_000, disturbances=disturbances))
    known = fleet.world.known
    window = Window.from_bytes(fleet.world.windows(disturbances)[0])
    then = [known.baseline.summary(known.schema, i) for i in range(6)]
    now = [window.summary(known.schema, i) for i in range(6)]
    assert abs(now[0].mean - then[0].mean) < 0.2 * then[0].std
    assert now[1].mean - then[1].mean == pytest.approx(3 * known.schema.streams[1].scale, rel=0.2)
    assert now[2].low == now[2].high
    assert 800 < now[3].missing < 1_200
    assert now[4].std > 2 * then[4].std
    assert now[5].share.max() > 0.45


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("rows = 0", SettingsError, "rows"),
        ("speed = 3", SettingsError, "speed"),
        ('[[attributes]]\nname = "camera"\nvalues = []', ConfigurationError, "no values"),
        (EVERYTHING.replace('camera = "B"', 'camera = "C"'), ConfigurationError, "no device has camera=C"),
        (EVERYTHING.replace('"shift"', '"melt"'), SettingsError, "melt"),
    ],
)
def test_a_script_that_can_not_be_played_says_why(
    tmp_path: Path, text: str, error: type[Exception], words: str
) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    with pytest.raises(error, match=words):
        load(path)


def test_a_disturbance_of_a_stream_that_the_bundle_has_not_is_refused() -> None:
    for kind, stream, words in (("shift", "nothing", "no stream"), ("classes", "input.01", "no categorical")):
        with pytest.raises(ConfigurationError, match=words):
            play(Script(disturbances=(Disturbance(kind, stream, 1.0, {}, 1.0, 0, 9, -1),)))


@needs_mosquitto
def test_the_command_plays_through_a_broker_until_everything_is_acknowledged(
    engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "fleet.toml").write_text(EVERYTHING)
    over = threading.Event()
    with running_mosquitto() as broker:
        link = HostLink(
            MqttSettings(host=broker.host, port=broker.port),
            "sims",
            client_id="aggregator",
            clock=SystemClock(),
            wall_ms=wall_ms,
            exit_event=over,
        )
        intake = Intake(link, Ingest(engine, fleet="sims", bucket_s=60, now_ms=wall_ms), 64, over)

        def work() -> None:
            while not over.is_set():
                intake.round()

        worker = threading.Thread(target=work, name="work", daemon=True)
        link.start()
        worker.start()
        try:
            options = ["--devices", "20", "--windows", "5", "--fleet", "sims", "--port", str(broker.port)]
            options += ["--streams", "6", "--script", str(tmp_path / "fleet.toml"), "--seed", "2"]
            result = CliRunner().invoke(simulate, [*options, "--counts", str(tmp_path / "counts.json")])
            once = total(engine, tables.devices.c.windows), total(engine, tables.devices.c.rows)
            again = CliRunner().invoke(simulate, options)
        finally:
            over.set()
            link.stop()
            worker.join(10)
    assert result.exit_code == 0, result.output
    assert "100 windows of 5,000 rows from 20 devices" in result.output
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert (counts["windows"], counts["rows"]) == once == (100, 5_000)
    assert counts["refused"] == 0
    # The second play of the same devices is no repetition of the first.
    assert again.exit_code == 0, again.output
    assert total(engine, tables.devices.c.windows) == 200


def test_a_play_that_was_ended_early_does_not_pass_for_a_whole_one() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        code = "from driftpost_aggregator.simulation.cli import simulate; simulate()"
        arguments = ["--devices", "1", "--windows", "1", "--port", str(nobody.getsockname()[1])]
        with subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE) as play:
            assert play.stderr is not None
            assert b"refused; trying again" in play.stderr.readline()
            play.terminate()
            assert b"stopped before all of it was sent" in play.stderr.read()
    assert play.returncode == 1
