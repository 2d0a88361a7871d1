"""`driftpost agent windows` and `export`: what the store holds, for people and for programs."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from agent.bundles import tabular_rows
from agent.clocks import ManualClock
from agent.daemons import toml
from driftpost import Guard
from driftpost_agent.cli import agent
from driftpost_agent.errors import StoreUnusable
from driftpost_agent.export import STREAM_FIELDS, windows_as_arrays
from driftpost_agent.local_history import LocalHistory, StoredWindow
from driftpost_agent.sparkline import BLOCKS, GAP, sparkline
from driftpost_agent.store import Store
from driftpost_models.bundle import Bundle
from mosquitto import free_port

WINDOWS = 30


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory, bundles: Path) -> Path:
    """agent.toml of a device that has recorded windows, the last ten of them three sd too high."""
    folder = tmp_path_factory.mktemp("device")
    bundle = Bundle.open(bundles / "mlp.bundle", None)
    installed = folder / "state" / "bundles"
    installed.mkdir(parents=True)
    (installed / f"{bundle.id}.bundle").write_bytes((bundles / "mlp.bundle").read_bytes())
    clock = ManualClock(wall_ms=1_750_000_000_000)
    with Store.open(folder / "state" / "agent.db", clock=clock) as store:
        guard = Guard(bundle, store=store, clock=clock, window_seconds=1.0, threaded=False)
        for number in range(WINDOWS):
            shift = 3.0 if number >= WINDOWS - 10 else 0.0
            guard.run(tabular_rows(40, seed=number, shift=shift))
            clock.advance(1_000)
            guard.tick()
        guard.close()
    config = folder / "agent.toml"
    config.write_text(
        f"[device]\nid = 'cam-1'\n[model]\nbundle = {toml(bundles / 'mlp.bundle')}\n"
        f"trusted_keys = [{toml(bundles / 'team.pub')}]\n[server]\nport = {free_port()}\n"
    )
    return config


def run(*arguments: object) -> str:
    outcome = CliRunner().invoke(agent, [str(argument) for argument in arguments])
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


@pytest.mark.parametrize("kept", [WINDOWS - 3, 0])
def test_windows_that_are_removed_during_an_export_leave_no_empty_rows(
    device: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    everything = LocalHistory.windows

    def fewer(history: LocalHistory, *args: Any, **options: Any) -> Iterator[StoredWindow]:
        return itertools.islice(everything(history, *args, **options), kept)

    with (
        LocalHistory(device.parent / "state" / "agent.db") as history,
        (device.parent / "short.npz").open("wb") as out,
    ):
        bundle = Bundle.open(next((device.parent / "state" / "bundles").iterdir()), None)
        total = history.count_windows(bundle.id)
        monkeypatch.setattr(LocalHistory, "windows", fewer)
        monkeypatch.setattr(LocalHistory, "count_windows", lambda *_: total)
        assert windows_as_arrays(history, bundle.id, bundle.schema, out, lambda _: None) == kept
    with np.load(device.parent / "short.npz") as arrays:
        assert len(arrays["seq"]) == len(arrays["mean"]) == len(arrays["counts"]) == kept
        assert (arrays["rows"] > 0).all()


@pytest.mark.parametrize("what", ["windows", "findings"])
def test_a_store_that_proves_damaged_while_it_is_read_is_told_with_what_to_do(
    device: Path, tmp_path: Path, what: str
) -> None:
    shutil.copytree(device.parent, tmp_path / "device")
    path = tmp_path / "device" / "state" / "agent.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("pragma wal_checkpoint(truncate)")
        (size,) = db.execute("pragma page_size").fetchone()
    with LocalHistory(path) as history:
        # Damage comes to light page by page: those that opening it has read are fine.
        with path.open("r+b") as file:
            for page in range(1, path.stat().st_size // size):
                file.seek(page * size)
                file.write(b"\xff" * 64)
        read = history.windows if what == "windows" else history.findings
        with pytest.raises(StoreUnusable, match="Start the agent: it takes over what can be read"):
            list(read())


def test_every_stream_has_a_line_with_its_course_and_its_change(device: Path) -> None:
    page = run("windows", "--config", device, "--last", WINDOWS)
    lines = {line.split()[0]: line for line in page.splitlines() if line.strip()}
    assert "30 windows, 1200 rows" in page.splitlines()[0]
    first = lines["x[0]"] if "x[0]" in lines else next(line for name, line in lines.items() if "0" in name)
    course = first.split()[1]
    assert len(course) == WINDOWS
    assert set(course[:20]) <= set(BLOCKS[2:6])
    assert set(course[-10:]) <= set(BLOCKS[-2:])
    assert "+1.0" in first or "+0.9" in first
    assert "! finding" in page


def test_streams_can_be_chosen_and_programs_get_json(device: Path) -> None:
    plain = json.loads(run("windows", "--config", device, "--stream", "conf*", "--json", "--last", 5))
    assert [line["stream"] for line in plain["streams"]] == ["confidence"]
    assert len(plain["streams"][0]["course"]) == 5
    assert plain["windows"] == 5
    assert plain["board"] == {}
    assert "no stream has that name" in run("windows", "--config", device, "--stream", "nothing*")


def test_json_lines_have_every_window_with_its_streams_and_counts_on_demand(device: Path) -> None:
    lines = [json.loads(line) for line in run("export", "--config", device, "--counts").splitlines()]
    assert len(lines) == WINDOWS
    assert [line["seq"] for line in lines] == sorted(line["seq"] for line in lines)
    assert sum(line["rows"] for line in lines) == 40 * WINDOWS
    assert lines[0]["wall_end"] > 1_750_000_000_000
    stream = lines[0]["streams"]["confidence"]
    assert sum(stream["counts"]) == stream["rows"] == 40
    assert stream["low"] <= stream["mean"] <= stream["high"]


def test_a_table_has_a_row_for_each_stream_of_each_window(device: Path, tmp_path: Path) -> None:
    run("export", "--config", device, "-o", tmp_path / "w.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "w.csv").read_text(encoding="utf-8"))))
    names = {row["stream"] for row in rows}
    assert len(rows) == WINDOWS * len(names)
    assert {"window_seq", "window_bundle", "stream", *STREAM_FIELDS} <= set(rows[0])
    assert [path.name for path in tmp_path.iterdir()] == ["w.csv"]


def test_arrays_hold_the_same_numbers(device: Path, tmp_path: Path) -> None:
    run("export", "--config", device, "-o", tmp_path / "w.npz")
    with np.load(tmp_path / "w.npz", allow_pickle=False) as arrays:
        column = list(arrays["streams"]).index("confidence")
        assert arrays["mean"].shape == (WINDOWS, len(arrays["streams"]))
        assert arrays["rows"][:, column].tolist() == [40] * WINDOWS
        begin, end = arrays["layout"][column : column + 2]
        assert (arrays["counts"][:, begin:end].sum(axis=1) == 40).all()
        assert (np.diff(arrays["mono_end"]) > 0).all()
    lines = [json.loads(line) for line in run("export", "--config", device).splitlines()]
    with np.load(tmp_path / "w.npz", allow_pickle=False) as arrays:
        np.testing.assert_allclose(
            arrays["mean"][:, column], [line["streams"]["confidence"]["mean"] for line in lines]
        )


def test_findings_and_the_ledger_come_as_lines_and_tables(device: Path) -> None:
    findings = [
        json.loads(line) for line in run("export", "--config", device, "--what", "findings").splitlines()
    ]
    assert findings
    assert findings[0]["state"] == "raised"
    (account,) = csv.DictReader(
        io.StringIO(run("export", "--config", device, "--what", "ledger", "--format", "csv"))
    )
    assert int(account["recorded_windows"]) == WINDOWS
    assert int(account["recorded_windows"]) == int(account["acked_windows"]) + int(account["pending_windows"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--what", "findings", "--format", "npz"], "arrays are for windows"),
        (["--format", "csv", "--counts"], "no place for bins"),
        (["--format", "npz", "--bundle", "zzz"], "0 installed bundles"),
        (["-o", "/nowhere/at/all.csv"], "can't be written"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_word(device: Path, arguments: list[str], words: str) -> None:
    outcome = CliRunner().invoke(agent, ["export", "--config", str(device), *arguments])
    assert outcome.exit_code == 1
    assert words in outcome.output


def test_a_device_that_never_ran_says_so(tmp_path: Path, device: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(device.read_text())
    for command in ("windows", "export"):
        outcome = CliRunner().invoke(agent, [command, "--config", str(config)])
        assert outcome.exit_code == 1
        assert "there is none yet" in str(outcome.exception) + outcome.output


@pytest.fixture
def damaged(device: Path, tmp_path: Path) -> Path:
    source = sqlite3.connect(device.parent / "state" / "agent.db")
    copy = sqlite3.connect(tmp_path / "agent.db")
    source.backup(copy)
    copy.execute("update messages set body = x'c1' where kind = 'window' and seq = 7")
    copy.commit()
    source.close()
    copy.close()
    return tmp_path / "agent.db"


def test_a_window_that_can_not_be_read_is_counted_and_passed_over(damaged: Path) -> None:
    with LocalHistory(damaged) as history:
        assert len(list(history.windows())) == WINDOWS - 1
        assert history.unreadable == 1


def test_a_courses_ends_and_gaps_are_drawn() -> None:
    assert sparkline([-9.0, 9.0, float("nan")], -3, 3) == BLOCKS[0] + BLOCKS[-1] + GAP
    assert sparkline([5.0, 5.0], 5, 5) == BLOCKS[4] * 2
    assert sparkline([], 0, 1) == ""
