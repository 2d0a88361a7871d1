"""Seasons and slices from the policy into a bundle and out of it."""

from __future__ import annotations

import datetime
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from driftpost_models import cli
from driftpost_models.build import Built, build_bundle
from driftpost_models.bundle import Bundle
from driftpost_models.bundle_file import write_archive
from driftpost_models.errors import BundleMalformed, ConfigError, ReferenceRefused
from driftpost_models.probes.block import Block
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.detector import DriftDetector

ROWS_A_DAY, DAYS = 500, 4
START = datetime.datetime(2026, 3, 2, tzinfo=datetime.timezone.utc)
POLICY = """
[policy]
smallest_effects = { temperature = 0.3 }

[policy.season]
by = "hour-of-day"
streams = ["temperature"]

[policy.slices]
by = ["class"]
streams = ["humidity"]
"""


def _table(path: Path, days: int = DAYS) -> Path:
    rng = np.random.default_rng(0)
    lines = ["when,temperature,humidity,door"]
    for row in range(days * ROWS_A_DAY):
        at = START + datetime.timedelta(days=row / ROWS_A_DAY)
        course = 5.0 * math.sin(2 * math.pi * row / ROWS_A_DAY)
        heat, damp = 20 + course + rng.normal(), 50 + 5 * rng.normal()
        lines.append(f"{at.isoformat()},{heat:.4f},{damp:.3f},{rng.integers(0, 2)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "driftpost.toml"
    path.write_text(POLICY, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _table(tmp_path_factory.mktemp("recorded") / "table.csv")


@pytest.fixture(scope="module")
def seasonal(tmp_path_factory: pytest.TempPathFactory, model: Path, policy: Path, recorded: Path) -> Built:
    out = tmp_path_factory.mktemp("seasonal") / "seasonal.bundle"
    return build_bundle(model, recorded, out, config=policy, time="when")


def test_a_bundle_carries_the_derived_streams_last_in_its_schema(seasonal: Built) -> None:
    opened = Bundle.open(seasonal.path, None)
    names = [stream.name for stream in opened.schema.streams if stream.partial]
    assert names[0] == "temperature for its hour of day"
    assert set(names[1:]) <= {"humidity where class is 0", "humidity where class is 1"}
    assert opened.derived == seasonal.bundle.derived
    assert not opened.schema.streams[opened.schema.index("temperature")].tracked
    assert opened.policy.season is not None
    assert opened.calibration.effect("temperature for its hour of day") == 0.3
    assert any("temperature (9" in note for note in seasonal.notes)
    assert opened.provenance["reference"]["times"] == ["2026-03-02T00:00:00", "2026-03-05T23:57:07"]  # type: ignore[index]  # plain JSON


def test_night_and_day_pass_and_a_cold_noon_does_not(seasonal: Built) -> None:
    bundle = seasonal.bundle
    rng = np.random.default_rng(1)
    accumulator, detector = WindowAccumulator(bundle.schema), DriftDetector(bundle.calibration, 14.0)
    probes = bundle.probes.copy()
    alarms = []
    for at in range(2 * ROWS_A_DAY // 20):
        rows = at * 20 + np.arange(20)
        hours = rows / ROWS_A_DAY * 24
        cold = 3.0 * (hours >= 36)
        temperature = 20 + 5 * np.sin(2 * np.pi * hours / 24) + rng.normal(size=20) - cold
        inputs = np.column_stack([temperature, 50 + 5 * rng.normal(size=20), rng.integers(0, 2, 20)])
        answers = np.full((20, 2), 0.5, np.float32)
        name = bundle.inputs[0].name
        block = Block(
            {name: inputs.astype(np.float32)}, {bundle.outputs[0].name: answers}, np.ones(20),
            np.zeros(20, np.int64),
        )  # fmt: skip
        values, codes = probes.extract(block)
        wide = bundle.derived.apply(values, START.timestamp() + 86_400 * DAYS + 3600 * hours)
        kept = [i for i, s in enumerate(bundle.schema.streams) if s.name.startswith("temperature for")]
        accumulator.update(wide, codes)
        window, transitions = accumulator.take()
        alarms += [(hours[0], a) for a in detector.step(transitions, window) if a.streams[0][0] in {
            bundle.schema.streams[i].name for i in kept
        }]  # fmt: skip
    assert alarms
    assert 36 <= alarms[0][0] < 38
    assert alarms[0][1].direction == "down"


def test_times_may_follow_from_a_start(model: Path, policy: Path, tmp_path: Path, seasonal: Built) -> None:
    plain = tmp_path / "plain.csv"
    table = _table(tmp_path / "table.csv")
    lines = [line.partition(",")[2] for line in table.read_text(encoding="utf-8").splitlines()]
    plain.write_text("\n".join(lines) + "\n", encoding="utf-8")
    built = build_bundle(
        model, plain, tmp_path / "b", config=policy, start="2026-03-02T00:00:00Z",
        row_seconds=86_400 / ROWS_A_DAY,
    )  # fmt: skip
    assert built.bundle.derived.season == seasonal.bundle.derived.season


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs the times of the reference's rows"),
        ({"time": "nothing"}, "has no column 'nothing'"),
        ({"time": "falling"}, "not in the order of time"),
        ({"time": "when", "start": "2026-01-01", "row_seconds": 1.0}, "--start"),
        ({"start": "2026-01-01"}, "--start"),
        ({"row_seconds": 1.0}, "--start"),
    ],
)
def test_times_that_are_missing_or_wrong_are_refused(  # noqa: PLR0917  # fixtures
    model: Path, policy: Path, recorded: Path, tmp_path: Path, options: dict, message: str
) -> None:
    table = recorded
    if options.get("time") != "when":
        table = tmp_path / "plain.csv"
        lines = [line.partition(",")[2] for line in recorded.read_text(encoding="utf-8").splitlines()]
        if options.get("time") == "falling":
            lines = [f"falling,{lines[0]}", *(f"{9e8 - row},{line}" for row, line in enumerate(lines[1:]))]
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises((ReferenceRefused, ConfigError), match=message):
        build_bundle(model, table, tmp_path / "b", config=policy, **options)


def test_a_reference_of_a_day_says_how_much_more_it_takes(model: Path, policy: Path, tmp_path: Path) -> None:
    table = _table(tmp_path / "day.csv", days=1)
    with pytest.raises(ReferenceRefused, match=r"covers 1\.0 days.*add 1\.0 days"):
        build_bundle(model, table, tmp_path / "b", config=policy, time="when")


def test_the_command_line_takes_times_and_mentions_a_cycle_that_nobody_asked_for(
    model: Path, recorded: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(
        cli.bundle,
        ["build", "--model", str(model), "--reference", str(recorded), "--out", str(tmp_path / "b"),
         "--time", "when"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "a daily cycle shows in temperature (9" in done.output


def test_inspecting_a_bundle_says_what_is_derived(seasonal: Built) -> None:
    done = CliRunner().invoke(cli.bundle, ["inspect", str(seasonal.path)])
    assert done.exit_code == 0, done.output
    assert "1 stream against what is usual for the hour of day, UTC" in done.output
    assert "by class" in done.output
    plain = json.loads(CliRunner().invoke(cli.bundle, ["inspect", "--json", str(seasonal.path)]).output)
    assert plain["policy"]["season"] == {"by": "hour-of-day", "streams": ["temperature"], "clock": "utc"}
    assert plain["streams"][-1]["partial"]


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: {**plain, "columns": plain["columns"][1:]},
        lambda plain: {**plain, "slices": []},
        lambda plain: {**plain, "version": 9},
        lambda plain: {**plain, "season": None},
        lambda plain: [],
    ],
)
def test_a_plan_that_does_not_make_the_schemas_streams_is_refused(
    seasonal: Built, tmp_path: Path, change: object
) -> None:
    with zipfile.ZipFile(seasonal.path) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name != "manifest.json"}
    plain = json.loads(members["derived.json"])
    members["derived.json"] = json.dumps(change(plain)).encode()  # type: ignore[operator]  # a lambda above
    bundle = seasonal.bundle
    header = {"name": bundle.name, "version": bundle.version, "created": bundle.created}
    path = tmp_path / "other.bundle"
    write_archive(path, header, members, None)
    with pytest.raises(BundleMalformed):
        Bundle.open(path, None)
