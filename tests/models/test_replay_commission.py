"""Replaying a device that learns its own normal from the first rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from driftpost_models.replay.cli import replay
from realdata import REALDATA, needs_realdata


def recording(
    path: Path, rows: int, seed: int, offset: float = 0.0, change: tuple[int, float] = (0, 0.0)
) -> Path:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, 2))
    for row in range(1, rows):
        values[row] = 0.5 * values[row - 1] + np.sqrt(0.75) * values[row]
    values[:, 0] += offset
    values[change[0] :, 0] += change[1]
    mode = rng.choice(["a", "b", "c"], rows, p=[0.6, 0.3, 0.1])
    lines = ["x,y,mode", *(f"{x:.5f},{y:.5f},{m}" for (x, y), m in zip(values, mode, strict=True))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(*arguments: object) -> tuple[list[dict[str, object]], dict[str, object]]:
    outcome = CliRunner().invoke(replay, [*(str(a) for a in arguments), "--json"])
    assert outcome.exit_code == 0, outcome.output
    lines = [json.loads(line) for line in outcome.stdout.splitlines()]
    return lines[:-1], lines[-1]


def test_an_offset_is_skew_and_a_later_change_is_drift_from_the_own_normal(tmp_path: Path) -> None:
    reference = recording(tmp_path / "ref.csv", 10_000, 1)
    live = recording(tmp_path / "live.csv", 14_000, 2, offset=1.0, change=(9_000, 0.5))
    findings, summary = run("--reference", reference, "--live", live, "--commission", 6_000)
    assert [(f["kind"], f["baseline"], f["stream"]) for f in findings] == [
        ("skew", "training", "x"),
        ("shift", "site", "x"),
    ]
    assert 6_000 <= int(str(findings[0]["row"])) < 6_300
    # Over ten seeds the change is found after 400 to 1,200 rows.
    assert 9_000 <= int(str(findings[1]["row"])) < 10_300
    assert summary["commissioning"] == {
        "rows": 6_000,
        "mode": "watching",
        "learnt_rows": 5_400,
        "skew": [findings[0]["text"]],
    }
    text = (
        CliRunner()
        .invoke(replay, ["--reference", str(reference), "--live", str(live), "--commission", "6000"])
        .output
    )
    assert "own normal learnt from 5,400 of the first 6,000 live rows" in text
    assert "(against its own normal)" in text


def test_without_any_reference_the_first_rows_teach_what_is_normal(tmp_path: Path) -> None:
    live = recording(tmp_path / "live.csv", 14_000, 3, offset=40.0, change=(9_000, 1.0))
    findings, summary = run("--live", live, "--commission", 6_000)
    assert [(f["kind"], f["baseline"], f["stream"]) for f in findings] == [("shift", "site", "x")]
    assert summary["stream_names"] == ["x", "y", "mode"]
    assert summary["rows"] == 14_000


def test_a_recording_that_is_too_short_says_so(tmp_path: Path) -> None:
    live = recording(tmp_path / "live.csv", 2_000, 4)
    findings, summary = run("--live", live, "--commission", 5_000)
    assert not findings
    assert any("commissioning is not over: 2,000 of 5,000" in str(n) for n in summary["notes"])  # type: ignore[attr-defined]


def test_what_breaks_while_it_learns_stops_it(tmp_path: Path) -> None:
    reference = recording(tmp_path / "ref.csv", 10_000, 5)
    live = recording(tmp_path / "live.csv", 9_000, 6, change=(3_000, 3.0))
    findings, summary = run("--reference", reference, "--live", live, "--commission", 6_000)
    assert [(f["kind"], f["baseline"]) for f in findings] == [("shift", "training")]
    assert any("as an alarm stands" in str(n) for n in summary["notes"])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--commission", "10"], "1000"),
        (["--commission", "2000", "--labels", "mode"], "need a --reference"),
        (["--commission", "2000", "--plot", "a.png"], "--plot needs"),
        ([], "only --commission ROWS"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, arguments: list[str], problem: str) -> None:
    live = recording(tmp_path / "live.csv", 60, 7)
    outcome = CliRunner().invoke(replay, ["--live", str(live), *arguments])
    assert outcome.exit_code == 2
    assert problem in outcome.output


@needs_realdata
@pytest.mark.parametrize("name", ["art_daily_no_noise", "art_flatline", "art_noisy"])
def test_real_controls_stay_silent_after_they_taught_their_own_normal(name: str) -> None:
    path = REALDATA / "data" / "nab" / f"{name}.csv"
    findings, summary = run("--live", path, "--commission", 2_000, "--row-seconds", 300)
    assert not findings
    assert summary["commissioning"]["mode"] == "watching"  # type: ignore[index]


@needs_realdata
def test_electricity_that_taught_its_own_normal_is_found_to_change_where_it_does(tmp_path: Path) -> None:
    change, begin = 17_424, 8_000  # row from which Victoria's columns are alive
    header, *rows = (REALDATA / "data" / "streams" / "elec.csv").read_text(encoding="utf-8").splitlines()
    live = tmp_path / "elec.csv"
    live.write_text("\n".join([header, *rows[begin : change + 400]]) + "\n", encoding="utf-8")
    findings, _ = run("--live", live, "--commission", 6_000, "--row-seconds", 1800, "--window", 48)
    assert {f["baseline"] for f in findings} <= {"site"}
    there = [f for f in findings if int(str(f["row"])) >= change - begin]
    assert there
    assert int(str(there[0]["row"])) <= change - begin + 48
    assert str(there[0]["stream"]) in {"vicprice", "vicdemand", "transfer"}


def gas(batch: int) -> list[str]:
    """Rows of one batch, mixed: in the files gases come one after the other, in the field they do not."""
    rows = []
    text = (REALDATA / "data" / "gas_drift" / f"batch{batch}.dat").read_text(encoding="ascii")
    for line in text.splitlines():
        label, *features = line.split()
        rows.append(",".join([label.partition(";")[0], *(f.partition(":")[2] for f in features)]))
    return [rows[i] for i in np.random.default_rng(batch).permutation(len(rows))]


@needs_realdata
def test_gas_sensors_age_after_they_taught_their_own_normal(tmp_path: Path) -> None:
    header = ",".join(["gas", *(f"f{i}" for i in range(1, 129))])
    young, aged = gas(2), gas(4)
    live = tmp_path / "live.csv"
    live.write_text("\n".join([header, *young, *aged]) + "\n", encoding="utf-8")
    findings, summary = run("--live", live, "--commission", 1_000, "--window", 20)
    assert summary["commissioning"]["mode"] == "watching"  # type: ignore[index]
    assert findings
    assert len(young) <= int(str(findings[0]["row"])) < len(young) + 60


@needs_realdata
def test_gas_sensors_that_aged_before_they_were_installed_are_told_of(tmp_path: Path) -> None:
    header = ",".join(["gas", *(f"f{i}" for i in range(1, 129))])
    for batch in (1, 2):
        (tmp_path / f"{batch}.csv").write_text("\n".join([header, *gas(batch)]) + "\n", encoding="utf-8")
    files = ("--reference", tmp_path / "1.csv", "--live", tmp_path / "2.csv")
    findings, summary = run(*files, "--commission", 1_000, "--window", 50)
    assert findings
    # A fault stops the learning; what a place or age can make is measured as skew. Never is it passed over.
    held = summary["commissioning"]["mode"] == "held"  # type: ignore[index]
    assert (findings[0]["kind"] == "skew") is not held
    assert len(findings[0]["streams"]) > 10  # type: ignore[arg-type]
