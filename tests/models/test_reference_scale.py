"""Reference data on another scale than a quantized input takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from driftpost_models.build import build_bundle
from driftpost_models.image_files import ImageScale
from driftpost_models.reference_files import ReferenceOptions, load_reference
from driftpost_models.reference_scale import MAX_VALUES, scale_note
from driftpost_models.report import built_text
from driftpost_models.runtime import TensorSpec
from realdata import REALDATA, needs_realdata

INT8 = TensorSpec("x", (1, 4), np.dtype(np.int8), 0.01, 0)
PICTURE = TensorSpec("image", (1, 8, 8, 3), np.dtype(np.int8), 1 / 255, -128)
RNG = np.random.default_rng(5)


def notes(path: Path, spec: TensorSpec, **options: object) -> list[str]:
    return load_reference(path, (spec,), ReferenceOptions(**options)).notes


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (RNG.integers(-128, 128, (50, 4)), "int8 codes that were saved as floats"),
        (RNG.integers(0, 256, (50, 4)), "pixels from 0 to 255"),
        (RNG.normal(0, 40, (50, 4)), "scale them as in training"),
    ],
)
def test_values_that_are_mostly_clipped_are_reported_with_their_likely_cause(
    tmp_path: Path, values: np.ndarray, says: str
) -> None:
    np.save(tmp_path / "r.npy", values.astype(np.float32))
    np.savetxt(tmp_path / "r.csv", values, delimiter=",", header="a,b,c,d", comments="")
    for name in ("r.npy", "r.csv"):
        (note,) = notes(tmp_path / name, INT8)
        assert says in note
        assert "can hold (-1.28 to 1.27)" in note


def test_real_values_with_tails_and_many_at_one_end_are_no_matter(tmp_path: Path) -> None:
    values = np.clip(RNG.normal(-1.28, 0.5, (500, 4)), -1.28, None).astype(np.float32)
    values[::50] = 9.0
    np.save(tmp_path / "r.npy", values)
    assert notes(tmp_path / "r.npy", INT8) == []
    np.save(tmp_path / "codes.npy", RNG.integers(-128, 128, (50, 4)).astype(np.int8))
    assert notes(tmp_path / "codes.npy", INT8) == []


def test_large_data_are_sampled_evenly() -> None:
    values = np.zeros(3 * MAX_VALUES + 1, np.float32)
    values[: len(values) // 2] = 100.0
    note = scale_note(INT8, values, "it")
    assert note is not None
    assert note.startswith("50% ")


def test_an_image_scale_that_the_input_can_not_hold_is_reported(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 90, 200)).save(tmp_path / f"{number}.png")
    (note,) = notes(tmp_path, PICTURE, image_scale=ImageScale(0, 255))
    assert "--image-scale seems wrong" in note
    assert notes(tmp_path, PICTURE, image_scale=ImageScale(0, 1)) == []


@needs_realdata
def test_a_build_from_codes_saved_as_floats_asks_to_check_them(tmp_path: Path) -> None:
    files = sorted((REALDATA / "data" / "kws01").glob("*.bin"))[:200]
    rows = np.stack([np.fromfile(file, np.int8) for file in files]).reshape(-1, 49, 10, 1)
    np.savez(tmp_path / "r.npz", input_1=rows.astype(np.float32))
    model = REALDATA / "models" / "mlperf_tiny" / "kws_ref_model.tflite"
    report = built_text(build_bundle(model, tmp_path / "r.npz", tmp_path / "k.bundle"))
    assert "Please check:" in report
    assert "98% of the values of array 'input_1'" in report
    assert "look like int8 codes" in report
