"""`driftpost agent` without a daemon: settings, init, and what a page looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from driftpost_agent.cli import agent
from driftpost_agent.client import fetch_status
from driftpost_agent.errors import DaemonUnreachable
from driftpost_agent.settings import TABLE
from driftpost_agent.status_table import render, render_site


def test_settings_prints_the_reference() -> None:
    outcome = CliRunner().invoke(agent, ["settings"])
    assert outcome.exit_code == 0
    assert outcome.output == TABLE.reference_page()


def test_init_writes_a_file_that_loads_and_never_overwrites_one(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    arguments = ["init", str(path), "--id", "cam-7", "--bundle", "m.bundle", "--key", "team.pub"]
    first = CliRunner().invoke(agent, arguments)
    assert first.exit_code == 0
    assert TABLE.load(path).text("device.id") == "cam-7"
    assert TABLE.load(path).paths("model.trusted_keys") == (tmp_path / "team.pub",)
    second = CliRunner().invoke(agent, arguments)
    assert second.exit_code == 1
    assert "left as it is" in second.output


def test_init_refuses_a_name_that_no_topic_can_carry(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    outcome = CliRunner().invoke(agent, ["init", str(path), "--id", "cam 7"])
    assert outcome.exit_code == 1
    assert "--id: 'cam 7' is no valid name" in outcome.output
    assert not path.exists()


def test_init_says_which_of_its_files_are_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "m.bundle").touch()
    arguments = ["init", str(tmp_path / "agent.toml"), "--id", "cam-7"]
    outcome = CliRunner().invoke(agent, [*arguments, "--bundle", "m.bundle", "--key", "team.pub"])
    assert outcome.exit_code == 0
    assert "--key team.pub: there is no such file" in outcome.output
    assert "--bundle" not in outcome.output


def test_every_command_has_help() -> None:
    for name in ([], ["run"], ["status"], ["activate"], ["settings"], ["init"]):
        outcome = CliRunner().invoke(agent, [*name, "--help"])
        assert outcome.exit_code == 0
        assert "Usage" in outcome.output


def test_somebody_else_on_the_port_is_not_taken_for_an_agent() -> None:
    import http.server
    import threading

    with http.server.HTTPServer(("127.0.0.1", 0), _Stranger) as stranger:
        thread = threading.Thread(target=stranger.handle_request, name="stranger")
        thread.start()
        with pytest.raises(DaemonUnreachable, match="no driftpost agent"):
            fetch_status("0.0.0.0", stranger.server_address[1])
        thread.join()


def _stranger_handler() -> Any:
    import http.server

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"hello": 1}')

        def log_message(self, *_: Any) -> None:
            return

    return Handler


_Stranger = _stranger_handler()


def document(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "version": "1",
        "uptime_s": 200_000.0,
        "device": {"id": "d", "fleet": "f", "attributes": {}},
        "health": {"state": "failing", "reasons": ["the link loop makes no progress"]},
        "model": {},
        "window_seconds": None,
        "inferences": {"calls": 0, "rows": 0, "reasons": {}, "guard_us": 0.0, "model_us": 0.0},
        "windows": {
            "recorded": 5,
            "sent": 4,
            "acked": 3,
            "pending": 2,
            "quarantined": 0,
            "open_rows": 1,
            "waiting_for_store": 7,
            "lost_rows": 12,
            "given_up": 1,
        },
        "findings": {
            "raised": 2,
            "standing": 1,
            "latest": [
                {"state": "raised", "text": "brightness fell", "at": "2026-01-01"},
                {"state": "cleared", "text": "gone", "at": None},
            ],
        },
        "link": {
            "enabled": True,
            "connected": False,
            "broker": "b:1883",
            "protocol": None,
            "sent_bytes": 1500,
            "trouble": "refused",
            "twins": 2,
        },
        "site": {"baseline": "training", "mode": "off"},
        "store": {"path": "/s/agent.db", "bytes": 5_000_000, "problem": "disk full"},
        "process": {"agent_mb": 60.0, "model_mb": 50.0, "written_mb": 1.5},
        "clock": {"wall_good": False},
    }
    return {**base, **changes}


def test_the_page_names_every_trouble() -> None:
    page = render(document())
    for words in (
        "FAILING",
        "up 2 d",
        "! the link loop makes no progress",
        "none is loaded yet",
        "5 recorded, 4 sent, 3 acknowledged, 2 pending",
        "! 7 wait in memory: disk full",
        "12 rows were lost",
        "1 were too large",
        "! refused",
        "! another device uses this name",
        "! brightness fell (since 2026-01-01)",
        "5.0 MB in /s/agent.db",
        "not known to be good",
    ):
        assert words in page
    assert "gone" not in page


def site_of(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "baseline": "training",
        "mode": "learning",
        "phase": "ranges",
        "rows": 1200,
        "rows_wanted": 50_000,
        "seconds_left": 190_000.0,
        "held_by": [],
        "differs": [],
        "skew": [],
        "notes": [],
    }
    return {**base, **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "learning the range of every stream: 1,200 rows of about 50,000, about 2 d to go"),
        ({"phase": "chains"}, "learning how rows follow each other: 1,200 rows"),
        ({"mode": "held", "held_by": ["gain fell"]}, "! gain fell (is it normal here? `driftpost agent site"),
        ({"mode": "fitting", "phase": "done"}, "making the calibration"),
        ({"differs": ["gain is higher"]}, "installed differently, to be measured: gain is higher"),
        ({"mode": "watching", "skew": ["Installed differently: gain"]}, "Installed differently: gain"),
        ({"mode": "watching"}, "watched by this device's own normal, learnt from 1,200 rows"),
    ],
)
def test_the_page_says_what_a_device_has_learnt_of_itself(changes: dict[str, Any], words: str) -> None:
    assert words in render(document(site=site_of(**changes)))
    assert words in render_site(site_of(**changes))


def test_a_device_without_a_site_baseline_says_so_when_asked() -> None:
    assert "no site baseline" in render_site({"baseline": "training", "mode": "off"})
    assert "site" not in render(document())


def test_an_agent_that_works_alone_says_so() -> None:
    assert "off (sync.enabled is false)" in render(document(link={"enabled": False}))


@pytest.mark.parametrize(
    "arguments", [["run"], ["status"], ["activate", "a.bundle"]], ids=["run", "status", "activate"]
)
def test_without_a_configuration_it_says_how_to_write_one(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "a.bundle").touch()
    arguments = [str(tmp_path / "a.bundle") if word == "a.bundle" else word for word in arguments]
    outcome = CliRunner().invoke(agent, [*arguments, "--config", str(tmp_path / "agent.toml")])
    assert outcome.exit_code == 1
    assert f"driftpost agent init {tmp_path / 'agent.toml'}" in outcome.output


def test_a_bundle_that_is_not_there_can_be_made(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(agent, ["activate", str(tmp_path / "no.bundle")])
    assert outcome.exit_code == 2
    assert "does not exist. Check the path; `driftpost bundle build`" in outcome.output
