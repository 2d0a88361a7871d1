"""What is kept over a kill is the store's own: nobody else can guess it, enter it or keep it alive."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agent.clocks import ManualClock
from driftpost_agent import open_window
from driftpost_agent.shared_memory import SharedFolder, lock_file, open_shared, remove_orphans
from driftpost_agent.store import Store


def used(store: Path, above: Path) -> Path:
    """A folder that an agent used and did not remove, days ago."""
    folder = SharedFolder.open(store, above)
    assert open_shared(folder.path / "rows", 8) is not None
    folder.close(forget=False)
    old = time.time() - 10**6
    os.utime(folder.path / "store", (old, old))
    return folder.path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state" / "agent.db"


@pytest.fixture
def above(tmp_path: Path) -> Path:
    (tmp_path / "memory").mkdir()
    return tmp_path / "memory"


def test_a_store_finds_its_folder_again_and_only_its_user_may_enter(store: Path, above: Path) -> None:
    folder = used(store, above)
    assert used(store, above) == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    assert lock_file(store).stat().st_mode & 0o777 == 0o600


def test_the_name_can_not_be_told_from_the_path(store: Path, above: Path) -> None:
    first = used(store, above)
    lock_file(store).unlink()
    assert used(store, above) != first


def test_the_folder_of_a_store_that_is_gone_is_removed_by_the_next_start_of_any(
    store: Path, above: Path, tmp_path: Path
) -> None:
    folder = used(store, above)
    remove_orphans(above)
    assert folder.exists(), "its store is there"
    lock_file(store).unlink()
    SharedFolder.open(tmp_path / "other.db", above).close(forget=True)
    assert list(above.iterdir()) == []


def test_a_folder_in_use_and_one_that_was_used_just_now_stay(store: Path, above: Path) -> None:
    folder = SharedFolder.open(store, above)
    lock_file(store).unlink()
    old = time.time() - 10**6
    os.utime(folder.path / "store", (old, old))
    remove_orphans(above)
    assert folder.path.exists(), "in use"
    folder.close(forget=False)
    os.utime(folder.path / "store")
    remove_orphans(above)
    assert folder.path.exists(), "perhaps the store is only being moved"


def test_what_is_not_ours_alone_is_neither_used_nor_removed(store: Path, above: Path) -> None:
    folder = used(store, above)
    folder.chmod(0o777)
    shared = SharedFolder.open(store, above)
    assert open_shared(shared.path / "rows", 8) is None
    shared.close(forget=True)
    lock_file(store).unlink()
    remove_orphans(above)
    assert (folder / "rows").exists()


def test_somebody_else_s_folder_is_not_used_under_any_name(store: Path, above: Path) -> None:
    used(store, above).chmod(0o777)
    for name in ("none", "driftpost-none"):
        (above / name).mkdir(mode=0o777)
    shared = SharedFolder.open(store, above)
    assert open_shared(shared.path / "rows", 8) is None
    assert open_window.left_behind(shared.path, 1, 0) == []
    shared.close(forget=True)


def test_a_link_in_the_folder_s_place_is_not_followed(store: Path, above: Path, tmp_path: Path) -> None:
    folder = used(store, above)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    shared = SharedFolder.open(store, above)
    assert open_shared(shared.path / "rows", 8) is None
    shared.close(forget=True)
    lock_file(store).unlink()
    remove_orphans(above)
    assert (tmp_path / "elsewhere" / "rows").exists()


@pytest.mark.parametrize("content", [b"", b"left by a power cut", b"x" * 10_000])
def test_a_claim_without_a_token_gets_one(store: Path, above: Path, content: bytes) -> None:
    lock_file(store).write_bytes(content)
    assert used(store, above) == used(store, above)


def test_without_shared_memory_a_store_opens_and_counts_nothing_as_lost(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTPOST_SHARED_MEMORY", str(tmp_path / "missing"))
    for _ in range(2):
        with Store.open(store, clock=ManualClock()) as opened:
            opened.row_mark.add(40)
            assert opened.outbox_ledger().lost_rows_at_start == 0
    assert not (tmp_path / "missing").exists()
