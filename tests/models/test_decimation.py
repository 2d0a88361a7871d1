"""What is kept of large images: the same whether they come whole or one by one, and enough to measure."""

from __future__ import annotations

import numpy as np
import pytest

from driftpost_models.probes.block import Block
from driftpost_models.probes.classification import Classification
from driftpost_models.probes.codes import Codes
from driftpost_models.probes.decimation import DECIMATED_BYTES, MOST, Decimation, Positions
from driftpost_models.probes.image import Image
from driftpost_models.probes.limits import Limits
from driftpost_models.probes.probe_set import ProbeSet
from driftpost_models.probes.summary import Summary
from driftpost_models.runtime import TensorSpec

SHAPES = [
    ("nhwc", (224, 224, 3)),
    ("nchw", (3, 224, 224)),
    ("nchw", (3, 97, 131)),
    ("nhwc", (61, 40, 4)),
    ("nhwc", (21, 20, 1)),
    ("hw", (480, 640)),
    ("hw", (2, 2)),
    ("nchw", (2, 50, 7)),
]


def _images(rows: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, (rows, *shape)).astype(np.int8)


@pytest.mark.parametrize(("layout", "shape"), SHAPES)
def test_images_decimated_one_by_one_are_those_decimated_together(
    layout: str, shape: tuple[int, ...]
) -> None:
    images = _images(3, shape)
    how = Decimation.of(layout, shape)
    assert how is not None
    together = how.take_rows(images)
    assert together.shape == (3, *how.shape)
    for image, kept in zip(images, together, strict=True):
        np.testing.assert_array_equal(how.take(image), kept)
        np.testing.assert_array_equal(how.take(image[None]), kept)
        assert how.take(image).flags.c_contiguous


@pytest.mark.parametrize(("layout", "shape"), SHAPES)
def test_positions_are_pixels_with_their_right_and_lower_neighbours(
    layout: str, shape: tuple[int, ...]
) -> None:
    tall, wide = (shape[-2:]) if layout != "nhwc" else shape[:2]
    channels = 1 if layout == "hw" else shape[-1] if layout == "nhwc" else shape[0]
    rows, columns = np.mgrid[:tall, :wide]
    place = (rows * 1000 + columns).astype(np.float32)
    planes = np.stack([place + 1_000_000 * c for c in range(channels)])
    image = planes[0] if layout == "hw" else np.moveaxis(planes, 0, -1) if layout == "nhwc" else planes
    how = Decimation.of(layout, shape)
    assert how is not None
    found = Positions(how, how.take_rows(image[None].astype(np.float32)))
    here, right, below = np.split(found.kept[0], [how.seen * how.count, (how.seen + 1) * how.count])
    assert how.seen == min(channels, 3)
    sharp = here.reshape(how.seen, -1)[1 if channels >= 3 else 0]
    np.testing.assert_array_equal(right - sharp, 1)
    np.testing.assert_array_equal(below - sharp, 1000)
    assert np.unique(here).size == here.size
    np.testing.assert_array_equal(found.values[0], here)
    assert how.count <= MOST**2


@pytest.mark.parametrize(
    ("layout", "shape"), [("nhwc", (1, 8, 3)), ("hw", (8, 1)), ("nhwc", (8, 8)), ("nchw", (0, 4, 4))]
)
def test_what_has_no_neighbours_is_not_decimated(layout: str, shape: tuple[int, ...]) -> None:
    assert Decimation.of(layout, shape) is None


def test_parts_of_positions_are_the_whole_in_order() -> None:
    how = Decimation.of("nhwc", (50, 50, 3))
    assert how is not None
    whole = Positions(how, how.take_rows(_images(7, (50, 50, 3))))
    parts = whole.slices(3)
    assert [len(part.kept) for part in parts] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([part.kept for part in parts]), whole.kept)


def test_what_is_kept_of_an_image_is_a_few_kilobytes_whatever_its_size() -> None:
    for side in (96, 224, 640, 2160):
        how = Decimation.of("nhwc", (side, side, 3))
        assert how is not None
        assert how.shape[0] <= 5 * MOST**2 < 4096


def _probes(*more: str) -> ProbeSet:
    spec = TensorSpec("image", (1, 96, 96, 3), np.dtype(np.int8))
    output = TensorSpec("p", (1, 4), np.dtype(np.float32))
    extra = {"summary": Summary(spec, "input", "s.", True)}
    return ProbeSet(
        [
            Image(spec, "input", "", "nhwc", -128, 127),
            Limits(spec, "input", "limits"),
            Codes(spec, "input", "codes"),
            *(extra[name] for name in more),
            Classification(output, "", "probabilities", ()),
        ]
    )


def test_probes_read_the_same_from_whole_and_from_decimated_images() -> None:
    images = _images(70, (96, 96, 3))
    outputs = {"p": np.full((70, 4), 0.25, np.float32)}
    rest = (np.zeros(70), np.zeros(70, np.int64))
    whole, decimated = _probes(), _probes()
    how = whole.decimation("image", (96, 96, 3), np.dtype(np.int8))
    assert how is not None
    kept = np.stack([how.take(image) for image in images])
    first, codes = whole.extract(Block({"image": images}, outputs, *rest))
    second, same = decimated.extract(Block({}, outputs, *rest, positions={"image": Positions(how, kept)}))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(codes["codes"], same["codes"])
    assert codes["codes"].shape[1] < 96 * 96 * 3 / 10


def test_a_probe_that_needs_the_whole_image_gets_it() -> None:
    assert _probes("summary").decimation("image", (96, 96, 3), np.dtype(np.int8)) is None


def test_small_images_are_kept_whole() -> None:
    side = int((DECIMATED_BYTES / 3) ** 0.5)
    assert _probes().decimation("image", (side, side, 3), np.dtype(np.int8)) is None
    assert _probes().decimation("other", (96, 96, 3), np.dtype(np.int8)) is None
