"""A full disk costs resolution and nothing else, also when the agent has to start on it."""

from __future__ import annotations

from pathlib import Path

from agent.bundles import tabular_rows
from agent.clocks import ManualClock
from agent.daemons import running
from driftpost_agent.row_mark import RowMark
from driftpost_agent.store import Store
from faults.books import read_books
from faults.full_disk import fill, fill_the_disk, small_disk


def test_a_full_disk_costs_resolution_and_nothing_else(tmp_path: Path, bundles: Path) -> None:
    outcome = fill_the_disk(tmp_path, bundles, times=1)
    assert outcome.lost == "nothing"


def test_an_agent_starts_on_a_full_disk_with_the_room_that_was_held_back(
    tmp_path: Path, bundles: Path
) -> None:
    with small_disk(tmp_path / "state") as disk:
        store = disk / "agent.db"
        settings = {"windows": {"seconds": 0.2}, "store": {"path": store, "reserve_mb": 1}}
        with running(tmp_path, bundles / "mlp.bundle", bundles / "team.pub", **settings) as agent:
            agent.infer("mlp", "x", tabular_rows(3))
            agent.wait((disk / "reserve").exists, "room is held back")
            agent.kill()
            fill(disk)
            agent.start()
            assert agent.infer("mlp", "x", tabular_rows(3))[0] == 200
            assert not (disk / "reserve").exists()
            agent.stop()
        assert read_books(store).recorded + read_books(store).lost == 6


def test_a_store_that_lies_on_a_full_disk_opens_with_its_reserve(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state") as disk:
        path = disk / "agent.db"
        Store.open(path, clock=ManualClock(), row_mark=RowMark(tmp_path / "none")).close()
        (disk / "reserve").write_bytes(bytes(1 << 20))
        fill(disk)
        with Store.open(path, clock=ManualClock(), row_mark=RowMark(tmp_path / "none")) as store:
            assert store.incarnation >> 32 == 2
