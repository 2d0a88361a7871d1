"""The joint plan: from a reference into a bundle, out of it, and to the aggregator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from driftpost_models.build import Built, build_bundle
from driftpost_models.bundle import Bundle, describe
from driftpost_sketches.drift.joint.plan import JointPlan


def _table(path: Path, rows: int) -> Path:
    rng = np.random.default_rng(0)
    heat = 20 + 3 * rng.normal(size=rows)
    damp = 50 - heat + rng.normal(size=rows)
    table = np.column_stack([heat, damp, rng.integers(0, 2, rows)])
    np.savetxt(path, table, delimiter=",", header="temperature,humidity,door", comments="", fmt="%.4f")
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Built:
    folder = tmp_path_factory.mktemp("joint")
    return build_bundle(model, _table(folder / "table.csv", 3_000), folder / "out.bundle")


def test_a_bundle_watches_how_its_streams_hang_together(built: Built) -> None:
    opened = Bundle.open(built.path, None)
    plan = opened.calibration.joint
    assert plan is not None
    assert built.bundle.calibration.joint is not None
    assert plan.to_bytes() == built.bundle.calibration.joint.to_bytes()
    names = [opened.calibration.tracked_names[t] for t in plan.features.carriers.streams]
    assert {"temperature", "humidity"} <= set(names)
    at = [names.index("temperature"), names.index("humidity")]
    assert plan.coupling[at[0], at[1]] < -0.7


def test_its_description_brings_the_plan_to_the_aggregator(built: Built) -> None:
    joint = describe(built.bundle)["joint"]
    assert isinstance(joint, bytes)
    tracked = len(built.bundle.calibration.tracked_names)
    assert JointPlan.from_bytes(joint, tracked).to_bytes() == joint


def test_a_policy_can_leave_it_out(tmp_path: Path, model: Path) -> None:
    policy = tmp_path / "driftpost.toml"
    policy.write_text("[policy]\njoint = false\n", encoding="utf-8")
    built = build_bundle(model, _table(tmp_path / "table.csv", 3_000), tmp_path / "b", config=policy)
    assert built.bundle.calibration.joint is None
    assert not built.bundle.policy.joint
    assert describe(built.bundle)["joint"] == b""


def test_a_reference_that_is_too_short_for_it_says_so(tmp_path: Path, model: Path) -> None:
    built = build_bundle(model, _table(tmp_path / "table.csv", 600), tmp_path / "b")
    assert built.bundle.calibration.joint is None
    assert any("no joint test of several streams" in note for note in built.notes)
