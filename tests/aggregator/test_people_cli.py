"""`driftpost policy`, `driftpost incidents` and `driftpost audit` on a database of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, select, update

from aggregator.test_retrain import ask, open_incident
from driftpost_aggregator.cli import audit
from driftpost_aggregator.incidents_cli import incidents
from driftpost_aggregator.policy_cli import policy
from driftpost_aggregator.settings import RetrainPolicy
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.times import wall_ms

DAY = 86_400_000


@pytest.fixture
def config(tmp_path: Path, engine: Engine) -> str:
    path = tmp_path / "aggregator.toml"
    path.write_text('[fleet]\nname = "meters"\n[retrain]\nmin_share = 0.9\n')
    return str(path)


@pytest.fixture
def history(engine: Engine) -> None:
    """Two incidents three days ago, of which the settings' policy asked for one."""
    then = wall_ms() - 3 * DAY
    open_incident(engine, "inc-1")
    open_incident(engine, "inc-2", scope_key="camera=C", affected=2, members=4)
    ask(engine, RetrainPolicy(min_share=0.9), now_ms=then)


def run(group, *arguments: str):
    return CliRunner().invoke(group, list(arguments), catch_exceptions=False)


def test_a_backtest_of_the_settings_own_policy_shows_what_was_asked(config: str, history: None) -> None:
    told = run(policy, "backtest", "--config", config, "--all")
    assert told.exit_code == 0
    assert "yes, as rr-1" in told.output
    assert "2 of 4 devices are below 90%" in told.output
    assert "1 request in 30 days" in told.output
    assert "1 was really made" in told.output


def test_another_policy_is_tried_from_a_file_of_its_own(config: str, history: None, tmp_path: Path) -> None:
    other = tmp_path / "policy.toml"
    other.write_text("[retrain]\nmin_share = 0.1\n[retrain.costs]\n'meter reader' = 4.0\n")
    told = run(policy, "backtest", "--config", config, "--policy", str(other), "--json")
    plain = json.loads(told.output)
    assert plain["requests"] == 2
    assert {one["incident"]: one["request"] for one in plain["decisions"]} == {"inc-1": "rr-1", "inc-2": None}
    assert plain["decisions"][0]["cost"] == 4.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[retrain]\nmin_shares = 1\n", "min_shares"),
        ("[fleet]\nname = 'x'\n", "fleet"),
        ("[retrain]\nkinds = ['bad weather']\n", "bad weather"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(
    config: str, history: None, tmp_path: Path, text: str, words: str
) -> None:
    other = tmp_path / "policy.toml"
    other.write_text(text)
    told = run(policy, "backtest", "--config", config, "--policy", str(other))
    assert told.exit_code == 1
    assert words in told.output


def test_a_backtest_of_nothing_says_so(config: str) -> None:
    assert "0 requests in 7 days" in run(policy, "backtest", "--config", config, "--days", "7").output


def test_an_incident_lives_through_the_command_line_and_every_step_is_in_the_log(
    config: str, engine: Engine
) -> None:
    open_incident(engine, "inc-1")
    steps = [
        ("acknowledge", "--actor", "anna"),
        ("note", "--actor", "anna"),
        ("mute", "--for", "4h", "--actor", "ben"),
        ("unmute", "--actor", "ben"),
        ("resolve", "--note", "lamp replaced", "--actor", "anna"),
        ("reopen", "--actor", "anna"),
    ]
    for name, *options in steps:
        extra = ["on my way"] if name == "note" else []
        told = run(incidents, name, "--config", config, *options, "inc-1", *extra)
        assert told.exit_code == 0, told.output
    with reading(engine) as connection:
        row = connection.execute(select(tables.incidents)).one()
    assert (row.state, row.reopened, row.resolved_ms) == ("open", 1, None)
    shown = run(incidents, "show", "--config", config, "inc-1").output
    for words in ("acknowledged  anna", "on my way", "muted  ben", "lamp replaced", "reopened  anna"):
        assert words in shown
    assert "inc-1  open" in run(incidents, "list", "--config", config).output
    listed = json.loads(run(incidents, "list", "--config", config, "--json").output)
    assert listed[0]["incident"] == "inc-1"
    verified = run(audit, "verify", "--config", config)
    assert verified.exit_code == 0
    assert "6 rows, unbroken" in verified.output
    with writing(engine) as connection:
        connection.execute(update(tables.audit).where(tables.audit.c.id == 3).values(actor="somebody else"))
    broken = run(audit, "verify", "--config", config)
    assert broken.exit_code == 1
    assert "audit row 3: was changed after it was written" in broken.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("unmute", "inc-1"), "incident inc-1 is open, not muted"),
        (("reopen", "inc-1"), "is open; only a resolved one can be reopened"),
        (("mute", "--for", "soon", "inc-1"), "no span of time"),
        (("mute", "--for", "0m", "inc-1"), "only until a time that is yet to come"),
        (("acknowledge", "inc-9"), "no incident 'inc-9'"),
        (("show", "inc-9"), "no incident 'inc-9'"),
        (("note", "--actor", "aggregator", "inc-1", "x"), "aggregator's own name"),
        (("note", "inc-1", "  "), "empty note"),
    ],
)
def test_what_can_not_be_done_is_refused_with_the_reason(
    config: str, engine: Engine, arguments: tuple[str, ...], words: str
) -> None:
    open_incident(engine, "inc-1")
    name, *rest = arguments
    told = run(incidents, name, "--config", config, *rest)
    assert told.exit_code == 1
    assert words in told.output


def test_no_incident_is_told_as_none(config: str) -> None:
    assert run(incidents, "list", "--config", config).output == "none\n"
