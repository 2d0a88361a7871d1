"""Replays against the hour of the day, a context, and in slices."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from driftpost_models.replay import cli

STEP_S, DAY_ROWS = 300, 288
START = datetime.datetime(2026, 3, 2, tzinfo=datetime.timezone.utc)


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.replay, [str(a) for a in arguments], catch_exceptions=False)


def _lines(result: Result) -> list[dict]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def _write(path: Path, first: int, days: int, change: float = 0.0, *, bad: float = 0.0) -> Path:
    rng = np.random.default_rng(first)
    lines = ["time,temperature,confidence,top_class"]
    for row in range(first * DAY_ROWS, (first + days) * DAY_ROWS):
        at = START + datetime.timedelta(seconds=STEP_S * row)
        late = row >= (first + days / 2) * DAY_ROWS
        heat = 20 + 6 * np.sin(2 * np.pi * row / DAY_ROWS) + rng.normal() + change * late
        top = rng.integers(0, 5)
        confidence = 0.9 + 0.03 * rng.normal() - bad * late * (top == 3)
        lines.append(f"{at.isoformat()},{heat:.4f},{confidence:.7f},{top}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two weeks of a reference, and four days of which the second half changes."""
    folder = tmp_path_factory.mktemp("seasons")
    _write(folder / "reference.csv", 0, 14)
    _write(folder / "quiet.csv", 14, 4)
    _write(folder / "warmer.csv", 14, 4, change=1.5)
    _write(folder / "worse.csv", 14, 16, bad=0.06)
    return folder


def _replay(folder: Path, live: str, *options: object) -> list[dict]:
    return _lines(
        _run(
            "--reference", folder / "reference.csv", "--live", folder / live, "--json", "--window", 12,
            "--row-seconds", STEP_S, *options,
        )
    )  # fmt: skip


def test_a_change_beyond_the_daily_course_is_found_by_its_size(folder: Path) -> None:
    *findings, summary = _replay(folder, "warmer.csv", "--season", "hour-of-day")
    (finding,) = findings
    assert finding["stream"] == "temperature for its hour of day"
    assert finding["effect_natural"] == pytest.approx(1.5, abs=0.6)
    assert 2 * DAY_ROWS < finding["row"] < 2.5 * DAY_ROWS
    assert "temperature for its hour of day is 1." in finding["text"]
    assert any("what is usual for the hour of day" in note for note in summary["notes"])


def test_without_the_season_it_is_not_found_and_the_option_is_suggested(folder: Path) -> None:
    *findings, summary = _replay(folder, "warmer.csv")
    assert findings == []
    assert any("a daily cycle shows in temperature" in note for note in summary["notes"])


def test_quiet_days_stay_quiet(folder: Path) -> None:
    assert len(_replay(folder, "quiet.csv", "--season", "hour-of-day", "--slice", "top_class")) == 1


def test_drift_in_one_class_is_found_in_its_slice_and_said_in_words(folder: Path) -> None:
    *findings, _ = _replay(folder, "worse.csv", "--slice", "top_class", "--season", "hour-of-day")
    first = findings[0]
    assert first["stream"] == "confidence where top_class is 3"
    assert first["text"].startswith("confidence where top_class is 3 is 0.0")
    assert "lower" in first["text"]
    assert first["row"] >= 8 * DAY_ROWS


def test_a_start_stands_for_a_column_of_times(folder: Path, tmp_path: Path) -> None:
    stripped = {}
    for name in ("reference.csv", "warmer.csv"):
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        stripped[name] = tmp_path / name
        stripped[name].write_text(
            "\n".join(line.partition(",")[2] for line in lines) + "\n", encoding="utf-8"
        )
    common = (
        "--reference", stripped["reference.csv"], "--live", stripped["warmer.csv"], "--json", "--window", 12,
        "--season", "hour-of-day",
    )  # fmt: skip
    by_column = _replay(folder, "warmer.csv", "--season", "hour-of-day")
    following = _lines(_run(*common, "--row-seconds", STEP_S, "--start", START.isoformat()))
    assert following[:-1] == by_column[:-1]
    noon = _lines(
        _run(
            *common, "--row-seconds", STEP_S, "--start", START.isoformat(), "--live-start", "2026-03-16T12:00"
        )
    )
    assert noon[0]["row"] < DAY_ROWS
    refused = _run(*common)
    assert refused.exit_code == 1
    assert "--time" in refused.output
    assert "--start" in refused.output


def test_a_plot_shows_what_is_left_beyond_the_hour(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = tmp_path / "warmer.png"
    done = _run(
        "--reference", folder / "reference.csv", "--live", folder / "worse.csv", "--window", 12,
        "--row-seconds", STEP_S, "--season", "hour-of-day", "--slice", "top_class", "--plot", drawn,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_a_context_column_gives_the_season_instead_of_the_clock(folder: Path) -> None:
    *_, summary = _replay(folder, "quiet.csv", "--season", "top_class")
    assert any("no course by top_class" in note for note in summary["notes"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--season", "moon"), "neither hour-of-day"),
        (("--slice", "temperature"), "not categorical"),
        (("--slice", "nothing"), "no stream 'nothing'"),
        (("--time", "nothing"), "no column 'nothing'"),
        (("--time", "confidence", "--season", "hour-of-day"), "not in the order of time"),
        (("--start", "soon"), "no point in time"),
        (("--live-start", "2026-01-01"), "goes with --start"),
    ],
)
def test_wishes_that_do_not_fit_end_in_one_readable_line(folder: Path, options: tuple, words: str) -> None:
    done = _run(
        "--reference",
        folder / "reference.csv",
        "--live",
        folder / "quiet.csv",
        "--row-seconds",
        STEP_S,
        *options,
    )
    assert done.exit_code != 0
    assert words in done.output


def test_rows_out_of_order_are_mentioned_where_no_season_needs_them(folder: Path, tmp_path: Path) -> None:
    header, *lines = (folder / "reference.csv").read_text(encoding="utf-8").splitlines()
    shuffled = [lines[i] for i in np.random.default_rng(0).permutation(len(lines))]
    path = tmp_path / "shuffled.csv"
    path.write_text("\n".join([header, *shuffled]) + "\n", encoding="utf-8")
    *_, summary = _lines(
        _run("--reference", path, "--live", folder / "quiet.csv", "--json", "--row-seconds", STEP_S)
    )
    assert any("not in the order of time" in note for note in summary["notes"])


def test_live_rows_without_a_time_are_silent_and_broken_times_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    header, *lines = (folder / "warmer.csv").read_text(encoding="utf-8").splitlines()
    path = tmp_path / "live.csv"
    empty = ["," + line.partition(",")[2] for line in lines]
    path.write_text("\n".join([header, *empty]) + "\n", encoding="utf-8")
    common = ("--reference", folder / "reference.csv", "--live", path, "--json", "--season", "hour-of-day")
    *findings, _ = _lines(_run(*common, "--window", 12, "--row-seconds", STEP_S))
    assert findings == []
    path.write_text("\n".join([header, "soon" + empty[0]]) + "\n", encoding="utf-8")
    refused = _run(*common, "--row-seconds", STEP_S)
    assert refused.exit_code == 1
    assert "'soon' in row 1 of 'time' is no point in time" in refused.output
