"""Recordings that a person gives: what is read, what is left out, what is refused and how."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from driftpost_models.errors import TableRefused
from driftpost_models.replay import tables
from driftpost_models.replay.columns import UNKNOWN, Encoder, Wishes, learn
from driftpost_models.replay.tables import open_table
from driftpost_sketches.schema import Role, StreamKind


def _silent(_step: str, _done: int, _total: int) -> None:
    """No one watches."""


def _write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def _csv(path: Path, columns: dict[str, list[object]]) -> Path:
    lines = [",".join(columns)] + [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    return _write(path, "\n".join(lines) + "\n")


def _learned(path: Path, **wishes: object):
    table = open_table(path)
    return learn(table, table, Wishes(**wishes), _silent)  # type: ignore[arg-type]


NUMBERS = [round(float(x), 3) for x in np.random.default_rng(0).normal(size=200)]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "", "is empty; its first line must name the columns"),
        ("a.csv", "\n\n", "is empty"),
        ("a.csv", "1,2\n3,4\n", "has no header line"),
        ("a.csv", "a;b\n1;2\n", "separated by semicolons"),
        ("a.csv", "a\tb\n1\t2\n", "separated by tabs"),
        ("a.csv", "a,a\n1,2\n", "two columns called 'a'"),
        ("a.csv", f"{'n' * 201},b\n1,2\n", "longer than 200 characters"),
        ("a.xls", "a\n1\n", "unknown kind"),
        ("a.npz", "no archive", "can not be read"),
        ("a.npy", "no array", "can not be read"),
    ],
)
def test_files_that_are_no_tables_are_refused_with_a_remedy(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    with pytest.raises(TableRefused, match=said):
        open_table(_write(tmp_path / name, text))


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(TableRefused, match="does not exist"):
        open_table(tmp_path / "none.csv")
    with pytest.raises(TableRefused, match="is a folder"):
        open_table(tmp_path)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a,b\n1,2\n\n3\n", 4, "1 fields, the header has 2"),
        ("a,b\n1,2,3\n", 2, "begins with its number"),
        ('a,b\n1,"2\n' + "x" * 140_000, 3, "quotation mark left open"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, text: str, line: int, said: str) -> None:
    with pytest.raises(TableRefused, match=said) as refused:
        list(open_table(_write(tmp_path / "a.csv", text)).blocks())
    assert refused.value.line == line
    assert f"a.csv, line {line}: " in str(refused.value)


def test_another_encoding_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", "a,b\n" + "1,2\n" * 20_000 + "1,Köln\n", "latin-1")
    with pytest.raises(TableRefused, match=r"not UTF-8 \(byte 0xf6.*iconv"):
        list(open_table(path).blocks())


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_LINE", 1000)
    with pytest.raises(TableRefused, match="more than 1,000 characters"):
        list(open_table(_write(tmp_path / "a.csv", "a\n" + "1" * 5000)).blocks())


def test_a_byte_order_mark_quotes_and_blank_lines_are_read_over(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", '\ufeff"a", b \r\n1,"x, y"\r\n\r\n2,z\r\n')
    (block,) = open_table(path).blocks()
    assert open_table(path).names == ("a", "b")
    assert block.columns == {"a": ("1", "2"), "b": ("x, y", "z")}


def test_a_long_csv_is_read_at_flat_memory(tmp_path: Path) -> None:
    short = _write(tmp_path / "short.csv", "a,b\n" + "0.123456,7\n" * 10_000)
    long = _write(tmp_path / "long.csv", "a,b\n" + "0.123456,7\n" * 200_000)
    peaks = []
    for path in (short, long):
        tracemalloc.start()
        rows = sum(block.rows for block in open_table(path).blocks())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert rows == 200_000
    assert peaks[1] < 1.2 * peaks[0]


def test_arrays_become_columns(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz", x=np.arange(3.0), grid=np.ones((3, 2)), word=np.array(["a", "b", "c"]),
        rate=np.array(16_000),
    )  # fmt: skip
    table = open_table(tmp_path / "a.npz")
    assert table.names == ("x", "grid0", "grid1", "word")
    assert table.notes == ["a.npz: 'rate' is a single value and is left out"]
    (block,) = table.blocks()
    assert block.columns["word"] == ["a", "b", "c"]
    np.testing.assert_array_equal(block.columns["x"], [0, 1, 2])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "holds no arrays"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, "differ in length.*'a' has 3 rows, 'b' 4"),
        ({"a": np.zeros((3, 2, 2))}, "replayed with --bundle"),
        ({"a": np.zeros(3, complex)}, "neither numbers nor texts"),
        ({"a": np.array([{}, {}])}, "can not be read"),
        ({"a0": np.zeros(3), "a": np.zeros((3, 1))}, "two columns called 'a0'"),
    ],
)
def test_arrays_that_are_no_table_are_refused(tmp_path: Path, arrays: dict, said: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(TableRefused, match=said):
        open_table(tmp_path / "a.npz")


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MAX_ARRAY_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(2 << 20))
    with pytest.raises(TableRefused, match="unpacks to"):
        open_table(tmp_path / "a.npz")


def test_columns_are_what_their_values_say(tmp_path: Path) -> None:
    rows = range(200)
    path = _csv(
        tmp_path / "a.csv",
        {
            "row": list(rows),
            "time": [f"2026-03-01T00:{i // 60:02d}:{i % 60:02d}Z" for i in rows],
            "serial": [f"k{i}" for i in rows],
            "level": NUMBERS,
            "mode": [i % 3 for i in rows],
            "place": [("hall", "roof")[i % 2] for i in rows],
            "fixed": [4.5] * 200,
            "empty": [""] * 200,
        },
    )
    learned = _learned(path)
    kinds = {stream.name: stream.kind for stream in learned.schema.streams}
    assert kinds == {
        "level": StreamKind.NUMERIC,
        "mode": StreamKind.CATEGORICAL,
        "place": StreamKind.CATEGORICAL,
        "fixed": StreamKind.NUMERIC,
    }
    assert learned.schema.streams[2].labels == ("hall", "roof")
    assert learned.row_seconds == 1.0
    notes = " | ".join(learned.notes)
    for said in (
        "row: only ever rises", "time: points in time; left out", "serial: nearly every row",
        "mode: 3 different whole numbers", "place: 2 different texts",
        "fixed: constant in the reference (4.5)",
        "empty: no value",
    ):  # fmt: skip
        assert said in notes


def test_a_user_may_know_better(tmp_path: Path) -> None:
    path = _csv(
        tmp_path / "a.csv",
        {"mode": [i % 3 for i in range(200)], "code": [i % 12 for i in range(200)], "level": NUMBERS},
    )
    learned = _learned(
        path, numeric=frozenset({"mode"}), categorical=frozenset({"code"}), ignore=frozenset({"level"})
    )
    assert [(s.name, s.kind) for s in learned.schema.streams] == [
        ("mode", StreamKind.NUMERIC),
        ("code", StreamKind.CATEGORICAL),
    ]
    with pytest.raises(TableRefused, match="no column 'levle'"):
        _learned(path, ignore=frozenset({"levle"}))
    with pytest.raises(TableRefused, match="both categorical and numeric"):
        _learned(path, numeric=frozenset({"mode"}), categorical=frozenset({"mode"}))


def test_a_stray_text_among_numbers_is_refused_until_the_user_says_what_it_means(tmp_path: Path) -> None:
    values: list[object] = [*NUMBERS]
    values[17] = "ERR"
    path = _csv(tmp_path / "a.csv", {"level": values})
    with pytest.raises(TableRefused, match=r"'ERR' in row 18.*--numeric level"):
        _learned(path)
    learned = _learned(path, numeric=frozenset({"level"}))
    assert np.isnan(learned.values[:, 0]).sum() == 1
    assert "level: 1 cells of a.csv are no numbers" in " ".join(learned.notes)


def test_live_cells_that_do_not_fit_are_counted_not_guessed(tmp_path: Path) -> None:
    reference = _csv(
        tmp_path / "a.csv",
        {"level": NUMBERS, "mode": [i % 3 for i in range(200)], "place": ["hall", "roof"] * 100},
    )
    live = _csv(
        tmp_path / "b.csv",
        {"place": ["roof", "cave", ""], "level": ["x", "", "1.5"], "mode": ["2", "on", "NA"]},
    )
    tables_ = open_table(reference), open_table(live)
    learned = learn(*tables_, Wishes(), _silent)
    encoder = Encoder(tables_[1], learned.columns)
    (block,) = tables_[1].blocks()
    expected = [[np.nan, 2, 1], [np.nan, UNKNOWN, UNKNOWN], [1.5, np.nan, np.nan]]
    np.testing.assert_array_equal(encoder.encode(block), expected)
    notes = " | ".join(encoder.notes())
    assert "level: 1 cells of b.csv are no numbers" in notes
    assert (
        "place: 1 cells of b.csv hold texts that the reference does not have (the first is 'cave' in row 2)"
        in notes
    )
    assert "mode: 1 cells" in notes


def test_headers_that_differ_say_which_columns(tmp_path: Path) -> None:
    reference = _csv(tmp_path / "a.csv", {"level": NUMBERS, "rpm": NUMBERS})
    live = _csv(tmp_path / "b.csv", {"level": [1.0], "speed": [2.0]})
    with pytest.raises(TableRefused, match=r"lacks the column rpm .*speed.*--ignore"):
        learn(open_table(reference), open_table(live), Wishes(), _silent)
    learned = learn(open_table(reference), open_table(live), Wishes(ignore=frozenset({"rpm"})), _silent)
    assert "columns that the reference does not have are left out: speed" in learned.notes


def test_labels_are_an_output_and_what_is_not_tested_is_said(tmp_path: Path) -> None:
    path = _csv(tmp_path / "a.csv", {"level": NUMBERS, "class": ["dry", "wet"] * 100})
    learned = _learned(path, labels="class")
    stream = learned.schema.streams[1]
    assert (stream.role, stream.kind) == (Role.OUTPUT, StreamKind.CATEGORICAL)
    assert "concept shift) is not tested" in " ".join(learned.notes)
    live = _csv(tmp_path / "b.csv", {"level": [1.0]})
    learned = learn(open_table(path), open_table(live), Wishes(labels="class"), _silent)
    assert [s.name for s in learned.schema.streams] == ["level"]
    assert "class: the live data have no labels, so nothing is said about classes" in learned.notes


def test_a_reference_without_anything_to_watch_is_refused(tmp_path: Path) -> None:
    path = _csv(tmp_path / "a.csv", {"row": list(range(200))})
    with pytest.raises(TableRefused, match="no column that can be watched; row: only ever rises"):
        _learned(path)
    with pytest.raises(TableRefused, match="no rows"):
        _learned(_write(tmp_path / "b.csv", "a,b\n"))
