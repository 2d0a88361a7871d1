"""Findings about the agent itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clocks import ManualClock
from driftpost_agent.runtime_findings import MODEL_CRASHED, MODEL_FAULT, RuntimeFindings
from driftpost_agent.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "agent.db", clock=ManualClock()) as opened:
        yield opened


def test_each_kind_stands_at_most_once_and_clears_under_its_own_name(store: Store) -> None:
    findings = RuntimeFindings(store, ManualClock())
    findings.raise_(MODEL_CRASHED, "ended by SIGSEGV", "b" * 64)
    findings.raise_(MODEL_CRASHED, "ended by SIGSEGV again")
    findings.raise_(MODEL_FAULT, "differs")
    assert store.finding_counts() == (2, 2)
    assert findings.stands(MODEL_CRASHED)
    findings.clear(MODEL_CRASHED, "ran for a minute")
    findings.clear(MODEL_CRASHED, "twice does nothing")
    assert store.finding_counts() == (2, 1)
    findings.raise_(MODEL_CRASHED, "once more")
    assert store.finding_counts() == (3, 2)


def test_what_an_earlier_start_left_standing_is_settled(store: Store) -> None:
    RuntimeFindings(store, ManualClock()).raise_(MODEL_CRASHED, "ended by SIGSEGV")
    later = RuntimeFindings(store, ManualClock(5_000))
    later.raise_(MODEL_FAULT, "differs")
    later.settle()
    assert [finding["kind"] for finding in store.findings(standing=True)] == [MODEL_FAULT]


def test_a_long_text_is_cut_to_what_a_message_holds(store: Store) -> None:
    RuntimeFindings(store, ManualClock()).raise_(MODEL_CRASHED, "x" * 100_000)
    assert len(store.findings()[0]["text"]) == 1000
