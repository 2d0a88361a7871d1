import numpy as np
import pytest

from camera import NORMAL, Camera, Effect, expose, record, to_model_input
from digits import load_pool


@pytest.fixture
def pool():
    return load_pool("test")


def sharpness(frames):
    light = frames / 255.0
    return np.abs(np.diff(light, axis=2)).mean()


def test_a_seed_repeats_the_frames_exactly(pool):
    first = Camera(pool, np.random.default_rng(3))
    second = Camera(pool, np.random.default_rng(3))
    for one, other in zip(first.frames(20), second.frames(20), strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert one.label == other.label


def test_healthy_frames_are_never_saturated_and_never_repeat(pool):
    frames, _ = record(pool, 2000, np.random.default_rng(4))
    assert frames.dtype == np.uint8
    assert frames.shape == (2000, 16, 16)
    assert frames.max() < 255
    assert len({frame.tobytes() for frame in frames}) == 2000


def test_a_dim_camera_scales_the_light(pool):
    bright = expose(pool.images, np.random.default_rng(5)).mean()
    dim = expose(pool.images, np.random.default_rng(5), Effect(exposure=0.5)).mean()
    assert dim == pytest.approx(bright / 2, rel=0.02)


def test_blur_takes_sharpness_and_keeps_brightness(pool):
    sharp = expose(pool.images, np.random.default_rng(6))
    blurred = expose(pool.images, np.random.default_rng(6), Effect(blur=1.2))
    assert sharpness(blurred) < 0.75 * sharpness(sharp)
    assert blurred.mean() == pytest.approx(sharp.mean(), rel=0.06)


def test_a_frozen_camera_repeats_its_last_frame_while_the_world_moves_on(pool):
    camera = Camera(pool, np.random.default_rng(7))
    last = camera.shoot()
    frozen = list(camera.frames(50, Effect(frozen=True)))
    assert all(frame.pixels is last.pixels for frame in frozen)
    assert len({frame.label for frame in frozen}) == 10
    assert camera.shoot(NORMAL).pixels is not last.pixels


def test_a_camera_frozen_from_the_start_freezes_its_first_frame(pool):
    frames = list(Camera(pool, np.random.default_rng(8)).frames(5, Effect(frozen=True)))
    assert len({frame.pixels.tobytes() for frame in frames}) == 1


def test_a_pixel_is_its_own_int8_code():
    frames = np.array([[[0, 127, 128, 255]]], dtype=np.uint8)
    codes = to_model_input(frames)
    assert codes.dtype == np.int8
    assert codes.shape == (1, 1, 4, 1)
    assert codes.ravel().tolist() == [-128, -1, 0, 127]


def test_a_recording_and_single_shots_have_the_same_statistics(pool):
    recorded, _ = record(pool, 3000, np.random.default_rng(9))
    camera = Camera(pool, np.random.default_rng(10))
    shot = np.stack([frame.pixels for frame in camera.frames(3000)])
    assert shot.mean() == pytest.approx(recorded.mean(), rel=0.01)
    assert sharpness(shot) == pytest.approx(sharpness(recorded), rel=0.02)
