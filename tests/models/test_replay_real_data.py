"""Real recordings: changes with a known place are found there, and what is alike stays silent."""

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
ELEC_CHANGE = 17_424  # row from which Victoria's columns are alive
HALF_HOUR, MINUTE, FIVE_MINUTES, HOUR = 1800.0, 60.0, 300.0, 3600.0


def _rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def _table(path: Path, header: list[str], rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def _replay(
    folder: Path,
    header: list[str],
    reference: list[list[str]],
    live: list[list[str]],
    *,
    row_seconds: float,
    labels: str | None = None,
    slices: tuple[str, ...] = (),
) -> Replay:
    return replay_table(
        _table(folder / "reference.csv", header, reference),
        _table(folder / "live.csv", header, live),
        Setup(row_seconds=row_seconds, slices=slices),
        Wishes(labels=labels),
    )


def _elec() -> tuple[list[str], list[list[str]]]:
    header, *rows = _rows(DATA / "streams" / "elec.csv")
    return header, rows


def test_electricity_is_found_to_change_in_the_window_in_which_it_does(tmp_path: Path) -> None:
    header, rows = _elec()
    result = _replay(
        tmp_path, header, rows[:10_000], rows[10_000:30_000], row_seconds=HALF_HOUR, labels="class"
    )
    change = ELEC_CHANGE - 10_000
    finding, *later = result.findings
    named = {name for name, _ in finding.streams}
    assert {"vicprice", "vicdemand", "transfer"} <= named
    assert finding.onset_row <= change <= finding.row < change + 100
    # New South Wales' own prices move months later; that they hang together otherwise is told as well.
    assert [f.kind for f in later] in (["shift"], ["shift", "joint"])
    assert all(f.row > change + 3_000 for f in later)
    assert any("constant in the reference" in note for note in result.notes)


def test_electricity_is_quiet_for_five_months_before_the_change(tmp_path: Path) -> None:
    header, rows = _elec()
    result = _replay(
        tmp_path, header, rows[:10_000], rows[10_000:ELEC_CHANGE], row_seconds=HALF_HOUR, labels="class"
    )
    assert result.findings == ()
    # It is silent because it discounts what it can not know, and says so.
    assert any(note.startswith("period: remembers longer") for note in result.notes)


@pytest.mark.parametrize("name", ["art_daily_no_noise", "art_flatline", "art_noisy"])
def test_controls_without_anomaly_stay_silent(tmp_path: Path, name: str) -> None:
    header, *rows = _rows(DATA / "nab" / f"{name}.csv")
    half = len(rows) // 2
    result = _replay(tmp_path, header, rows[:half], rows[half:], row_seconds=FIVE_MINUTES)
    assert result.findings == ()
    assert "timestamp: points in time; left out" in result.notes


def test_an_office_in_its_cold_half_year_is_no_finding_and_the_doubt_is_stated(tmp_path: Path) -> None:
    """Half a year that holds one season counts as so few rows that no colder half can be called a change."""
    header, *rows = _rows(DATA / "nab" / "ambient_temperature_system_failure.csv")
    half = len(rows) // 2
    result = _replay(tmp_path, header, rows[:half], rows[half:], row_seconds=HOUR)
    assert result.findings == ()
    assert any("count as only 17 independent ones" in note for note in result.notes)
    assert any("stay unseen" in note for note in result.notes)


def _room(name: str) -> tuple[list[str], list[list[str]]]:
    header, *rows = _rows(DATA / "occupancy" / f"{name}.txt")
    return ["id", *header], rows


def test_a_room_seen_for_six_days_promises_nothing_it_can_not_keep(tmp_path: Path) -> None:
    (header, rows), (_, live) = _room("datatraining"), _room("datatest2")
    result = _replay(tmp_path, header, rows, live, row_seconds=MINUTE, labels="Occupancy")
    assert result.findings == ()
    short = [note for note in result.notes if "until then changes below" in note]
    assert {note.partition(":")[0] for note in short} >= {"Temperature", "Humidity", "Light", "CO2"}


def test_a_room_by_whether_it_is_occupied_stays_silent_in_what_is_like_its_reference(tmp_path: Path) -> None:
    header, rows = _room("datatraining")
    for reference, live in ((rows[:5428], rows[5428:]), (rows, _room("datatest")[1])):
        result = _replay(
            tmp_path, header, reference, live, row_seconds=MINUTE, labels="Occupancy", slices=("Occupancy",)
        )
        assert "CO2 where Occupancy is 0" in {stream.name for stream in result.calibration.schema.streams}
        assert result.findings == ()


def _gas(batch: int) -> list[list[str]]:
    rows = []
    for line in (DATA / "gas_drift" / f"batch{batch}.dat").read_text(encoding="ascii").splitlines():
        label, *features = line.split()
        rows.append([label.partition(";")[0], *(feature.partition(":")[2] for feature in features)])
    return rows


@pytest.mark.parametrize(("batch", "latest"), [(2, 499), (4, 99)])
def test_gas_sensors_have_aged_from_batch_to_batch(tmp_path: Path, batch: int, latest: int) -> None:
    header = ["gas", *(f"f{i}" for i in range(1, 129))]
    result = _replay(tmp_path, header, _gas(1), _gas(batch), row_seconds=1.0, labels="gas")
    assert result.findings
    assert result.findings[0].row <= latest
    assert all(finding.kind in {"shift", "scale", "shape"} for finding in result.findings)
    assert len({name for finding in result.findings for name, _ in finding.streams}) > 20
