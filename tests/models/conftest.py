from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pytest

from driftpost_models.build import Built, build_bundle
from models import onnx_files

NOW = datetime.datetime(2026, 3, 1, 12, 0, tzinfo=datetime.timezone.utc)


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 rows in time order: two sensors, a switch, and the true class."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("table")
    lines = ["temperature,humidity,door,label"]
    level = 0.0
    for _ in range(400):
        level = 0.5 * level + rng.normal()
        lines.append(
            f"{20 + level:.4f},{50 + 5 * rng.normal():.3f},{rng.integers(0, 2)},{rng.choice(['dry', 'wet'])}"
        )
    path = folder / "table.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "switch.onnx"
    path.write_bytes(onnx_files.classifier(3, 2))
    return path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, model: Path, table: Path) -> Built:
    """A bundle of a tabular classifier, not signed."""
    out = tmp_path_factory.mktemp("bundle") / "switch.bundle"
    return build_bundle(model, table, out, labels="label", now=lambda: NOW, author="tests")
