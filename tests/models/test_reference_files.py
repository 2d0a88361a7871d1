from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from driftpost_models import image_files, reference
from driftpost_models.errors import ReferenceRefused
from driftpost_models.image_files import ImageScale
from driftpost_models.reference_files import ReferenceOptions, load_reference
from driftpost_models.runtime import TensorSpec

FLOATS = TensorSpec("x", (None, 3), np.dtype(np.float32))
CODES = TensorSpec("x", (1, 3), np.dtype(np.int8), 0.5, -10)
RGB = TensorSpec("image", (1, 8, 8, 3), np.dtype(np.float32))


def _load(path: Path, *inputs: TensorSpec, **options: object):
    return load_reference(path, inputs or (FLOATS,), ReferenceOptions(**options))


def _all(loaded) -> dict[str, np.ndarray]:
    return loaded.read(0, loaded.rows)


class TestArrays:
    def test_an_npy_is_read_row_by_row_as_it_is(self, tmp_path: Path) -> None:
        rows = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
        np.save(tmp_path / "r.npy", rows)
        loaded = _load(tmp_path / "r.npy")
        np.testing.assert_array_equal(_all(loaded)["x"], rows)
        np.testing.assert_array_equal(loaded.read(2, 4)["x"], rows[2:4])
        assert (loaded.rows, loaded.source, loaded.preprocessing) == (7, "npy", [])
        assert len(loaded.sha256) == 64

    def test_an_npz_of_one_array_feeds_the_one_input_whatever_its_name(self, tmp_path: Path) -> None:
        rows = np.ones((5, 3), np.float32)
        np.savez(tmp_path / "r.npz", data=rows, truth=np.arange(5))
        loaded = _load(tmp_path / "r.npz", labels="truth")
        np.testing.assert_array_equal(_all(loaded)["x"], rows)
        assert loaded.labels.tolist() == [0, 1, 2, 3, 4]

    def test_an_npz_feeds_several_inputs_by_name_and_constants_serve_all_rows(self, tmp_path: Path) -> None:
        rate = TensorSpec("sr", (), np.dtype(np.int64))
        np.savez(tmp_path / "r.npz", x=np.ones((5, 3), np.float32), sr=np.array(16000))
        found = _all(_load(tmp_path / "r.npz", FLOATS, rate))
        assert found["x"].shape == (5, 3)
        assert found["sr"].tolist() == [16000] * 5

    def test_inputs_that_are_left_out_are_left_to_whoever_runs_the_model(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "r.npz", x=np.ones((5, 3), np.float32))
        assert set(_all(_load(tmp_path / "r.npz", FLOATS, TensorSpec("state", (1, 2), np.dtype("f4"))))) == {
            "x"
        }

    def test_real_numbers_for_a_quantized_input_are_quantized_and_it_is_said(self, tmp_path: Path) -> None:
        np.save(tmp_path / "r.npy", np.array([[0.0, 0.26, 1e6], [-1e6, 0.5, 5.0]]))
        loaded = _load(tmp_path / "r.npy", CODES)
        assert _all(loaded)["x"].tolist() == [[-10, -9, 127], [-128, -9, 0]]
        assert any("quantized by the input's scale 0.5" in step for step in loaded.preprocessing)

    def test_whole_numbers_are_codes_where_they_fit_and_refused_where_they_do_not(
        self, tmp_path: Path
    ) -> None:
        np.save(tmp_path / "r.npy", np.array([[-128, 0, 127]] * 2))
        assert _all(_load(tmp_path / "r.npy", CODES))["x"].dtype == np.int8
        np.save(tmp_path / "r.npy", np.array([[0, 0, 255]] * 2, np.uint8))
        with pytest.raises(ReferenceRefused, match="from 0 to 255"):
            _load(tmp_path / "r.npy", CODES)

    def test_an_empty_file_and_an_archive_of_nothing_say_what_to_save(self, tmp_path: Path) -> None:
        (tmp_path / "e.npz").write_bytes(b"")
        with pytest.raises(ReferenceRefused, match=r"e\.npz can not be read: it is empty; save"):
            _load(tmp_path / "e.npz")
        np.savez(tmp_path / "n.npz")
        with pytest.raises(ReferenceRefused, match=r"no array for the model's inputs: save one as 'x'"):
            _load(tmp_path / "n.npz")

    def test_missing_values_can_not_be_quantized(self, tmp_path: Path) -> None:
        np.save(tmp_path / "r.npy", np.array([[0.0, np.nan, 1.0]] * 2))
        with pytest.raises(ReferenceRefused, match="no code for missing values"):
            _load(tmp_path / "r.npy", CODES)

    def test_dimensions_of_one_may_differ_and_others_may_not(self, tmp_path: Path) -> None:
        spec = TensorSpec("x", (1, 4, 6, 1), np.dtype(np.float32))
        np.save(tmp_path / "r.npy", np.zeros((3, 1, 4, 6), np.float32))
        assert _all(_load(tmp_path / "r.npy", spec))["x"].shape == (3, 4, 6, 1)
        np.save(tmp_path / "r.npy", np.zeros((3, 6, 4), np.float32))
        with pytest.raises(ReferenceRefused, match="another order"):
            _load(tmp_path / "r.npy", spec)
        np.save(tmp_path / "r.npy", np.zeros((3, 24), np.float32))
        with pytest.raises(ReferenceRefused, match=r"have shape \[24\]"):
            _load(tmp_path / "r.npy", spec)

    def test_pixels_are_scaled_where_the_owner_says_how(self, tmp_path: Path) -> None:
        np.save(tmp_path / "r.npy", np.full((2, 8, 8, 3), 255, np.uint8))
        loaded = _load(tmp_path / "r.npy", RGB, image_scale=ImageScale.parse("-1..1"))
        assert np.allclose(_all(loaded)["image"], 1.0)

    @pytest.mark.parametrize(
        ("arrays", "options", "problem"),
        [
            ({"a": np.ones((3, 3)), "b": np.ones((3, 3))}, {}, "no array called 'x'"),
            ({"x": np.ones((3, 3)), "b": np.ones((3, 3))}, {}, "'b' is none of the model's inputs"),
            ({"x": np.ones((1, 3))}, {}, "has 1 rows"),
            ({"x": np.ones(())}, {}, "single number"),
            ({"x": np.array([["a", "b", "c"]] * 3)}, {}, "not numbers"),
            ({"x": np.ones((3, 3)), "t": np.zeros(4, int)}, {"labels": "t"}, "4 labels for 3 rows"),
            ({"x": np.ones((3, 3))}, {"labels": "t"}, "neither a file nor a column"),
            (
                {"x": np.ones((3, 3)), "t": np.array(["a", "b", "z"])},
                {"labels": "t", "classes": ("a", "b")},
                "'z'",
            ),
            ({"x": np.ones((3, 3)), "t": np.array([0, -1, 2])}, {"labels": "t"}, "below 0"),
        ],
    )
    def test_arrays_that_do_not_fit_are_refused(self, tmp_path: Path, arrays, options, problem: str) -> None:
        np.savez(tmp_path / "r.npz", **arrays)
        with pytest.raises(ReferenceRefused, match=problem):
            _load(tmp_path / "r.npz", **options)

    def test_pickles_and_damaged_files_are_refused(self, tmp_path: Path) -> None:
        np.save(tmp_path / "p.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
        np.savez(tmp_path / "p.npz", x=np.array([{"a": 1}], dtype=object))
        (tmp_path / "d.npz").write_bytes(b"PK\x03\x04nothing")
        (tmp_path / "e.npy").write_bytes(b"")
        for name in ("p.npy", "p.npz", "d.npz", "e.npy"):
            with pytest.raises(ReferenceRefused, match="can not be read"):
                _load(tmp_path / name)

    def test_more_rows_than_a_builder_holds_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reference, "MAX_ROWS", 10)
        np.save(tmp_path / "r.npy", np.ones((11, 3), np.float32))
        with pytest.raises(ReferenceRefused, match="newest part"):
            _load(tmp_path / "r.npy")


class TestTables:
    def write(self, path: Path, text: str) -> Path:
        (path / "t.csv").write_text(text, encoding="utf-8")
        return path / "t.csv"

    def test_columns_labels_and_missing_values_are_read(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "\ufeffa, b ,c,kind\n1,2,3,wet\n,NA,6.5,dry\n?,nan,9,\n")
        loaded = _load(path, labels="kind")
        np.testing.assert_array_equal(
            _all(loaded)["x"], np.array([[1, 2, 3], [np.nan, np.nan, 6.5], [np.nan, np.nan, 9]], "f4")
        )
        assert loaded.columns == ("a", "b", "c")
        assert loaded.labels.tolist() == [1, 0, -1]
        assert loaded.classes == ("dry", "wet")

    def test_the_owner_chooses_columns_and_their_order(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "time,a,b,c\n0,1,2,3\n1,4,5,6\n")
        loaded = _load(path, columns={"x": ("c", "a", "b")})
        assert _all(loaded)["x"].tolist() == [[3, 1, 2], [6, 4, 5]]

    def test_models_with_an_input_for_each_column_are_fed_by_name(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "b,other,a\n1,9,2\n3,9,4\n")
        inputs = [TensorSpec(name, (None, 1), np.dtype(np.float32)) for name in ("a", "b")]
        found = _all(_load(path, *inputs))
        assert (found["a"].tolist(), found["b"].tolist()) == ([[2], [4]], [[1], [3]])
        with pytest.raises(ReferenceRefused, match="no column for 'c'"):
            _load(path, *inputs, TensorSpec("c", (None, 1), np.dtype(np.float32)))

    def test_labels_may_stand_in_a_file_of_their_own(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "a,b,c\n1,2,3\n4,5,6\n")
        (tmp_path / "labels.txt").write_text("label\nyes\nno\n", encoding="utf-8")
        np.save(tmp_path / "labels.npy", np.array([1, 0]))
        assert _load(path, labels=str(tmp_path / "labels.txt"), classes=("NO", "YES")).labels.tolist() == [
            1,
            0,
        ]
        assert _load(path, labels=str(tmp_path / "labels.npy")).labels.tolist() == [1, 0]
        (tmp_path / "labels.txt").write_text("1\n", encoding="utf-8")
        with pytest.raises(ReferenceRefused, match="1 labels for 2 rows"):
            _load(path, labels=str(tmp_path / "labels.txt"))

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "header line"),
            ("a,a,b\n1,2,3\n", "different names"),
            ("1,2,3\n4,5,6\n", "no header line"),
            ("a,b,c\n1,2\n", "line 2: 2 fields"),
            ("a,b,c\n1,2,3\n1,red,3\n", r"line 3: 'red' in column 'b'"),
            ("a,b\n1,2\n3,4\n", r"2 columns \(a, b\), but the input 'x' takes 3"),
            ("a,b,c\n1,2,3\n", "has 1 rows"),
        ],
    )
    def test_tables_that_do_not_fit_name_line_and_column(
        self, tmp_path: Path, text: str, problem: str
    ) -> None:
        with pytest.raises(ReferenceRefused, match=problem):
            _load(self.write(tmp_path, text))

    def test_a_column_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ReferenceRefused, match="no column 'z'"):
            _load(self.write(tmp_path, "a,b,c\n1,2,3\n4,5,6\n"), columns={"x": ("a", "b", "z")})


class TestImages:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for index, kind in enumerate(("cat", "dog")):
            (tmp_path / kind).mkdir()
            for number in (1, 2):
                value = 100 * index + 10 * number
                Image.new("RGB", (20, 10), (value, 0, 255)).save(tmp_path / kind / f"{number}.png")
        (tmp_path / ".hidden.png").write_bytes(b"no image")
        return tmp_path

    def test_folders_are_classes_and_names_are_the_time(self, folder: Path) -> None:
        loaded = _load(folder, RGB, image_scale=ImageScale.parse("0..1"))
        assert loaded.rows == 4
        assert loaded.classes == ("cat", "dog")
        assert loaded.labels.tolist() == [0, 1, 0, 1]
        reds = _all(loaded)["image"][:, 0, 0, 0] * 255
        np.testing.assert_allclose(reds, [10, 110, 20, 120], atol=1e-3)
        assert loaded.preprocessing == [
            "images decoded to RGB, resized to 8x8 (bilinear)",
            "pixels 0 to 255 scaled to 0 to 1",
        ]

    def test_class_names_must_hold_the_folders(self, folder: Path) -> None:
        options = {"image_scale": ImageScale.parse("0..1")}
        loaded = _load(folder, RGB, classes=("bird", "Dog", "Cat"), **options)
        assert loaded.labels.tolist() == [2, 1, 2, 1]
        with pytest.raises(ReferenceRefused, match="'cat' is none of the classes"):
            _load(folder, RGB, classes=("dog", "bird"), **options)

    @pytest.mark.parametrize(
        ("spec", "scale", "red", "blue"),
        [
            (TensorSpec("i", (1, 8, 8, 3), np.dtype(np.uint8), 0.1, 3), None, 10, 255),
            (TensorSpec("i", (1, 8, 8, 3), np.dtype(np.int8), 1.0, -128), None, -118, 127),
            (TensorSpec("i", (1, 8, 8, 3), np.dtype(np.int8), 1 / 127.5, 0), "-1..1", -118, 127),
            (TensorSpec("i", (1, 8, 8, 3), np.dtype(np.float32)), "0..255", 10, 255),
            (TensorSpec("i", (1, 8, 8, 3), np.dtype(np.float16)), "-1..1", 10 / 127.5 - 1, 1),
        ],
    )
    def test_pixels_become_what_the_input_takes(
        self, folder: Path, spec, scale, red: float, blue: float
    ) -> None:
        loaded = _load(folder, spec, image_scale=None if scale is None else ImageScale.parse(scale))
        row = loaded.read(0, 1)["i"][0]
        assert row.dtype == spec.dtype
        np.testing.assert_allclose(row[0, 0].astype(float), [red, row[0, 0, 1], blue], atol=1e-3)

    def test_channels_first_grey_and_transparent_images_fit_their_inputs(self, folder: Path) -> None:
        for shape in ((1, 3, 8, 8), (1, 1, 8, 8), (1, 8, 8), (1, 8, 8, 4)):
            spec = TensorSpec("i", shape, np.dtype(np.uint8))
            assert _load(folder, spec).read(0, 2)["i"].shape == (2, *shape[1:])

    @pytest.mark.parametrize(
        ("spec", "problem"),
        [
            (RGB, "--image-scale"),
            (TensorSpec("i", (1, 490), np.dtype(np.int8)), "is not an image"),
            (TensorSpec("i", (1, None, None, 3), np.dtype(np.uint8)), "no fixed size"),
        ],
    )
    def test_inputs_that_images_can_not_feed_are_refused(self, folder: Path, spec, problem: str) -> None:
        with pytest.raises(ReferenceRefused, match=problem):
            _load(folder, spec)
        with pytest.raises(ReferenceRefused, match="a folder feeds one"):
            _load(folder, RGB, FLOATS)

    def test_damaged_and_enormous_images_are_refused_by_name(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = TensorSpec("i", (1, 8, 8, 3), np.dtype(np.uint8))
        monkeypatch.setattr(image_files, "MAX_PIXELS", 100)
        with pytest.raises(ReferenceRefused, match="20x10 pixels"):
            _load(folder, spec)
        monkeypatch.undo()
        (folder / "cat" / "1.png").write_bytes((folder / "cat" / "1.png").read_bytes()[:30])
        with pytest.raises(ReferenceRefused, match="can not be read as an image"):
            _load(folder, spec).read(0, 4)

    def test_without_pillow_the_extra_is_named(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "PIL", None)
        with pytest.raises(ReferenceRefused, match=r"driftpost\[images\]"):
            _load(folder, RGB)

    @pytest.mark.parametrize("text", ["bright", "0..", "1..1", "0-255", "..", "0..1..2"])
    def test_a_scale_that_can_not_be_meant_is_refused(self, text: str) -> None:
        with pytest.raises(ReferenceRefused, match="what black and white are fed as"):
            ImageScale.parse(text)

    def test_codes_are_for_8_bit_inputs(self, folder: Path) -> None:
        with pytest.raises(ReferenceRefused, match="not 8 bits"):
            _load(folder, RGB, image_scale=ImageScale.parse("codes"))


class TestRawTensors:
    SPEC = TensorSpec("x", (None, 2, 3), np.dtype(np.int16))

    def folder(self, path: Path, rows: int = 3) -> Path:
        for row in range(rows):
            np.full((2, 3), row, np.int16).tofile(path / f"sample_{row:03}.bin")
        (path / "y.csv").write_text(
            "".join(f"sample_{r:03}.bin,5,{r}\n" for r in reversed(range(rows))), "utf-8"
        )
        return path

    def test_each_file_is_a_row_and_labels_find_it_by_name(self, tmp_path: Path) -> None:
        loaded = _load(self.folder(tmp_path), self.SPEC, labels=str(tmp_path / "y.csv"))
        np.testing.assert_array_equal(_all(loaded)["x"][:, 0, 0], [0, 1, 2])
        assert loaded.labels.tolist() == [0, 1, 2]
        assert loaded.source == "raw tensors"
        assert loaded.notes == []

    def test_the_hash_follows_names_and_content(self, tmp_path: Path) -> None:
        first = _load(self.folder(tmp_path), self.SPEC).sha256
        np.full((2, 3), 9, np.int16).tofile(tmp_path / "sample_001.bin")
        second = _load(tmp_path, self.SPEC).sha256
        (tmp_path / "sample_001.bin").rename(tmp_path / "sample_009.bin")
        assert len({first, second, _load(tmp_path, self.SPEC).sha256}) == 3

    def test_wrong_sizes_mixed_folders_and_missing_labels_are_refused(self, tmp_path: Path) -> None:
        self.folder(tmp_path)
        (tmp_path / "y.csv").write_text("sample_000.bin,1\n", encoding="utf-8")
        with pytest.raises(ReferenceRefused, match=r"no label for 'sample_001.bin' \(2 are missing\)"):
            _load(tmp_path, self.SPEC, labels=str(tmp_path / "y.csv"))
        with pytest.raises(ReferenceRefused, match="no fixed shape"):
            _load(tmp_path, TensorSpec("x", (1, None), np.dtype(np.int16)))
        (tmp_path / "sample_002.bin").write_bytes(b"123")
        with pytest.raises(ReferenceRefused, match=r"sample_002.bin has 3 bytes, but one row .* has 12"):
            _load(tmp_path, self.SPEC)
        Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
        with pytest.raises(ReferenceRefused, match="one kind"):
            _load(tmp_path, self.SPEC)

    def test_files_of_other_kinds_are_left_out_and_mentioned(self, tmp_path: Path) -> None:
        (self.folder(tmp_path) / "song.mp3").write_bytes(b"la")
        assert ".mp3" in _load(tmp_path, self.SPEC).notes[0]


def test_nothing_unknown_and_empty_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReferenceRefused, match="neither images"):
        _load(tmp_path)
    with pytest.raises(ReferenceRefused, match="no reference at"):
        _load(tmp_path / "none.npz")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(ReferenceRefused, match="unknown kind of reference"):
        _load(tmp_path / "x.parquet")
