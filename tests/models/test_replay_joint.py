"""Recorded streams that stop hanging together: replay tells of it though no column changed by itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from driftpost_models.replay import cli
from hanging_together import factor_rows


def _csv(path: Path, rows: np.ndarray) -> Path:
    names = ",".join(f"sensor{i}" for i in range(rows.shape[1]))
    np.savetxt(path, rows, delimiter=",", header=names, comments="", fmt="%.5f")
    return path


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    rng = np.random.default_rng(8)
    folder = tmp_path_factory.mktemp("joint")
    live = factor_rows(rng, 4_000, 5)
    live[2_000:, 3] *= -1.0
    return _csv(folder / "may.csv", factor_rows(rng, 6_000, 5)), _csv(folder / "june.csv", live)


def _replay(*arguments: object) -> str:
    result = CliRunner().invoke(cli.replay, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_broken_correlation_is_a_finding_with_its_row(tables: tuple[Path, Path]) -> None:
    reference, live = tables
    out = _replay("--reference", reference, "--live", live, "--window", 50, "--json")
    findings = [one for one in map(json.loads, out.splitlines()) if one["type"] == "finding"]
    assert [one["kind"] for one in findings] == ["joint"]
    assert findings[0]["stream"] == "sensor3"
    assert findings[0]["direction"] == "down"
    assert 1_950 <= findings[0]["onset_row"] <= 2_050
    assert 2_000 <= findings[0]["row"] <= 2_250


def test_the_table_and_the_plot_show_it(tables: tuple[Path, Path], tmp_path: Path) -> None:
    reference, live = tables
    plot = tmp_path / "out.png"
    text = _replay("--reference", reference, "--live", live, "--window", 50, "--plot", plot)
    assert "joint" in text
    assert "sensor3" in text
    assert plot.stat().st_size > 10_000
