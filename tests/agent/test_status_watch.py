"""`driftpost agent status --watch`: the page again and again, and what went on in between."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.test_cli import document
from driftpost_agent.errors import DaemonUnreachable
from driftpost_agent.status_table import render
from driftpost_agent.status_watch import follow


def at(seconds: float, calls: int) -> dict[str, Any]:
    inferences = {"calls": calls, "rows": 2 * calls, "reasons": {}, "guard_us": 0.0, "model_us": 0.0}
    return document(uptime_s=seconds, inferences=inferences, incarnation=7)


def test_each_look_tells_what_went_on_since_the_one_before(capsys: pytest.CaptureFixture[str]) -> None:
    looks = iter([at(10.0, 100), at(12.0, 150)])
    waits: list[float] = []
    follow(lambda: next(looks), 2.0, sleep=waits.append, times=2)
    out = capsys.readouterr().out
    assert waits == [2.0]
    assert out.count("FAILING") == 2
    assert "since the last look: 25.0 calls/s, 50.0 rows/s, 0 windows" in out


def test_an_agent_that_is_away_is_waited_for_and_its_restart_is_no_rate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers: list[Any] = [at(10.0, 100), DaemonUnreachable("http://x", "refused"), at(1.0, 0)]

    def fetch() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    follow(fetch, 1.0, sleep=lambda _: None, times=3)
    out = capsys.readouterr().out
    assert "no agent answers" in out
    assert "since the last look" not in out


def test_programs_get_a_document_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    follow(lambda: at(1.0, 1), 1.0, as_json=True, sleep=lambda _: None, times=3)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["incarnation"] for line in lines] == [7, 7, 7]


def test_budgets_and_the_board_stand_on_the_page() -> None:
    budgets = {
        "memory": {
            "setting": "budget.memory_mb",
            "unit": "bytes",
            "used": 50e6,
            "budget": 40e6,
            "share": 1.25,
            "doing": "caches are given back",
        },
        "cpu": {
            "setting": "budget.cpu_percent",
            "unit": "% of one core",
            "used": 3.0,
            "budget": 100.0,
            "share": 0.03,
            "doing": "",
        },
    }
    board = {
        "temperature": {"value": 71.2, "unit": "degC", "meaning": "", "course": []},
        "undervoltage": {"value": 1.0, "unit": "", "meaning": "", "course": []},
        "throttled": {"value": 0.0, "unit": "", "meaning": "", "course": []},
        "clock_share": {"value": 0.4, "unit": "", "meaning": "", "course": []},
        "load": {"value": 0.25, "unit": "", "meaning": "", "course": []},
    }
    page = render(document(budgets=budgets, board=board))
    assert "125%  50.0 MB of 40.0 MB" in page
    assert "! caches are given back (budget.memory_mb)" in page
    assert "3%  3 of 100 % of one core" in page
    assert "temperature 71 degC" in page
    assert "undervoltage" in page
    assert "throttled" not in page
    assert "clock 40%" in page
