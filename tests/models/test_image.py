from __future__ import annotations

import numpy as np
import pytest

from driftpost_models.probes.block import Block
from driftpost_models.probes.image import Image
from driftpost_models.runtime import TensorSpec


def _probe(shape, dtype="float32", layout="nhwc", low=0.0, high=1.0, **quantization) -> Image:
    spec = TensorSpec("image", (1, *shape), np.dtype(dtype), **quantization)
    return Image(spec, "input", "", layout, low, high)


def _measure(probe: Image, images: np.ndarray) -> dict[str, np.ndarray]:
    block = Block({"image": images}, {}, np.zeros(len(images)), np.zeros(len(images), np.int64))
    values, _ = probe.extract(block)
    return dict(zip([draft.name for draft in probe.streams()], values.T, strict=True))


def _scene(rows: int, size: int = 64, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Blurred noise on a gradient, between 0.1 and 0.9."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0.5, 0.2, (rows, size, size, channels))
    gradient = np.linspace(-0.2, 0.2, size)[None, :, None, None]
    return np.clip(noise + gradient, 0.1, 0.9).astype(np.float32)


def _blur(images: np.ndarray) -> np.ndarray:
    return sum(np.roll(images, (a, b), (1, 2)) for a in (-1, 0, 1) for b in (-1, 0, 1)) / 9


def test_float_uint8_and_int8_builds_speak_the_same_units() -> None:
    pixels = np.round(_scene(6) * 255).astype(np.uint8)
    builds = [
        (_probe((64, 64, 3), "uint8", low=0, high=255), pixels),
        (
            _probe((64, 64, 3), "int8", low=-128, high=127, scale=1.0, zero_point=-128),
            (pixels ^ 128).view(np.int8),
        ),
        (_probe((64, 64, 3), low=0, high=1), (pixels / 255).astype(np.float32)),
        (_probe((64, 64, 3), low=-1, high=1), (pixels / 127.5 - 1).astype(np.float32)),
        (
            _probe((3, 64, 64), low=0, high=255, layout="nchw"),
            np.moveaxis(pixels, -1, 1).astype(np.float32),
        ),
    ]
    first = _measure(*builds[0])
    for probe, images in builds[1:]:
        for name, column in _measure(probe, images).items():
            np.testing.assert_allclose(column, first[name], atol=2e-5, err_msg=name)


def test_brightness_and_contrast_are_shares_of_the_full_scale() -> None:
    probe = _probe((8, 8, 1), "uint8", low=0, high=255)
    half = np.zeros((1, 8, 8, 1), np.uint8)
    half[:, :, ::2] = 255
    found = _measure(probe, half)
    assert found["brightness"][0] == pytest.approx(4 / 7)  # the last row and column only serve as neighbours
    assert found["contrast"][0] == pytest.approx(np.sqrt(4 / 7 * 3 / 7))
    assert found["dark_share"][0] == pytest.approx(3 / 7)
    assert found["bright_share"][0] == pytest.approx(4 / 7)


def test_dimming_shows_in_brightness_and_contrast_but_not_in_sharpness() -> None:
    images = _scene(8)
    before, after = (_measure(_probe((64, 64, 3)), x) for x in (images, images * 0.5))
    np.testing.assert_allclose(after["brightness"], before["brightness"] / 2, rtol=1e-5)
    np.testing.assert_allclose(after["contrast"], before["contrast"] / 2, rtol=1e-5)
    np.testing.assert_allclose(after["sharpness"], before["sharpness"], rtol=1e-4)


@pytest.mark.parametrize("size", [16, 64, 224])
def test_blur_shows_in_sharpness_even_on_the_decimated_copy(size: int) -> None:
    images = _scene(8, size)
    before, after = (_measure(_probe((size, size, 3)), x) for x in (images, _blur(images)))
    assert (after["sharpness"] < 0.6 * before["sharpness"]).all()
    np.testing.assert_allclose(after["brightness"], before["brightness"], atol=0.02)


def test_the_decimated_copy_measures_what_the_whole_image_holds() -> None:
    images = _scene(4, 224)
    found = _measure(_probe((224, 224, 3)), images)
    np.testing.assert_allclose(found["brightness"], images.mean(axis=(1, 2, 3)), atol=0.02)
    np.testing.assert_allclose(found["contrast"], images.mean(axis=3).std(axis=(1, 2)), rtol=0.1)


def test_a_repeated_frame_changes_by_exactly_zero_across_blocks_too() -> None:
    probe = _probe((64, 64, 3))
    images = _scene(3)
    frozen = np.concatenate([images, images[2:], images[2:]])
    first = _measure(probe, frozen)["frame_change"]
    assert np.isnan(first[0])
    assert (first[1:3] > 0.05).all()
    assert first[3:].tolist() == [0.0, 0.0]
    assert _measure(probe, images[2:])["frame_change"].tolist() == [0.0]


def test_a_change_of_size_is_missing_not_wrong() -> None:
    probe = Image(TensorSpec("image", (1, None, None, 3), np.dtype(np.float32)), "input", "", "nhwc", 0, 1)
    assert not np.isnan(_measure(probe, _scene(2, 64))["frame_change"][1])
    assert np.isnan(_measure(probe, _scene(1, 32))["frame_change"][0])


def test_colour_balance_tells_a_tint_and_black_is_neutral() -> None:
    images = _scene(2)
    tinted = images.copy()
    tinted[..., 0] *= 0.5
    before, after = (_measure(_probe((64, 64, 3)), x) for x in (images, tinted))
    assert (after["red_share"] < 0.75 * before["red_share"]).all()
    assert (after["blue_share"] > before["blue_share"]).all()
    black = _measure(_probe((64, 64, 3)), np.zeros((1, 64, 64, 3), np.float32))
    assert black["red_share"].tolist() == [pytest.approx(1 / 3)]
    assert black["sharpness"].tolist() == [0.0]
    assert black["dark_share"].tolist() == [1.0]


def test_grey_images_have_no_colour_and_alpha_is_left_out() -> None:
    assert "red_share" not in [draft.name for draft in _probe((64, 64, 1)).streams()]
    images = _scene(2, channels=4)
    transparent = images.copy()
    transparent[..., 3] = 0
    a, b = (_measure(_probe((64, 64, 4)), x) for x in (images, transparent))
    for name, column in a.items():
        np.testing.assert_array_equal(b[name], column)


def test_the_scale_and_layout_are_checked() -> None:
    with pytest.raises(ValueError, match="high"):
        _probe((8, 8, 1), low=1, high=1)
    with pytest.raises(ValueError, match="layout"):
        _probe((8, 8, 1), layout="chwn")


def test_measuring_does_not_change_the_images() -> None:
    images = _scene(2, 16)
    kept = images.copy()
    _measure(_probe((16, 16, 3), low=0.25, high=0.75), images)
    np.testing.assert_array_equal(images, kept)
