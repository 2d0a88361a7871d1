"""A file system that turns read-only: inferences are answered, and what they said outlives the repair."""

from __future__ import annotations

from pathlib import Path

from agent.bundles import tabular_rows
from agent.daemons import Agent
from faults.books import read_books
from faults.failing_card import card


def test_a_file_system_that_turns_read_only_in_mid_run_costs_no_row(tmp_path: Path, bundles: Path) -> None:
    rows, answered = tabular_rows(4), 0
    with card(tmp_path) as medium:
        store = medium.path / "agent.db"
        agent = Agent(
            tmp_path,
            bundles / "mlp.bundle",
            bundles / "team.pub",
            windows={"seconds": 0.2, "flush_seconds": 0.1},
            store={"path": store, "reserve_mb": 1},
        )

        def ask() -> bool:
            nonlocal answered
            assert agent.infer("mlp", "x", rows)[0] == 200
            answered += len(rows)
            return True

        try:
            agent.start()
            ask()
            agent.wait(lambda: agent.status()["windows"]["recorded"] > 0, "a window is stored")
            medium.turn_read_only()
            agent.wait(lambda: ask() and agent.status()["windows"]["waiting_for_store"] > 2, "windows wait")
            status = agent.status()
            assert status["health"]["state"] == "degraded"
            assert status["store"]["problem"] != ""
            # The kernel lets nobody write there before it is mounted anew, which takes the agent's end.
            assert agent.stop() < 10
            medium.unmount()
            assert medium.mount()
            agent.start()
            agent.wait(lambda: agent.status()["windows"]["rows"]["recorded"] == answered, "all is stored")
            assert agent.stop() < 10
        finally:
            if agent.process is not None and agent.process.poll() is None:
                agent.kill()
        books = read_books(store)
        assert (books.recorded, books.lost) == (answered, 0)
