"""The real daemon in a process of its own: serving, killed, restarted, crashed inside, swapped, drained."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.bundles import FEATURES, pictures, tabular_rows
from agent.daemons import Agent, running
from driftpost_models.bundle import Bundle
from driftpost_models.runtime import load_model
from driftpost_sync.messages import LedgerBody
from mosquitto import Mosquitto, needs_mosquitto, running_mosquitto
from wire import World


def closed_rows(store: Path) -> int:
    """Rows in all windows of a store, read as any other program would."""
    connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
    try:
        return int(connection.execute("select coalesce(sum(rows), 0) from windows").fetchone()[0])
    finally:
        connection.close()


def test_it_serves_guarded_inferences_and_stops_cleanly_with_the_open_window_recorded(
    tmp_path: Path, bundles: Path
) -> None:
    with running(tmp_path, bundles / "mlp.bundle", bundles / "team.pub", windows={"seconds": 600}) as agent:
        rows = tabular_rows(5)
        status, answer = agent.infer("mlp", "x", rows)
        assert status == 200
        plain = load_model(Bundle.open(bundles / "mlp.bundle", None).model_bytes)
        expected = plain.run({"x": rows})["p"].ravel()
        np.testing.assert_allclose(answer["outputs"][0]["data"], expected, rtol=1e-5)
        plain.close()
        bad = rows[:1].copy()
        bad[0, 0] = np.nan
        assert agent.infer("mlp", "x", bad)[1]["parameters"]["verdict_reasons"].startswith("nonfinite_input")
        document = agent.status()
        assert document["health"] == {"state": "ok", "reasons": []}
        assert document["inferences"]["rows"] == 6
        assert document["inferences"]["flagged"] == 1
        assert document["windows"]["open_rows"] == 6
        assert document["model"]["restarts"] == 0
        assert 'driftpost_inferences_total{verdict="flagged"} 1' in agent.get("/metrics")[1]
        assert agent.stop() < 5.0
        assert agent.process is not None
        assert agent.process.returncode == 0
    assert closed_rows(tmp_path / "state" / "agent.db") == 6
    assert "Traceback" not in agent.log.read_text()


def test_killed_at_any_moment_no_closed_window_is_lost_or_doubled(tmp_path: Path, bundles: Path) -> None:
    sent = 0
    with running(
        tmp_path,
        bundles / "mlp.bundle",
        bundles / "team.pub",
        windows={"seconds": 0.2, "flush_seconds": 0.05},
    ) as agent:
        for _ in range(3):
            deadline = time.monotonic() + 0.7
            while time.monotonic() < deadline:
                sent += 10 * (agent.infer("mlp", "x", tabular_rows(10))[0] == 200)
            before = agent.status()["windows"]
            assert before["rows"]["recorded"] + before["open_rows"] <= sent
            agent.kill()
            agent.start()
            after = agent.status()["windows"]
            assert after["rows"]["recorded"] >= before["rows"]["recorded"]
            assert after["rows"]["recorded"] <= sent
            assert after["recorded"] == after["acked"] + after["pending"] + after["quarantined"]
        agent.stop()
    store = tmp_path / "state" / "agent.db"
    connection = sqlite3.connect(store)
    ledger = connection.execute(
        "select sum(recorded_rows), sum(pending_rows), count(*), sum(lost_rows_at_start) from ledger"
    ).fetchone()
    doubled = connection.execute(
        "select count(*) - count(distinct incarnation || '-' || seq) from messages"
    ).fetchone()[0]
    connection.close()
    assert doubled == 0
    assert ledger[0] == ledger[1] == closed_rows(store)
    assert ledger[2] == 4
    # What was answered is either in a window or was in memory when the kill came, and is then accounted for.
    assert ledger[0] + ledger[3] == sent


def test_a_model_that_dies_is_started_again_and_reported(tmp_path: Path, bundles: Path) -> None:
    with running(tmp_path, bundles / "mlp.bundle", bundles / "team.pub") as agent:
        pid = agent.status()["model"]["pid"]
        os.kill(pid, signal.SIGSEGV)
        agent.wait(lambda: not Path(f"/proc/{pid}/statm").exists() or _gone(pid), "the model is gone")
        answers = [agent.infer("mlp", "x", tabular_rows(1))[0] for _ in range(2)]
        assert answers[-1] == 200
        agent.wait(lambda: bool(agent.status()["findings"]["standing"]), "the crash is reported")
        document = agent.status()
        assert document["model"]["restarts"] == 1
        finding = document["findings"]["latest"][0]
        assert (finding["kind"], finding["source"]) == ("model_crashed", "runtime")
        assert "process" in finding["text"]
        assert document["health"]["state"] == "degraded"
        # A restart of the agent settles it: the process it spoke of is gone.
        agent.stop()
        agent.start()
        assert agent.status()["findings"]["standing"] == 0


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_another_bundle_is_activated_without_losing_a_request(tmp_path: Path, bundles: Path) -> None:
    with running(tmp_path, bundles / "mlp.bundle", bundles / "team.pub") as agent:
        before = agent.infer("mlp", "x", tabular_rows(1))[1]["outputs"][0]["data"]
        activated = _driftpost("agent", "activate", bundles / "mlp2.bundle", "--config", agent.config)
        assert activated.returncode == 0, activated.stderr
        assert "serves it now" in activated.stdout
        assert agent.infer("mlp2", "x", tabular_rows(1))[1]["outputs"][0]["data"] != before
        assert agent.infer("mlp", "x", tabular_rows(1))[0] == 404
        # The activation stays in force over a restart, as the configuration still names the same bundle.
        agent.stop()
        agent.start()
        assert agent.status()["model"]["name"] == "mlp2"
        history = [entry["outcome"] for entry in agent.status()["activations"]]
        assert history == ["started", "activated", "started"]


def test_a_bundle_of_a_stranger_is_refused_and_the_old_one_serves_on(tmp_path: Path, bundles: Path) -> None:
    from agent.bundles import REFERENCE_ROWS, built, mlp
    from driftpost_models.signing import generate

    foreign = built(tmp_path, "foreign", mlp(3), tabular_rows(REFERENCE_ROWS), key=generate())
    with running(tmp_path, bundles / "mlp.bundle", bundles / "team.pub") as agent:
        refused = _driftpost("agent", "activate", foreign, "--config", agent.config)
        assert refused.returncode == 1
        assert refused.stderr.startswith("Error: ")
        assert "Traceback" not in refused.stderr
        assert agent.infer("mlp", "x", tabular_rows(1))[0] == 200


def test_a_bundle_that_does_not_start_is_rolled_back_by_the_daemon(tmp_path: Path, bundles: Path) -> None:
    import json

    with running(tmp_path, bundles / "mlp.bundle", bundles / "team.pub") as agent:
        folder = tmp_path / "state" / "bundles"
        pointer = json.loads((folder / "active.json").read_text())
        good = pointer["active"]
        # As a power cut in the middle of an activation by another program might leave it.
        (folder / ("0" * 64 + ".bundle")).write_bytes(b"torn")
        (folder / "active.json").write_text(json.dumps({**pointer, "active": "0" * 64, "previous": good}))
        agent.wait(lambda: agent.status()["findings"]["standing"] == 1, "the roll-back is reported")
        assert json.loads((folder / "active.json").read_text())["active"] == good
        assert agent.status()["activations"][0]["outcome"] == "rolled back"
        assert agent.infer("mlp", "x", tabular_rows(1))[0] == 200
        agent.stop()
        agent.start()
        assert agent.status()["model"]["bundle"] == good


def test_the_fallback_model_answers_for_a_bad_input(tmp_path: Path, bundles: Path) -> None:
    with running(
        tmp_path,
        bundles / "mlp.bundle",
        bundles / "team.pub",
        model={
            "bundle": bundles / "mlp.bundle",
            "trusted_keys": [bundles / "team.pub"],
            "fallback": bundles / "mlp2.bundle",
            "isolated": False,
        },
        policy={"on_bad_verdict": "fallback"},
    ) as agent:
        other = load_model(Bundle.open(bundles / "mlp2.bundle", None).model_bytes)
        row = np.full((1, FEATURES), 50, np.float32)
        answer = agent.infer("mlp", "x", row)[1]
        assert answer["parameters"]["verdict"] == "fallback"
        np.testing.assert_allclose(
            answer["outputs"][0]["data"], other.run({"x": row})["p"].ravel(), rtol=1e-5
        )
        other.close()


def test_a_damaged_database_is_set_aside_with_a_finding_and_no_crash_loop(
    tmp_path: Path, bundles: Path
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "agent.db").write_bytes(b"garbage" * 5000)
    with running(tmp_path, bundles / "mlp.bundle", bundles / "team.pub") as agent:
        document = agent.status()
        assert document["store"]["set_aside"].endswith("agent.db.damaged-1")
        assert document["findings"]["latest"][0]["kind"] == "store_damaged"
        assert agent.infer("mlp", "x", tabular_rows(1))[0] == 200


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": {"bundle": "missing.bundle", "trusted_keys": ["team.pub"]}}, "missing.bundle"),
        ({"model": {"bundle": "mlp.bundle", "trusted_keys": []}}, "model.trusted_keys"),
        ({"model": {"bundle": "mlp.bundle", "trusted_keys": ["nothing.pub"]}}, "nothing.pub"),
        ({"device": {"id": "a/b"}}, "device.id"),
        ({"server": {"port": "taken"}}, "server.port"),
        ({"store": {"path": "/proc/agent.db"}}, "store"),
        ({"policy": {"budget": "never"}}, "budget"),
        ({"nonsense": {"a": 1}}, "nonsense"),
    ],
)
def test_a_configuration_that_can_not_work_ends_with_one_clear_sentence(
    tmp_path: Path, bundles: Path, change: dict[str, dict[str, Any]], says: str
) -> None:
    agent = Agent(tmp_path, bundles / "mlp.bundle", bundles / "team.pub")
    settings = {name: dict(section) for name, section in agent.settings.items()}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        places = {"port": taken.getsockname()[1]}
        for name, section in change.items():
            for key, value in section.items():
                found = places.get(key, value)
                if key == "bundle":
                    found = bundles / value
                elif key == "trusted_keys":
                    found = [bundles / item for item in value]
                settings.setdefault(name, {})[key] = found
        agent.configure(settings)
        outcome = _driftpost("agent", "run", "--config", agent.config)
    assert outcome.returncode == 1
    assert says in outcome.stderr
    assert "Error: " in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_status_without_a_daemon_says_how_to_start_one(tmp_path: Path, bundles: Path) -> None:
    agent = Agent(tmp_path, bundles / "mlp.bundle", bundles / "team.pub")
    outcome = _driftpost("agent", "status", "--config", agent.config)
    assert outcome.returncode == 1
    assert "driftpost agent run" in outcome.stderr


def test_the_status_page_shows_what_a_field_engineer_needs(tmp_path: Path, bundles: Path) -> None:
    with running(tmp_path, bundles / "picture.bundle", bundles / "team.pub") as agent:
        agent.infer("picture", "image", pictures(3))
        agent.infer("picture", "image", np.zeros((1, 16, 16, 3), np.uint8))
        page = _driftpost("agent", "status", "--config", agent.config).stdout
        for word in (
            "cam-1 in fleet test (site=lab)",
            "OK",
            "picture 1",
            "1 flagged",
            "saturated 1",
            "recorded",
        ):
            assert word in page
        for row in ("windows", "link", "findings", "disk", "memory", "wall clock"):
            assert f"\n{row} " in page
        assert '"incarnation"' in _driftpost("agent", "status", "--json", "--config", agent.config).stdout


def test_it_tells_systemd_when_it_is_ready_alive_and_stopping(tmp_path: Path, bundles: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        environment.pop("WATCHDOG_PID", None)
        agent = Agent(tmp_path, bundles / "mlp.bundle", bundles / "team.pub")
        try:
            agent.start(environment)
            assert manager.recv(4096).decode().startswith("READY=1\nSTATUS=ok: serving mlp 1")
            seen = {manager.recv(4096).decode().split("=")[0] for _ in range(6)}
            assert seen == {"WATCHDOG", "STATUS"}
            agent.stop()
            messages = []
            while "STOPPING=1" not in messages:
                messages.append(manager.recv(4096).decode())
        finally:
            if agent.process is not None and agent.process.poll() is None:
                agent.kill()


@needs_mosquitto
def test_windows_reach_the_broker_and_wait_for_the_aggregators_word(tmp_path: Path, bundles: Path) -> None:
    with (
        running_mosquitto() as broker,
        running(
            tmp_path,
            bundles / "mlp.bundle",
            bundles / "team.pub",
            sync={"enabled": True, "ledger_seconds": 1.0},
            mqtt={"port": broker.port, "reconnect_min_s": 0.1, "reconnect_max_s": 0.5},
            windows={"seconds": 0.5},
        ) as agent,
    ):
        agent.infer("mlp", "x", tabular_rows(40))
        agent.wait(lambda: agent.status()["windows"]["sent"] >= 1, "a window was sent")
        document = agent.status()
        assert document["link"]["connected"]
        assert document["link"]["protocol"] == "5"
        assert document["link"]["sent_bytes"] > 0
        # Nobody has acknowledged anything: the broker's word is not the aggregator's.
        assert document["windows"]["acked"] == 0
        assert document["windows"]["pending"] == document["windows"]["recorded"]
        _broker_bounces(agent, broker)
        assert agent.stop() < 5.0


@needs_mosquitto
def test_the_aggregator_gets_an_account_soon_after_the_first_window(tmp_path: Path, bundles: Path) -> None:
    with ExitStack() as stack:
        broker = stack.enter_context(running_mosquitto())
        aggregator = World(broker, stack).aggregator()
        agent = stack.enter_context(
            running(
                tmp_path,
                bundles / "mlp.bundle",
                bundles / "team.pub",
                sync={"enabled": True, "ledger_seconds": 3600.0},
                mqtt={"port": broker.port},
                windows={"seconds": 0.5},
            )
        )

        def acknowledged() -> int:
            bodies = [item for envelope in list(aggregator.envelopes) for item in envelope.items]
            accounts = [LedgerBody.from_bytes(item.body) for item in bodies if item.kind == "ledger"]
            return max((account.acked.rows for account in accounts), default=0)

        agent.infer("mlp", "x", tabular_rows(40))
        agent.wait(lambda: acknowledged() == 40, "the account says that the window arrived")


def _broker_bounces(agent: Agent, broker: Mosquitto) -> None:
    broker.kill()
    agent.wait(lambda: not agent.status()["link"]["connected"], "the outage is noticed")
    assert agent.infer("mlp", "x", tabular_rows(1))[0] == 200
    assert agent.status()["link"]["trouble"]
    broker.restart()
    agent.wait(lambda: bool(agent.status()["link"]["connected"]), "the link is back")


def _driftpost(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "driftpost", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
