"""A bundle without reference: its streams have no bins until a device has learnt them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from driftpost_models.build import build_bundle
from driftpost_models.bundle import Bundle, describe
from driftpost_models.cli import bundle as command
from driftpost_models.errors import ReferenceRefused
from driftpost_models.report import inspect_text
from driftpost_models.runtime import load_model
from driftpost_sketches.schema import StreamKind
from models.onnx_files import classifier


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_bundle_without_reference_says_what_a_device_has_to_learn(tmp_path: Path) -> None:
    model = write(tmp_path / "model.onnx", classifier())
    built = build_bundle(model, None, tmp_path / "out.bundle")
    bundle = Bundle.open(built.path, None)
    tracked = {draft.name for draft in bundle.probes.drafts if draft.tracked}
    assert tracked
    assert set(bundle.unknown_streams) == {
        s.name for s in bundle.schema.streams if s.name in tracked and s.kind is not StreamKind.CODES
    }
    assert not len(bundle.schema.tracked_streams)
    assert not bundle.limits
    assert bundle.calibration.baseline.rows == 0
    assert any("learns its own normal for 1 week" in note for note in built.notes)
    runtime = load_model(bundle.model_bytes, kind=bundle.model_kind)
    assert bundle.self_test(runtime).ok
    runtime.close()
    assert describe(bundle)["tau"] == {}
    page = inspect_text(bundle)
    assert "none: every device learns its own normal" in page
    assert "learnt on the device" in page


def test_a_few_example_rows_choose_the_probes_and_are_no_reference(tmp_path: Path) -> None:
    model = write(tmp_path / "model.onnx", classifier())
    config = tmp_path / "config.toml"
    config.write_text('[policy.site]\nbaseline = true\ncommission = "5,000 rows"\n')
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    np.savez(tmp_path / "few.npz", x=rows)
    built = build_bundle(model, tmp_path / "few.npz", tmp_path / "out.bundle", config=config)
    assert built.bundle.unknown_streams
    assert "for 5,000 rows" in inspect_text(built.bundle)
    with pytest.raises(ReferenceRefused):
        build_bundle(model, tmp_path / "few.npz", tmp_path / "other.bundle")


def test_what_only_a_reference_can_give_is_refused(tmp_path: Path) -> None:
    model = write(tmp_path / "model.onnx", classifier())
    config = tmp_path / "config.toml"
    config.write_text('[policy.season]\nby = "hour-of-day"\n')
    with pytest.raises(ReferenceRefused, match="season"):
        build_bundle(model, None, tmp_path / "out.bundle", config=config)
    outcome = CliRunner().invoke(
        command, ["build", "--model", str(model), "--out", str(tmp_path / "x.bundle"), "--labels", "y"]
    )
    assert outcome.exit_code == 2
    assert "--reference" in outcome.output
