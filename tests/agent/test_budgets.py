"""Budgets are measured, enforced, and told when what is done does not suffice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from driftpost_agent.allowance import HOUR_MS
from driftpost_agent.budget_settings import BUDGET_SETTINGS
from driftpost_agent.budgets import MAX_STRETCH, MIB, USAGE_FILE, Actions, Budgets, Reading, folder_bytes
from driftpost_agent.health import Health, Signs, assess
from driftpost_agent.settings import TABLE
from driftpost_sync.settings import Settings

QUIET = Reading(memory=50 * MIB, disk=MIB, written=0, sent=0, largest_message=900, cpu_ms=0.0)


def settings(**budget: float) -> Settings:
    return TABLE.parse({"device": {"id": "a"}, "model": {"bundle": "b"}, "budget": budget})


class Board:
    """What was done about budgets, and what is done now."""

    def __init__(self, folder: Path, **budget: float) -> None:
        self.done: list[Any] = []
        self.held = self.paced = False
        self.stretched = 1
        self.budgets = Budgets(
            settings(**budget),
            folder,
            Actions(
                give_back=lambda: self.done.append("give back"),
                shrink=self.done.append,
                hold_windows=lambda held: setattr(self, "held", held),
                pace_uplink=lambda held: setattr(self, "paced", held),
                stretch=lambda times: setattr(self, "stretched", times),
            ),
            0,
        )


def test_every_budget_has_unit_default_and_range() -> None:
    for setting in BUDGET_SETTINGS:
        assert setting.unit
        assert setting.minimum is not None
        assert setting.maximum is not None
        assert isinstance(setting.default, float)
        assert setting.minimum <= setting.default <= setting.maximum


def test_what_is_within_its_budget_is_left_alone(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.budgets.look(QUIET, 1000)
    board.budgets.look(replace(QUIET, cpu_ms=10.0), 200_000)
    assert (board.done, board.held, board.paced, board.stretched) == ([], False, False, 1)
    assert board.budgets.problems(200_000) == ()
    facts = board.budgets.facts()
    assert set(facts) == {"memory", "disk", "flash", "message", "uplink", "cpu"}
    assert facts["memory"] == {
        "setting": "budget.memory_mb",
        "unit": "bytes",
        "used": 50 * MIB,
        "budget": 384 * MIB,
        "share": round(50 / 384, 4),
        "doing": "",
    }
    assert facts["message"]["used"] == 900


def test_memory_beyond_its_budget_is_given_back_once_a_minute_and_told_when_that_does_not_help(
    tmp_path: Path,
) -> None:
    board = Board(tmp_path, memory_mb=100)
    large = replace(QUIET, memory=150 * MIB)
    for now in (0, 5_000, 55_000):
        board.budgets.look(large, now)
    assert board.done == ["give back"]
    assert board.budgets.problems(55_000) == ()
    board.budgets.look(large, 61_000)
    assert board.done == ["give back", "give back"]
    (problem,) = board.budgets.problems(61_000)
    assert "memory: 150.0 MiB of 100.0 MiB (budget.memory_mb)" in problem
    health, reasons = assess(Signs(serving=True, budget_problems=(problem,)))
    assert health is Health.DEGRADED
    assert "over budget" in reasons[0]
    board.budgets.look(QUIET, 66_000)
    assert board.budgets.problems(66_000) == ()


def test_disk_beyond_its_budget_shrinks_the_store_by_the_excess_and_later_lets_it_grow(
    tmp_path: Path,
) -> None:
    board = Board(tmp_path, disk_mb=10)
    board.budgets.look(replace(QUIET, disk=12 * MIB), 0)
    assert board.done == [2 * MIB]
    board.budgets.look(replace(QUIET, disk=9 * MIB), 5_000)
    assert board.done == [2 * MIB]
    board.budgets.look(replace(QUIET, disk=7 * MIB), 10_000)
    assert board.done == [2 * MIB, 0]


def test_flash_beyond_its_budget_keeps_windows_in_memory_until_there_is_room_again(tmp_path: Path) -> None:
    board = Board(tmp_path, flash_mb_per_day=1)
    board.budgets.look(replace(QUIET, written=MIB // 4), 0)
    assert not board.held
    board.budgets.look(replace(QUIET, written=MIB), 5_000)
    assert board.held
    assert "flash" in board.budgets.problems(5_000)[0]
    assert "wait in memory" in board.budgets.problems(5_000)[0]
    board.budgets.look(replace(QUIET, written=MIB), HOUR_MS)
    assert not board.held


def test_the_uplink_beyond_its_budget_keeps_windows_in_the_outbox(tmp_path: Path) -> None:
    board = Board(tmp_path, uplink_mb_per_day=0.1)
    board.budgets.look(replace(QUIET, sent=100_000), 0)
    assert board.paced
    board.budgets.look(replace(QUIET, sent=100_000), HOUR_MS)
    assert not board.paced


def test_cpu_beyond_its_budget_makes_sketching_rarer_until_it_is_quiet_again(
    tmp_path: Path,
) -> None:
    board = Board(tmp_path, cpu_percent=10)
    spent = 0.0
    for minute in range(8):
        spent += 30_000  # half a core
        board.budgets.look(replace(QUIET, cpu_ms=spent), minute * 60_000)
    assert board.stretched == MAX_STRETCH
    assert "rarely" in board.budgets.facts()["cpu"]["doing"]
    assert any("cpu: 50 %" in problem for problem in board.budgets.problems(8 * 60_000))
    for minute in range(8, 16):
        board.budgets.look(replace(QUIET, cpu_ms=spent), minute * 60_000)
    assert board.stretched == 1


def test_the_days_bytes_outlive_the_process(tmp_path: Path) -> None:
    board = Board(tmp_path, flash_mb_per_day=1, uplink_mb_per_day=1)
    board.budgets.look(replace(QUIET, written=MIB, sent=MIB // 4), 0)
    board.budgets.keep(0)
    again = Board(tmp_path, flash_mb_per_day=1, uplink_mb_per_day=1)
    again.budgets.look(QUIET, 10)
    assert again.held
    assert again.budgets.facts()["uplink"]["share"] == 0.25


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"flash": 3, "uplink": ["x"]}', b"[" * 9_000, b"\xff", b"1" * 20_000]
)
def test_a_torn_or_hostile_usage_file_is_no_reason_not_to_start(tmp_path: Path, content: bytes) -> None:
    (tmp_path / USAGE_FILE).write_bytes(content)
    board = Board(tmp_path)
    board.budgets.look(QUIET, 0)
    assert board.budgets.facts()["flash"]["used"] == 0


def test_usage_that_can_not_be_written_down_stops_nothing(tmp_path: Path) -> None:
    board = Board(tmp_path / "gone")
    board.budgets.keep(0)
    board.budgets.look(QUIET, 0)
    assert board.budgets.facts()["disk"]["used"] == MIB


def test_a_folder_is_measured_whole_and_links_out_of_it_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "a").write_bytes(b"x" * 1000)
    (tmp_path / "agent.db").write_bytes(b"y" * 500)
    (tmp_path / "elsewhere").symlink_to("/usr")
    assert folder_bytes(tmp_path) == 1500
