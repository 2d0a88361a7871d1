"""Real models fed wrongly, and real signals that change: found in how many rows, and called what?"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from driftpost_models.build import build_bundle
from driftpost_models.bundle import Bundle
from driftpost_models.probes.block import Block
from driftpost_models.probes.signal import Signal, bands_for
from driftpost_models.replay.columns import Wishes
from driftpost_models.replay.replay import Replay, Setup, replay_bundle, replay_table
from driftpost_models.runtime import Array, TensorSpec
from realdata import REALDATA, needs_realdata

pytestmark = needs_realdata

WINDOW, CHANGE = 20, 100
FRAME, SAMPLES_A_SECOND = 100, 12_000


class Watched:
    """A bundle, and rows of its kind that it was not built on."""

    def __init__(self, folder: Path, model: str, rows: Array, reference: int) -> None:
        self._folder = folder
        np.save(folder / "reference.npy", rows[:reference])
        self.bundle: Bundle = build_bundle(
            REALDATA / "models" / model, folder / "reference.npy", folder / "model.bundle"
        ).bundle
        self.live = rows[reference:]

    def replay(self, change: Callable[[Array], Array] | None = None) -> Replay:
        live = self.live.copy()
        if change is not None:
            live[CHANGE:] = change(live[CHANGE:])
        return self.replay_rows(live)

    def replay_rows(self, live: Array) -> Replay:
        np.save(self._folder / "live.npy", live)
        return replay_bundle(
            self.bundle, self._folder / "live.npy", Setup(window_rows=WINDOW, row_seconds=1.0)
        )


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    files = sorted((REALDATA / "data" / "cifar10_jpg" / "dev").rglob("*.jpg"))
    order = np.random.default_rng(0).permutation(len(files))
    pixels = [np.asarray(Image.open(files[i]).convert("RGB"), np.float32).transpose(2, 0, 1) for i in order]
    return Watched(
        tmp_path_factory.mktemp("resnet"), "mlperf_tiny_onnx/pretrainedResnet.onnx", np.stack(pixels), 700
    )


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    files = sorted((REALDATA / "data" / "kws01").glob("*.bin"))
    order = np.random.default_rng(0).permutation(len(files))
    rows = np.stack([np.frombuffer(files[i].read_bytes(), np.int8).reshape(49, 10, 1) for i in order])
    return Watched(tmp_path_factory.mktemp("kws"), "mlperf_tiny/kws_ref_model.tflite", rows, 300)


def test_images_and_words_in_random_order_raise_nothing(resnet: Watched, speech: Watched) -> None:
    assert resnet.replay().findings == ()
    assert speech.replay().findings == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x / 255.0, "pixels from 0 to 1 where 0 to 255 are expected"),
        (lambda x: x - 128.0, "pixels from -128 to 127 where 0 to 255 are expected"),
    ],
)
def test_pixels_on_the_wrong_scale_are_found_in_one_window_and_called_that(
    resnet: Watched, change: Callable[[Array], Array], words: str
) -> None:
    (finding,) = resnet.replay(change).findings
    assert (finding.kind, finding.row, finding.onset_row) == ("wrong_scale", CHANGE + WINDOW - 1, CHANGE)
    assert words in finding.text


def test_a_dark_picture_is_not_a_wrong_scale(resnet: Watched) -> None:
    (finding,) = resnet.replay(lambda x: 0.5 * x).findings
    assert (finding.kind, finding.stream, finding.direction) == ("shift", "brightness", "down")
    assert finding.row == CHANGE + WINDOW - 1


def _compressed(rows: Array, quality: int) -> Array:
    out = []
    for row in rows:
        file = io.BytesIO()
        Image.fromarray(row.transpose(1, 2, 0).astype(np.uint8)).save(file, "JPEG", quality=quality)
        out.append(np.asarray(Image.open(file), np.float32).transpose(2, 0, 1))
    return np.stack(out)


@pytest.mark.parametrize(
    ("quality", "rows", "latest", "named"),
    [
        (None, 1_200, 0, set()),
        (10, 200, 160, {"sharpness", "entropy", "confidence", "margin"}),
        (25, 1_200, 1_200, {"entropy", "confidence", "margin"}),
        (50, 500, 500, {"sharpness"}),
    ],
)
def test_pictures_compressed_once_more_are_found_sooner_the_coarser_they_are(
    resnet: Watched, quality: int | None, rows: int, latest: int, named: set[str]
) -> None:
    """All pictures at hand again and again in random order; as they are they stay silent for as long."""
    rng = np.random.default_rng(1)
    quiet = resnet.live[rng.permutation(len(resnet.live))[:CHANGE]]
    changed = resnet.live if quality is None else _compressed(resnet.live, quality)
    rounds = [changed[rng.permutation(len(changed))] for _ in range(-(-rows // len(changed)))]
    findings = resnet.replay_rows(np.concatenate([quiet, *rounds])[: CHANGE + rows]).findings
    if quality is None:
        assert findings == ()
        return
    assert findings[0].kind == "shift"
    assert findings[0].row < CHANGE + latest
    assert {name for name, _ in findings[0].streams} & named


def test_a_microphone_at_its_limit_is_stuck(speech: Watched) -> None:
    findings = speech.replay(lambda x: np.full_like(x, 127)).findings
    assert [(f.kind, f.row) for f in findings] == [("stuck", CHANGE + WINDOW - 1)]


def _bearing(name: str) -> Array:
    return np.load(REALDATA / "data" / "cwru" / f"1797_{name}_DE60k.npy").ravel()


def _csv(path: Path, columns: Array, names: str) -> Path:
    np.savetxt(path, columns, delimiter=",", header=names, comments="", fmt="%.9g")
    return path


def test_a_damaged_bearing_is_found_in_the_raw_vibration(tmp_path: Path) -> None:
    normal, fault = _bearing("Normal"), _bearing("IR_7_DE12")
    reference = _csv(tmp_path / "reference.csv", normal[:30_000, None], "vibration")
    quiet = _csv(tmp_path / "quiet.csv", normal[30_000:, None], "vibration")
    live = _csv(
        tmp_path / "live.csv", np.concatenate([normal[30_000:], fault[:30_000]])[:, None], "vibration"
    )
    setup = Setup(row_seconds=1 / SAMPLES_A_SECOND)
    assert replay_table(reference, quiet, setup, Wishes()).findings == ()
    finding = replay_table(reference, live, setup, Wishes()).findings[0]
    assert finding.kind in {"noisy", "scale"}
    assert finding.row < 31_500


def test_a_damaged_bearing_is_found_sooner_in_frames_of_the_signal_probe(tmp_path: Path) -> None:
    probe = Signal(
        TensorSpec("x", (1, FRAME), np.dtype(np.float32)), "input", "", 1, bands_for(FRAME), -100.0, 100.0
    )
    names = ",".join(draft.name for draft in probe.streams())

    def frames(signal: Array) -> Array:
        raw = signal[: len(signal) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float32)
        rows = len(raw)
        return probe.extract(Block({"x": raw}, {}, np.zeros(rows), np.zeros(rows, np.int64)))[0]

    normal, fault = _bearing("Normal"), _bearing("IR_7_DE12")
    reference = _csv(tmp_path / "reference.csv", frames(normal[:40_000]), names)
    quiet = frames(normal[40_000:])
    setup = Setup(window_rows=10, row_seconds=FRAME / SAMPLES_A_SECOND)
    control = replay_table(reference, _csv(tmp_path / "quiet.csv", quiet, names), setup, Wishes())
    assert control.findings == ()
    live = np.concatenate([quiet, frames(fault[:20_000])])
    finding = replay_table(reference, _csv(tmp_path / "live.csv", live, names), setup, Wishes()).findings[0]
    assert len(quiet) <= finding.row < len(quiet) + 20
    assert {"rms", "peak"} <= {name for name, _ in finding.streams}
