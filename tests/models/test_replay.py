"""Recorded data through the detectors: what they find, where, and what they keep silent about."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from driftpost_models.build import Built
from driftpost_models.replay import cli
from driftpost_models.replay.columns import Wishes
from driftpost_models.replay.replay import replay_table
from driftpost_models.replay.setup import Setup
from driftpost_models.replay.trace import MAX_POINTS, Trace
from driftpost_models.replay.watch import Watch
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.calibration import Calibration
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.fitting import fit_numeric
from driftpost_sketches.schema import Role, Schema


def _csv(path: Path, columns: dict[str, np.ndarray]) -> Path:
    lines = [",".join(columns)]
    lines += [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.replay, [str(a) for a in arguments], catch_exceptions=False)


def _lines(result: Result) -> list[dict]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference, a quiet live recording, and one that shifts at row 1,000 and is back at row 2,000."""
    rng = np.random.default_rng(5)
    folder = tmp_path_factory.mktemp("recorded")
    words = np.array(["open", "shut"])

    def table(rows: int, shift: slice | None) -> dict[str, np.ndarray]:
        level, other = rng.normal(size=rows).round(4), rng.normal(size=rows).round(4)
        door = words[rng.integers(0, 2, rows)]
        if shift is not None:
            level[shift] += 2.0
        return {"level": level, "other": other, "door": door}

    _csv(folder / "reference.csv", table(5000, None))
    _csv(folder / "quiet.csv", table(3000, None))
    _csv(folder / "shifted.csv", table(3050, slice(1000, 2000)))
    return folder


def test_a_change_is_found_where_it_begins_and_is_over_where_it_ends(folder: Path) -> None:
    *findings, summary = _lines(
        _run("--reference", folder / "reference.csv", "--live", folder / "shifted.csv", "--json")
    )
    (finding,) = findings
    assert finding["type"] == "finding"
    assert (finding["stream"], finding["kind"], finding["direction"]) == ("level", "shift", "up")
    assert (finding["row"], finding["onset_row"]) == (1099, 1000)
    assert 2000 <= finding["cleared_row"] < 2500
    assert finding["effect"] == pytest.approx(2.0, abs=0.2)
    assert finding["log_e"] >= summary["log_threshold"]
    assert summary["type"] == "summary"
    assert (summary["rows"], summary["streams"], summary["findings"]) == (3050, 3, 1)
    assert summary["budget"] == "1 per device-year"
    assert summary["windows"] == 31  # the last one of 50 rows
    assert any("a row each 1 s is assumed" in note for note in summary["notes"])


def test_sizes_have_true_minus_signs_and_end_where_the_reference_hardly_moved(
    folder: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    still = {"level": np.full(3000, 5.0), "other": rng.normal(size=3000)}
    _csv(tmp_path / "reference.csv", still)
    _csv(tmp_path / "live.csv", {"level": np.full(500, 4.0), "other": rng.normal(size=500)})
    shown = _run("--reference", tmp_path / "reference.csv", "--live", tmp_path / "live.csv").stdout
    minus = "\N{MINUS SIGN}"
    assert f"<{minus}50 sd" in shown
    assert "more than 50 reference sd" in shown


def test_live_rows_out_of_the_order_of_time_are_noted(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    times = [f"2026-03-01T{i // 60 % 24:02}:{i % 60:02}:00" for i in range(1200)]
    _csv(tmp_path / "reference.csv", {"time": times, "level": rng.normal(size=1200).round(4)})
    swapped = [*times[:300], times[10], *times[301:600]]
    _csv(tmp_path / "live.csv", {"time": swapped, "level": rng.normal(size=600).round(4)})
    _csv(tmp_path / "sorted.csv", {"time": times[:600], "level": rng.normal(size=600).round(4)})
    command = ("--reference", tmp_path / "reference.csv", "--row-seconds", 60, "--json")
    notes = _lines(_run(*command, "--live", tmp_path / "live.csv"))[-1]["notes"]
    (note,) = [note for note in notes if "live rows are not in the order of time" in note]
    assert note.startswith("time: ")
    assert "row 301 is earlier than the one before, and 1 in all" in note
    quiet = _lines(_run(*command, "--live", tmp_path / "sorted.csv"))[-1]["notes"]
    assert not any("order of time" in note for note in quiet)


def test_a_window_longer_than_the_recording_is_noted(folder: Path) -> None:
    command = ("--reference", folder / "reference.csv", "--live", folder / "quiet.csv", "--json")
    notes = _lines(_run(*command, "--window", 5_000))[-1]["notes"]
    assert any("3,000 live rows do not fill one window of 5,000" in note for note in notes)
    assert not any("do not fill" in note for note in _lines(_run(*command, "--window", 3_000))[-1]["notes"])


@pytest.mark.parametrize("words", ["0 per device-year", "-1 per device-year"])
def test_a_budget_of_nothing_is_refused_with_the_reason(folder: Path, words: str) -> None:
    refused = _run("--reference", folder / "reference.csv", "--live", folder / "quiet.csv", "--budget", words)
    assert refused.exit_code == 1
    assert "the number must be above 0" in refused.output


def test_nothing_is_found_where_nothing_changed(folder: Path) -> None:
    result = _run("--reference", folder / "reference.csv", "--live", folder / "quiet.csv")
    assert result.exit_code == 0
    assert "No findings" in result.stdout
    assert "3 streams (1 of categories)" in result.stdout


def test_the_table_says_it_in_words(folder: Path) -> None:
    shown = _run("--reference", folder / "reference.csv", "--live", folder / "shifted.csv").stdout
    assert "     1,099       1,000" in shown
    assert "level is 1." in shown
    assert "in this window" in shown
    assert "Notes\n  - " in shown
    assert max(len(line) for line in shown.splitlines()) <= 110


def test_evidence_is_finite_whatever_the_change(folder: Path, tmp_path: Path) -> None:
    """A freeze of 2,000 rows in one window is beyond what a float holds."""
    rows = np.full(20_000, 0.5)
    live = _csv(tmp_path / "live.csv", {"level": rows, "other": rows, "door": np.full(20_000, "ajar")})
    *findings, summary = _lines(
        _run(
            "--reference",
            folder / "reference.csv",
            "--live",
            live,
            "--window",
            20_000,
            "--json",
        )
    )
    assert findings[0]["log_e"] > 700
    assert findings[0]["e_value"] == pytest.approx(math.exp(700))
    assert any("capped at exp(700)" in note for note in summary["notes"])


def test_a_stricter_budget_takes_more_evidence(folder: Path) -> None:
    thresholds = [
        _lines(
            _run(
                "--reference", folder / "reference.csv", "--live", folder / "quiet.csv", "--json",
                "--budget", budget, "--row-seconds", seconds,
            )
        )[-1]["log_threshold"]
        for budget, seconds in (("1 per device-day", 1), ("1 per device-year", 1), ("1 per device-year", 0.1))
    ]  # fmt: skip
    assert thresholds == pytest.approx([math.log(864), math.log(315_576), math.log(3_155_760)])


def test_a_short_reference_is_said_to_be_short_and_a_tiny_one_refused(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    short = _csv(tmp_path / "short.csv", {"level": rng.normal(size=150).round(3)})
    notes = _lines(_run("--reference", short, "--live", short, "--json"))[-1]["notes"]
    assert any("asks for" in note and "Add about" in note for note in notes)
    tiny = _csv(tmp_path / "tiny.csv", {"level": rng.normal(size=60).round(3)})
    refused = _run("--reference", tiny, "--live", short)
    assert refused.exit_code == 1
    assert "tiny.csv can not carry a calibration" in refused.output
    assert "at least 100 are needed" in refused.output


def test_a_shuffled_reference_is_noticed_by_the_live_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    slow = np.convolve(rng.normal(size=8_000), np.ones(20) / 20, "same")
    shuffled = _csv(tmp_path / "shuffled.csv", {"level": rng.permutation(slow[:4_000])})
    live = _csv(tmp_path / "live.csv", {"level": slow[4_000:]})
    notes = _lines(_run("--reference", shuffled, "--live", live, "--json"))[-1]["notes"]
    assert any("are alike" in note and "in time order" in note for note in notes)


def test_a_replay_is_the_devices_detector_window_by_window(folder: Path) -> None:
    """The same rows through the parts that an agent is made of."""
    rng = np.random.default_rng(2)
    reference, live = rng.normal(size=(4000, 1)), rng.normal(size=(1000, 1))
    live[500:] *= 2.5
    schema = Schema([fit_numeric("x", reference[:, 0], Role.INPUT)])
    calibration = Calibration.fit(schema, reference)
    threshold = Budget.parse("1 per device-month").log_threshold(50.0)
    accumulator, detector = WindowAccumulator(schema), DriftDetector(calibration, threshold)
    alarms = []
    for start in range(0, 1000, 50):
        accumulator.update(live[start : start + 50])
        window, transitions = accumulator.take()
        alarms += detector.step(transitions, window)
    watch = Watch(calibration, threshold, 50)
    for start in range(0, 1000, 333):  # blocks need not end where windows do
        watch.feed(live[start : start + 333])
    watch.finish()
    raised = [(a.kind, a.log_e, a.effect) for a in alarms if a.state == "raised"]
    assert raised
    assert [(f.kind, f.log_e, f.effect) for f in watch.findings] == raised


def test_npz_and_csv_give_the_same(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    columns = {"a": rng.normal(size=1500), "b": rng.normal(size=1500)}
    live = {"a": rng.normal(size=700), "b": rng.normal(size=700) * 3}
    results = []
    for kind in ("csv", "npz"):
        paths = tmp_path / f"reference.{kind}", tmp_path / f"live.{kind}"
        for path, table in zip(paths, (columns, live), strict=True):
            if kind == "csv":
                _csv(path, table)
            else:
                np.savez(path, **table)
        results.append(replay_table(*paths, Setup(), Wishes()).findings)
    assert results[0] == results[1]
    assert results[0][0].stream == "b"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "either --reference or --bundle"),
        (("--reference", "R", "--budget", "often"), "not a false-alarm budget"),
        (("--reference", "R", "--image-scale", "0..1"), "--image-scale is for --bundle"),
        (("--reference", "R", "--plot", "x.pdf"), "ends in .png"),
        (("--reference", "R", "--plot", "nowhere/x.png"), "there is no folder nowhere"),
        (("--reference", "R", "--window", "0"), "0 is not in the range"),
        (("--reference", "R", "--row-seconds", "0"), "0.0 is not in the range"),
    ],
)
def test_impossible_wishes_are_refused_before_the_work(
    folder: Path, arguments: tuple[str, ...], said: str
) -> None:
    given = [str(folder / "reference.csv") if a == "R" else a for a in arguments]
    refused = _run("--live", folder / "quiet.csv", *given)
    assert refused.exit_code != 0
    assert said in refused.output


def test_without_matplotlib_the_extra_is_named_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda _name: None)
    refused = _run("--reference", folder / "reference.csv", "--live", folder / "quiet.csv", "--plot", "x.png")
    assert refused.exit_code == 1
    assert "pip install 'driftpost[plots]'" in refused.output


@pytest.mark.parametrize("live", ["quiet.csv", "shifted.csv"])
def test_a_plot_is_a_png(folder: Path, tmp_path: Path, live: str) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out.png"
    _lines(_run("--reference", folder / "reference.csv", "--live", folder / live, "--json", "--plot", out))
    content = out.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) > 10_000


def test_categories_and_missing_values_are_drawn_too(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(4)
    live = _csv(
        tmp_path / "live.csv",
        {
            "level": np.where(rng.random(1000) < 0.5, "", "0.1"),
            "other": rng.normal(size=1000),
            "door": np.full(1000, "ajar"),
        },
    )
    *findings, _ = _lines(
        _run(
            "--reference",
            folder / "reference.csv",
            "--live",
            live,
            "--json",
            "--plot",
            tmp_path / "out.png",
        )
    )
    assert {name["name"] for f in findings for name in f["streams"]} >= {"level", "door"}
    assert (tmp_path / "out.png").stat().st_size > 10_000


def test_a_trace_keeps_every_row_in_bounded_memory() -> None:
    schema = Schema([fit_numeric("x", np.arange(100.0), Role.INPUT)])
    accumulator, trace = WindowAccumulator(schema), Trace()
    windows = 3 * MAX_POINTS + 7
    for number in range(windows):
        accumulator.update(np.full((2, 1), float(number % 100)))
        trace.add(2 * number, accumulator.take()[0], np.array([float(number)]), -math.inf)
    assert len(trace.points) <= MAX_POINTS
    assert sum(point.window.rows for point in trace.points) == 2 * windows
    starts = [point.start for point in trace.points]
    assert starts == sorted(starts)
    assert starts[0] == 0
    assert trace.points[-1].together == pytest.approx(windows - 1)


def test_a_bundle_replays_raw_inputs_with_its_own_policy(built: Built, table: Path, tmp_path: Path) -> None:
    lines = _lines(_run("--bundle", built.path, "--live", table, "--labels", "label", "--json"))
    summary = lines[-1]
    assert summary["rows"] == 400
    assert summary["findings"] == 0
    assert summary["budget"] == built.bundle.policy.budget
    assert summary["window_rows"] * summary["row_seconds"] == built.bundle.policy.window_seconds
    assert "temperature" in summary["stream_names"]
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    hot = [",".join([str(float(row.split(",")[0]) + 15), *row.split(",")[1:]]) for row in rows]
    live = tmp_path / "hot.csv"
    live.write_text("\n".join([header, *rows, *hot]) + "\n", encoding="utf-8")
    out = tmp_path / "hot.png"
    first, *_ = _lines(
        _run(
            "--bundle",
            built.path,
            "--live",
            live,
            "--labels",
            "label",
            "--window",
            50,
            "--json",
            "--plot",
            out,
        )
    )
    assert "temperature" in {stream["name"] for stream in first["streams"]}
    assert first["row"] == 449
    assert out.exists()


def test_a_bundle_knows_its_columns_and_refuses_what_does_not_fit(
    built: Built, table: Path, tmp_path: Path
) -> None:
    lines = table.read_text(encoding="utf-8").splitlines()
    wide = tmp_path / "wide.csv"
    wide.write_text(
        "\n".join(f"{i if i else 'n'},{line}" for i, line in enumerate(lines)) + "\n", encoding="utf-8"
    )
    assert _lines(_run("--bundle", built.path, "--live", wide, "--json"))[-1]["rows"] == 400
    np.savez(tmp_path / "x.npz", x=np.zeros((10, 7), np.float32))
    refused = _run("--bundle", built.path, "--live", tmp_path / "x.npz")
    assert refused.exit_code == 1
    assert "have shape [7]" in refused.output
    both = _run("--bundle", built.path, "--live", table, "--ignore", "door")
    assert both.exit_code == 2
