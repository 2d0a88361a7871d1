"""Real recordings against the hour: what is left beyond the daily course is silent until it changes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from driftpost_models.replay.columns import Wishes
from driftpost_models.replay.replay import Replay, replay_table
from driftpost_models.replay.setup import Setup
from realdata import REALDATA, needs_realdata

pytestmark = needs_realdata

DATA = REALDATA / "data"
REFERENCE_ROWS, CHANGE = 10_000, 17_424  # Victoria's columns are alive from that row on
HALF_HOUR, HOUR, FIVE_MINUTES = 1800.0, 3600.0, 300.0


def _split(path: Path, folder: Path, first: int, last: int | None = None) -> tuple[Path, Path]:
    """A file's rows before `first` as a reference, and those from there to `last` as live ones."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    made = []
    for name, part in (("reference.csv", rows[:first]), ("live.csv", rows[first:last])):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *part])
        made.append(folder / name)
    return made[0], made[1]


def _electricity(folder: Path, last: int) -> Replay:
    files = _split(DATA / "streams" / "elec.csv", folder, REFERENCE_ROWS, last)
    # The recording begins on 7 May 1996 at midnight; its own column of times is the day's share.
    setup = Setup(row_seconds=HALF_HOUR, season="hour-of-week", start="1996-05-07T00:00")
    return replay_table(*files, setup, Wishes(labels="class", ignore=frozenset({"period"})))


def test_five_months_of_days_and_weeks_hold_no_more_alarms_than_the_budget(tmp_path: Path) -> None:
    """0.42 years at one a year: a second alarm would speak against the promise, one does not.

    The reference begins in May and knows no summer; that demand swings a third wider in it may be told.
    """
    result = _electricity(tmp_path, CHANGE)
    assert len(result.findings) <= 1
    assert all((f.stream, f.kind) == ("nswdemand for its hour of week", "scale") for f in result.findings)
    # Next to nothing above what an alarm takes: odds of 231 against 175 to 1.
    assert all(f.log_e < result.log_threshold + 1.0 for f in result.findings)
    assert "nswdemand for its hour of week" in result.calibration.tracked_names
    (note,) = [note for note in result.notes if "usual for the hour of week" in note]
    assert "nswdemand (7" in note


def test_electricity_changes_where_it_does_with_a_season_too(tmp_path: Path) -> None:
    result = _electricity(tmp_path, 20_000)
    (found,) = [f for f in result.findings if f.row >= CHANGE - REFERENCE_ROWS]
    assert {"transfer", "vicdemand", "vicprice"} <= {name for name, _ in found.streams}
    assert found.onset_row <= CHANGE - REFERENCE_ROWS <= found.row < CHANGE - REFERENCE_ROWS + 100


@pytest.mark.parametrize("name", ["art_daily_no_noise", "art_flatline", "art_noisy"])
def test_controls_without_anomaly_stay_silent_against_the_hour(tmp_path: Path, name: str) -> None:
    files = _split(DATA / "nab" / f"{name}.csv", tmp_path, 2016)
    assert (
        replay_table(*files, Setup(row_seconds=FIVE_MINUTES, season="hour-of-day"), Wishes()).findings == ()
    )


def test_an_offices_hours_are_known_and_its_year_is_not(tmp_path: Path) -> None:
    """A course of the day is small beside the half year that the reference lacks; the notes say how small."""
    files = _split(DATA / "nab" / "ambient_temperature_system_failure.csv", tmp_path, 3_633)
    result = replay_table(*files, Setup(row_seconds=HOUR, season="hour-of-day"), Wishes())
    assert any("value (4%)" in note for note in result.notes)
    (short,) = [note for note in result.notes if "until then changes below" in note]
    assert short.startswith("value for its hour of day")
    assert all(f.stream == "value for its hour of day" for f in result.findings)
