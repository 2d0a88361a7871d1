"""A watched folder: each file is one guarded call, moved to done/ or, with the reason, to failed/."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import random
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.bundles import FEATURES, tabular_rows
from driftpost import Guard
from driftpost_agent import watched_folder
from driftpost_agent.array_files import FileRefused, read_inputs
from driftpost_agent.errors import ConfigurationInvalid, RequestRefused
from driftpost_agent.serving import Serving
from driftpost_agent.watched_folder import MAX_TAKEN, FolderRules, WatchedFolder
from driftpost_models.bundle import Bundle
from driftpost_models.runtime import TensorSpec

LIMIT = 1 << 20
FLOATS = (TensorSpec("x", (None, FEATURES), np.dtype(np.float32)),)


class Folder:
    """A folder with a real guard behind it, and a clock that moves by hand."""

    def __init__(self, path: Path, bundle: Bundle, **rules: Any) -> None:
        self.path = path
        self.now = 0.0
        self.guard = Guard(bundle, threaded=False)
        serving = Serving(bundle, self.guard)
        self.refusal: RequestRefused | None = None

        def infer(inputs: Any, name: str) -> Any:
            if self.refusal is not None:
                raise self.refusal
            return serving.infer(inputs, name)

        self.watched = WatchedFolder(
            FolderRules(path, **{"settle_s": 1.0, "max_bytes": LIMIT, **rules}),
            specs=lambda: (self.guard.runtime.inputs, bundle.name, bundle.version),
            infer=infer,
            monotonic=lambda: self.now,
        )

    def put(self, name: str, content: bytes) -> Path:
        (self.path / name).write_bytes(content)
        return self.path / name

    def look(self) -> bool:
        """Two looks, so long apart that what lies there has settled."""
        self.watched.look()
        self.now += 2.0
        return self.watched.look()

    def done(self) -> list[str]:
        return sorted(path.name for path in (self.path / "done").iterdir())

    def failed(self) -> dict[str, str]:
        folder = self.path / "failed"
        return {
            path.name: path.with_name(f"{path.name}.reason").read_text()
            for path in folder.iterdir()
            if path.suffix != ".reason"
        }


@pytest.fixture
def folder(tmp_path: Path, mlp_bundle: Bundle) -> Iterator[Folder]:
    made = Folder(tmp_path / "in", mlp_bundle)
    yield made
    made.guard.close()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def table(rows: Any, header: str = "") -> bytes:
    lines = [",".join(str(value) for value in row) for row in rows]
    return "\n".join([header] * bool(header) + lines).encode() + b"\n"


def test_arrays_archives_and_tables_are_answered_and_moved_with_their_answers(folder: Folder) -> None:
    rows = tabular_rows(3)
    folder.put("a.npy", npy(rows))
    folder.put("b.npz", npz(x=rows[0]))
    folder.put("c.csv", table(rows, ",".join(f"f{column}" for column in range(FEATURES))))
    folder.look()
    assert folder.done() == ["a.npy", "a.npy.json", "b.npz", "b.npz.json", "c.csv", "c.csv.json"]
    assert folder.watched.counts.done == 3
    answers = {
        name: json.loads((folder.path / "done" / f"{name}.json").read_text())
        for name in ("a.npy", "b.npz", "c.csv")
    }
    expected = folder.guard.runtime.run({"x": rows})["p"]
    np.testing.assert_allclose(answers["a.npy"]["outputs"][0]["data"], expected.ravel(), rtol=1e-5)
    np.testing.assert_allclose(answers["b.npz"]["outputs"][0]["data"], expected[0], rtol=1e-5)
    np.testing.assert_allclose(answers["c.csv"]["outputs"][0]["data"], expected.ravel(), rtol=1e-4)
    assert answers["a.npy"]["parameters"]["verdict"] == "ok"
    assert answers["a.npy"]["id"] == "a.npy"
    assert folder.guard.recorder.open_rows == 7


def test_an_empty_cell_is_a_missing_value_and_gets_its_verdict(folder: Folder) -> None:
    row = tabular_rows(1)[0].tolist()
    row[4] = ""
    folder.put("a.csv", table([row]))
    folder.look()
    answer = json.loads((folder.path / "done" / "a.csv.json").read_text())
    assert answer["parameters"]["verdict_reasons"].startswith("nonfinite_input")


def test_a_file_that_is_still_being_written_waits_until_it_has_settled(folder: Folder) -> None:
    content = npy(tabular_rows(2))
    path = folder.put("a.npy", content[:100])
    folder.watched.look()
    for size in range(200, len(content), 60):
        folder.now += 0.9
        path.write_bytes(content[:size])
        folder.watched.look()
    assert folder.done() == []
    assert folder.watched.counts.waiting == 1
    path.write_bytes(content)
    folder.look()
    assert folder.done() == ["a.npy", "a.npy.json"]


def test_a_file_renamed_into_place_is_taken_at_once_where_the_owner_says_so(
    tmp_path: Path, mlp_bundle: Bundle
) -> None:
    folder = Folder(tmp_path / "in", mlp_bundle, settle_s=0.0)
    folder.put(".a.npy.part", npy(tabular_rows(1)))
    folder.watched.look()
    assert folder.done() == []
    (folder.path / ".a.npy.part").rename(folder.path / "a.npy")
    folder.watched.look()
    assert folder.done() == ["a.npy", "a.npy.json"]
    folder.guard.close()


def test_what_is_no_input_fails_with_its_reason_and_holds_nothing_up(folder: Folder) -> None:
    folder.put("cut.npy", npy(tabular_rows(4))[:-7])
    folder.put("text.npy", b"hello")
    folder.put("empty.npz", b"")
    folder.put("letters.csv", b"a,b\n1,x\n")
    folder.put("ragged.csv", b"1,2\n3\n")
    folder.put("wide.npy", npy(np.zeros((1, 7), np.float32)))
    folder.put("double.npy", npy(np.zeros((1, FEATURES))))
    folder.put("named.npz", npz(y=tabular_rows(1)))
    folder.put("good.npy", npy(tabular_rows(1)))
    folder.look()
    reasons = folder.failed()
    assert "cut short" in reasons["cut.npy"]
    assert "no array" in reasons["text.npy"]
    assert "no archive" in reasons["empty.npz"]
    assert "no number" in reasons["letters.csv"]
    assert "columns" in reasons["ragged.csv"]
    assert reasons["wide.npy"]
    assert "float64" in reasons["double.npy"]
    assert reasons["named.npz"]
    assert folder.done() == ["good.npy", "good.npy.json"]
    assert folder.watched.counts.failed == 8
    assert [path for path in folder.path.iterdir() if path.is_file()] == []


def test_a_huge_file_is_not_read(folder: Folder) -> None:
    path = folder.put("huge.npy", b"")
    os.truncate(path, 3 << 30)
    folder.look()
    assert "more than the 1048576 allowed" in folder.failed()["huge.npy"]


def test_links_pipes_folders_and_other_names_are_left_alone(folder: Folder, tmp_path: Path) -> None:
    secret = tmp_path / "secret.npy"
    secret.write_bytes(npy(tabular_rows(1)))
    (folder.path / "link.npy").symlink_to(secret)
    os.mkfifo(folder.path / "pipe.npy")
    (folder.path / "folder.npy").mkdir()
    folder.put("notes.txt", b"mine")
    folder.put(".hidden.npy", npy(tabular_rows(1)))
    folder.look()
    assert folder.done() == []
    assert folder.failed() == {}
    assert (folder.path / "link.npy").is_symlink()


@pytest.mark.parametrize(
    "name",
    [
        "a\nb.npy",
        "\x1b[31mred.npy",
        "-rf.npy",
        "$(reboot).npy",
        "x" * 251 + ".npy",
        "ü" * 120 + ".npy",
        " .npy",
        "con.NPY",
    ],
)
def test_hostile_names_are_names_like_any_other(
    folder: Folder, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder.put(name, npy(tabular_rows(1)))
    folder.look()
    assert folder.watched.counts.done == 1
    (answer,) = (folder.path / "done").glob("*.json")
    assert json.loads(answer.read_text())["id"].isprintable()
    folder.put(name, b"no array")
    folder.look()
    assert folder.watched.counts.failed == 1
    for record in caplog.records:
        assert str(getattr(record, "file", "")).isprintable()


def test_a_name_that_is_no_text_at_all_is_taken_too(folder: Folder) -> None:
    raw = os.fsencode(folder.path) + b"/\xff\xfe.npy"
    with Path(os.fsdecode(raw)).open("wb") as file:
        file.write(npy(tabular_rows(1)))
    folder.look()
    assert folder.watched.counts.done == 1


def test_a_name_that_came_before_gets_a_number(folder: Folder) -> None:
    for _ in range(3):
        folder.put("a.npy", npy(tabular_rows(1)))
        folder.look()
    assert [name for name in folder.done() if name.endswith(".npy")] == ["a-1.npy", "a-2.npy", "a.npy"]


def test_while_the_model_can_not_be_asked_files_keep_their_place(folder: Folder) -> None:
    folder.put("a.npy", npy(tabular_rows(1)))
    folder.refusal = RequestRefused("the model restarts", 503)
    folder.look()
    assert folder.done() == []
    assert folder.failed() == {}
    assert folder.watched.counts.problem == "the model restarts"
    folder.refusal = None
    folder.look()
    assert folder.done() == ["a.npy", "a.npy.json"]


def test_a_model_that_is_not_loaded_yet_does_not_end_the_thread(tmp_path: Path, mlp_bundle: Bundle) -> None:
    folder = Folder(tmp_path / "in", mlp_bundle)
    known = folder.watched._specs

    def unknown() -> Any:
        raise RequestRefused("the model is not loaded yet; try again", 503)

    folder.watched._specs = unknown
    folder.put("a.npy", npy(tabular_rows(1)))
    assert not folder.look()
    assert folder.watched.counts.problem == "the model is not loaded yet; try again"
    exit_event = threading.Event()
    thread = threading.Thread(target=folder.watched.run, args=(exit_event,), name="folder-under-test")
    thread.start()
    try:
        exit_event.wait(0.05)
        assert folder.watched.counts.problem == "the model is not loaded yet; try again"
        folder.watched._specs = known
        for _ in range(500):
            if folder.watched.counts.done:
                break
            exit_event.wait(0.01)
    finally:
        exit_event.set()
        thread.join(5)
    assert folder.done() == ["a.npy", "a.npy.json"]
    assert folder.watched.counts.problem == ""
    folder.guard.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_file_that_can_not_be_moved_is_answered_once_and_moved_when_there_is_room(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    folder.put("a.npy", npy(tabular_rows(1)))
    folder.put("b.npy", npy(tabular_rows(1)))
    write = watched_folder._write

    def full(path: Path, content: bytes) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(watched_folder, "_write", full)
    for _ in range(5):
        folder.now += 2.0
        with contextlib.suppress(OSError):
            folder.watched.look()
    assert folder.guard.recorder.rows_recorded == 1, "neither once more, nor one after the other"
    assert folder.done() == []
    monkeypatch.setattr(watched_folder, "_write", write)
    folder.look()
    assert folder.done() == ["a.npy", "a.npy.json", "b.npy", "b.npy.json"]
    assert folder.guard.recorder.rows_recorded == 2
    assert folder.watched.counts.done == 2


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_file_that_can_not_be_read_holds_nobody_up(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    folder.put("a.npy", npy(tabular_rows(1)))
    folder.put("b.npy", npy(tabular_rows(1)))
    opened = os.open

    def unreadable(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).endswith("/a.npy"):
            raise OSError(code, os.strerror(code))
        return opened(path, *rest, **more)

    monkeypatch.setattr(os, "open", unreadable)
    folder.look()
    assert folder.failed() == {"a.npy": f"the agent can't read it: {os.strerror(code)}\n"}
    assert folder.done() == ["b.npy", "b.npy.json"]


def test_a_file_that_may_not_be_moved_away_is_answered_once_and_holds_nobody_up(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.put("a.npy", npy(tabular_rows(1)))
    replace = Path.replace

    def sticky(path: Path, target: Path) -> Path:
        if path.name == "a.npy":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", sticky)
    for number in range(3):
        folder.put(f"b{number}.npy", npy(tabular_rows(1)))
        assert not folder.look()
        assert folder.watched.counts.problem
    assert folder.guard.recorder.rows_recorded == 4
    assert folder.watched.counts.done == 3
    folder.put("a.npy", npy(tabular_rows(2)))
    folder.look()
    assert folder.guard.recorder.rows_recorded == 6, "another file under the same name is another file"


@pytest.mark.parametrize("name", ["done", "failed"])
def test_a_link_in_the_place_of_done_or_failed_is_neither_filled_nor_emptied(
    tmp_path: Path, mlp_bundle: Bundle, name: str
) -> None:
    folder = Folder(tmp_path / "in", mlp_bundle, keep_bytes=0)
    store = tmp_path / "store"
    store.mkdir()
    (store / "agent.db").write_bytes(b"windows")
    (folder.path / name).rmdir()
    (folder.path / name).symlink_to(store)
    folder.put("a.npy", npy(tabular_rows(1)))
    for _ in range(3):
        folder.now += 20
        with pytest.raises(NotADirectoryError, match="is a link"):
            folder.watched.look()
    assert [path.name for path in store.iterdir()] == ["agent.db"]
    (folder.path / name).unlink()
    folder.look()
    assert folder.watched.counts.done == 1, "a folder that was removed is made again"
    folder.guard.close()


def test_a_flood_of_files_is_taken_in_slices_the_oldest_first(folder: Folder) -> None:
    content = npy(tabular_rows(1))
    for number in range(MAX_TAKEN + 5):
        path = folder.put(f"{number:03}.npy", content)
        os.utime(path, ns=(0, (1_000 - number) * 10**9))
    assert folder.look()
    assert folder.watched.counts.done == MAX_TAKEN
    assert (folder.path / "000.npy").exists(), "the youngest waits"
    assert not folder.watched.look()
    assert folder.watched.counts.done == MAX_TAKEN + 5


def test_done_and_failed_stay_within_their_size_and_nothing_is_kept_where_nothing_is_wanted(
    tmp_path: Path, mlp_bundle: Bundle
) -> None:
    folder = Folder(tmp_path / "in", mlp_bundle, keep_bytes=4_000, answers=False)
    for number in range(40):
        folder.put(f"{number}.npy", npy(tabular_rows(1)))
        folder.put(f"{number}.csv", b"x")
        folder.now += 20
        folder.look()
    folder.now += 20
    folder.look()
    for name in ("done", "failed"):
        sizes = [path.stat().st_size for path in (folder.path / name).iterdir()]
        assert 0 < sum(sizes) <= 4_000
    folder.guard.close()
    none = Folder(tmp_path / "none", mlp_bundle, keep_bytes=0)
    none.put("a.npy", npy(tabular_rows(1)))
    none.look()
    assert none.done() == []
    assert none.watched.counts.done == 1
    none.guard.close()


def test_a_folder_that_is_taken_away_is_waited_for_and_the_thread_stops_in_time(folder: Folder) -> None:
    exit_event = threading.Event()
    thread = threading.Thread(target=folder.watched.run, args=(exit_event,), name="folder-under-test")
    thread.start()
    try:
        folder.path.rename(folder.path.with_name("away"))
        for _ in range(500):
            if folder.watched.counts.problem:
                break
            exit_event.wait(0.01)
        assert folder.watched.counts.problem
        folder.path.with_name("away").rename(folder.path)
        for _ in range(500):
            if not folder.watched.counts.problem:
                break
            exit_event.wait(0.01)
        assert not folder.watched.counts.problem
    finally:
        exit_event.set()
        thread.join(5)
    assert not thread.is_alive()


def test_a_folder_that_can_not_be_made_is_a_mistake_in_the_configuration(
    tmp_path: Path, mlp_bundle: Bundle
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationInvalid, match=r"folder\.path"):
        Folder(tmp_path / "file" / "in", mlp_bundle)


# What files may claim.


def header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        header("(1000000000000, 30)"),
        header("(100000, 30)"),
        header("(1, 30)", "'|O'"),
        header("(1, 30)", "'<U5'"),
        header("(-1, 30)"),
        header("(" + "1," * 40 + ")"),
        header("(1, 30)", "__import__('os')"),
        b"\x93NUMPY\x03\x00" + b"\0" * 20,
        b"\x93NUMPY",
        b"\x93NUMPY\x01\x00\xff\xff",
        header("("),
        header("(" * 200),
        header(f"({10**30}, 0)"),
        header(f"(-{10**30}, 0)"),
        header("(True, 30)") + bytes(120),
        header("(1, 30)", "('<f4',)") + bytes(120),
        header("(1, 30)", "[()]"),
    ],
)
def test_a_header_is_not_believed(content: bytes) -> None:
    with pytest.raises(FileRefused):
        read_inputs("a.npy", content, FLOATS, LIMIT)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x.npy", content)
    with pytest.raises(FileRefused):
        read_inputs("a.npz", archive.getvalue(), FLOATS, LIMIT)


def test_an_archive_that_unpacks_to_more_than_is_allowed_is_refused_and_so_are_foreign_members() -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", header("(1, 30)") + bytes(50 << 20))
    assert len(bomb.getvalue()) < LIMIT
    with pytest.raises(FileRefused, match="unpacks to more"):
        read_inputs("a.npz", bomb.getvalue(), FLOATS, LIMIT)
    foreign = io.BytesIO()
    with zipfile.ZipFile(foreign, "w") as file:
        file.writestr("../../etc/passwd", b"x")
    with pytest.raises(FileRefused, match="no array"):
        read_inputs("a.npz", foreign.getvalue(), FLOATS, LIMIT)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_an_archive_with_any_damage_is_read_or_refused(method: int) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", method) as file:
        file.writestr("x.npy", npy(tabular_rows(1)))
    whole, draw, refused = archive.getvalue(), random.Random(7), 0
    for _ in range(1_500):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.choice([draw.randrange(len(whole)), -1 - draw.randrange(80)])] = draw.randrange(256)
        try:
            read_inputs("a.npz", bytes(damaged), FLOATS, LIMIT)
        except FileRefused:
            refused += 1
    assert refused > 500


def test_a_directory_of_a_million_members_is_not_read() -> None:
    one = io.BytesIO()
    with zipfile.ZipFile(one, "w") as file:
        file.writestr("x.npy", b"")
    content = one.getvalue()
    begin = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    entries = content[begin:end] * 10_000
    tail = bytearray(content[end:])
    tail[12:16] = len(entries).to_bytes(4, "little")
    flood = content[:begin] + entries + bytes(tail)
    tracemalloc.start()
    try:
        with pytest.raises(FileRefused, match="about 10000 members"):
            read_inputs("a.npz", flood, FLOATS, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_table_takes_no_more_than_a_few_times_its_size_in_memory() -> None:
    row = b",".join([b"7"] * FEATURES) + b"\n"
    content = row * (LIMIT // len(row))
    tracemalloc.start()
    try:
        found = read_inputs("a.csv", content, FLOATS, 4 * LIMIT)["x"]
        assert tracemalloc.get_traced_memory()[1] < 10 * LIMIT
        assert found.shape == (LIMIT // len(row), FEATURES)
        with pytest.raises(FileRefused, match="a line has more than"):
            read_inputs("a.csv", b"11," * 3 * LIMIT, FLOATS, 8 * LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 20 * LIMIT
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"\xff\xfe1,2", b"1,2\n\x00", b'"1\n', b"f0,f1\n", b"1" * 200_000]
)
def test_a_table_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(FileRefused):
        read_inputs("a.csv", content, FLOATS, 1_000)


def test_a_table_for_whole_numbers_holds_whole_numbers_within_their_range() -> None:
    codes = (TensorSpec("x", (1, 2), np.dtype(np.int8)),)
    assert read_inputs("a.csv", b"-128,127\n", codes, LIMIT)["x"].tolist() == [[-128, 127]]
    for text in (b"1.5,2\n", b"128,0\n", b",1\n"):
        with pytest.raises(FileRefused):
            read_inputs("a.csv", text, codes, LIMIT)


def test_a_model_with_several_inputs_is_given_an_archive() -> None:
    two = (*FLOATS, TensorSpec("h", (1, 4), np.dtype(np.float32)))
    with pytest.raises(FileRefused, match=r"give an \.npz with x, h"):
        read_inputs("a.npy", npy(tabular_rows(1)), two, LIMIT)
    found = read_inputs("a.npz", npz(x=tabular_rows(1), h=np.zeros(4, np.float32)), two, LIMIT)
    assert {name: array.shape for name, array in found.items()} == {"x": (1, FEATURES), "h": (1, 4)}
