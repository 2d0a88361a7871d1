from __future__ import annotations

import numpy as np
import pytest

from driftpost_models.probes.block import Block
from driftpost_models.probes.signal import Signal, bands_for
from driftpost_models.runtime import TensorSpec


def _measure(raw: np.ndarray, channels: int = 1, low=-1.0, high=1.0, bands=6, **quantization):
    spec = TensorSpec("x", (1, *raw.shape[1:]), raw.dtype, **quantization)
    probe = Signal(spec, "input", "", channels, bands, low, high)
    values, _ = probe.extract(Block({"x": raw}, {}, np.zeros(len(raw)), np.zeros(len(raw), np.int64)))
    return dict(zip([draft.name for draft in probe.streams()], values.T, strict=True))


def _sine(frequency: float, length: int = 1024, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(length)))[None].astype(np.float32)


def test_level_loudness_and_peak_are_those_of_the_samples() -> None:
    found = _measure(_sine(1 / 16) + 0.25)
    assert found["level"][0] == pytest.approx(0.25, abs=1e-6)
    assert found["rms"][0] == pytest.approx(0.5 / np.sqrt(2), rel=1e-4)
    assert found["peak"][0] == pytest.approx(0.5, rel=1e-3)
    assert found["clipping"][0] == 0


@pytest.mark.parametrize(("frequency", "band"), [(0.4, 6), (0.18, 5), (0.09, 4), (0.005, 1)])
def test_a_tone_lands_in_its_octave_with_its_power(frequency: float, band: int) -> None:
    found = _measure(_sine(frequency))
    powers = np.array([found[f"band{k}"][0] for k in range(1, 7)])
    assert int(powers.argmax()) + 1 == band
    assert powers.max() == pytest.approx(10 * np.log10(0.5**2 / 2), abs=0.6)


def test_clipping_counts_samples_at_either_end() -> None:
    assert _measure(np.clip(_sine(1 / 64, amplitude=2.0), -1, 1))["clipping"][0] > 0.5
    codes = np.array([[127, -128, 0, 5, 127, 1, 2, 3]], np.int8)
    assert _measure(codes, low=-128, high=127, bands=1, scale=0.1, zero_point=0)["clipping"][0] == 3 / 8


def test_silence_has_a_floor_and_no_warning() -> None:
    found = _measure(np.zeros((2, 256), np.float32))
    assert found["rms"].tolist() == [0, 0]
    assert found["band1"][0] == pytest.approx(-120)


def test_quantized_samples_speak_natural_units() -> None:
    real = _sine(0.1)
    codes = np.clip(np.rint(real / 0.01) + 3, -128, 127).astype(np.int8)
    exact, quantized = _measure(real), _measure(codes, low=-128, high=127, scale=0.01, zero_point=3)
    assert quantized["rms"][0] == pytest.approx(exact["rms"][0], rel=0.01)
    assert quantized["band4"][0] == pytest.approx(exact["band4"][0], abs=0.1)


def test_channels_are_averaged_for_the_bands_only() -> None:
    tone = _sine(0.3)[0]
    both = np.stack([tone, -tone], axis=1)[None]
    found = _measure(both.astype(np.float32), channels=2)
    assert found["rms"][0] == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)
    assert found["band6"][0] < -100


def test_short_frames_get_fewer_bands() -> None:
    assert [bands_for(n) for n in (2, 16, 64, 512, 100_000)] == [1, 2, 4, 6, 6]
