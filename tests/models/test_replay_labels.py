"""Labels in a replay: errors, class mix and estimated accuracy, on simulated and on real recordings."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import class_worlds as worlds
from driftpost_models.build import build_bundle
from driftpost_models.bundle import Bundle
from driftpost_models.errors import TableRefused
from driftpost_models.replay.cli import replay
from driftpost_models.replay.columns import Wishes
from driftpost_models.replay.plot import draw
from driftpost_models.replay.replay import Replay, Setup, replay_bundle, replay_table
from driftpost_models.replay.report import json_lines, text
from realdata import REALDATA, needs_realdata

HEADER = [*(f"x{i}" for i in range(worlds.FEATURES)), "answer", "sure", "truth"]
WISHES = Wishes(labels="truth", prediction="answer", confidence="sure")
STEEP = np.array([0.45, 0.25, 0.1, 0.1, 0.05, 0.05])


def write(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def table(path: Path, rng: np.random.Generator, n: int, wrong: float = 0.0, **change: object) -> Path:
    """Rows of the world of classes; a share `wrong` of the labels is another class than it looks."""
    truth, values = worlds.rows(rng, n, **change)
    truth = np.where(rng.random(n) < wrong, (truth + 1) % worlds.CLASSES, truth)
    names = np.array(worlds.NAMES)
    cells = [
        [*(f"{v:.5f}" for v in row[:-2]), names[int(row[-2])], f"{row[-1]:.5f}", names[t]]
        for row, t in zip(values, truth, strict=True)
    ]
    return write(path, HEADER, cells)


def replayed(tmp_path: Path, live: Path, rng: np.random.Generator, wishes: Wishes = WISHES) -> Replay:
    reference = table(tmp_path / "reference.csv", rng, 4000)
    return replay_table(reference, live, Setup(row_seconds=60.0, trace=True), wishes)


def kinds(result: Replay) -> list[str]:
    return [finding.kind for finding in result.findings]


def test_another_class_mix_is_a_finding_of_its_own_kind(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    result = replayed(tmp_path, table(tmp_path / "live.csv", rng, 3000, mix=STEEP), rng)
    assert kinds(result) == ["label_shift"]
    assert "their mix changed: 'a' in" in result.findings[0].text
    assert result.labelling is not None
    assert result.labelling.estimate is not None
    assert result.labelling.estimate.trusted
    assert (
        result.labelling.estimate.low
        <= 1 - result.labelling.live.error_rate
        <= result.labelling.estimate.high
    )


def test_other_inputs_are_covariate_shift_and_a_doubt_about_the_estimate(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    result = replayed(tmp_path, table(tmp_path / "live.csv", rng, 3000, shift=1.0), rng)
    assert "label_shift" not in kinds(result)
    assert result.findings[0].stream == "x0"
    assert any("x0" in doubt for doubt in result.labelling.estimate.doubts)


def test_answers_that_became_worse_are_a_concept_shift(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    result = replayed(tmp_path, table(tmp_path / "live.csv", rng, 3000, wrong=0.4), rng)
    (finding,) = result.findings
    assert (finding.kind, finding.stream, finding.direction) == ("concept", "error_rate", "up")
    assert finding.row < 500
    rate = result.labelling.rate
    assert rate.low <= result.labelling.live.error_rate <= rate.high
    # Confidences know nothing of it; that labels contradict them is said.
    assert result.labelling.estimate.accuracy > 0.7
    assert any("labels show" in doubt for doubt in result.labelling.estimate.doubts)


def test_what_labels_tell_is_in_the_table_in_the_json_and_in_the_plot(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    result = replayed(tmp_path, table(tmp_path / "live.csv", rng, 1500, wrong=0.4), rng)
    said = text(result)
    assert "answered wrongly" in said
    assert "accuracy is estimated at" in said
    summary = json.loads(list(json_lines(result))[-1])["labels"]
    assert summary["rows"] == 1500
    assert (
        summary["error_rate_now"]["low"]
        < summary["error_rate_now"]["rate"]
        < summary["error_rate_now"]["high"]
    )
    assert summary["estimated_accuracy"]["low"] < summary["estimated_accuracy"]["value"]
    draw(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_changed_finds_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    assert kinds(replayed(tmp_path, table(tmp_path / "live.csv", rng, 4000), rng)) == []


def test_live_data_without_labels_are_still_estimated(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    live = table(tmp_path / "live.csv", rng, 1000)
    rows = [line[:-1] for line in csv.reader(live.read_text().splitlines())]
    live = write(tmp_path / "bare.csv", rows[0], rows[1:])
    result = replayed(tmp_path, live, rng)
    assert result.labelling.live is None
    assert result.labelling.rate is None
    assert result.labelling.estimate.rows == 1000
    assert any("live data have no labels" in note for note in result.notes)


def test_labels_of_unknown_classes_are_left_out_and_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    live = table(tmp_path / "live.csv", rng, 300)
    rows = list(csv.reader(live.read_text().splitlines()))
    for row in rows[1:51]:
        row[-1] = "unicorn"
    result = replayed(tmp_path, write(live, rows[0], rows[1:]), rng)
    assert result.labelling.live.rows == 250
    assert any("unicorn" in note for note in result.notes)


def test_a_reference_without_a_single_label_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    reference = table(tmp_path / "reference.csv", rng, 400)
    rows = [[*row[:-1], ""] for row in csv.reader(reference.read_text().splitlines())]
    write(reference, HEADER, rows[1:])
    with pytest.raises(TableRefused, match="no label"):
        replay_table(reference, table(tmp_path / "live.csv", rng, 300), Setup(), WISHES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--confidence", "sure", "--labels", "truth"], "goes with --prediction"),
        (["--prediction", "answer"], "goes with --labels"),
        (["--prediction", "colour", "--labels", "truth"], "no column 'colour'"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_a_way_out(
    tmp_path: Path, options: list[str], message: str
) -> None:
    rng = np.random.default_rng(9)
    paths = [str(table(tmp_path / f"{n}.csv", rng, 200)) for n in "ab"]
    said = CliRunner().invoke(replay, ["--reference", paths[0], "--live", paths[1], *options])
    assert said.exit_code != 0
    assert message in said.output


# Real recordings.


def fitted(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights of a logistic model by gradient descent; the last is the bias."""
    inputs = np.column_stack([x, np.ones(len(x))])
    weights = np.zeros(inputs.shape[1])
    for _ in range(3000):
        weights -= 0.5 * inputs.T @ (1 / (1 + np.exp(-inputs @ weights)) - y) / len(y)
    return weights


@needs_realdata
def test_the_concept_change_in_the_circle_stream_is_found_by_its_delayed_labels(tmp_path: Path) -> None:
    """The circle begins to move at about row 1,000; a model that was trained on the first 250 rows decays."""
    data = np.genfromtxt(REALDATA / "data/streams/dataCircleGSev3Sp3Train.csv", delimiter=",")[:, :3]
    x = np.column_stack([data[:, :2], data[:, :2] ** 2, data[:, 0] * data[:, 1]])
    x = (x - x[:250].mean(axis=0)) / x[:250].std(axis=0)
    weights = fitted(x[:250], data[:250, 2])
    score = 1 / (1 + np.exp(-np.column_stack([x, np.ones(len(x))]) @ weights))
    rows = [
        [f"{a:.6f}", f"{b:.6f}", int(p > 0.5), f"{max(p, 1 - p):.5f}", int(y)]
        for (a, b, y), p in zip(data, score, strict=True)
    ]
    header = ["x", "y", "answer", "sure", "truth"]
    result = replay_table(
        write(tmp_path / "reference.csv", header, rows[250:950]),
        write(tmp_path / "live.csv", header, rows[950:]),
        Setup(window_rows=25, row_seconds=60.0),
        WISHES,
    )
    concept = next(finding for finding in result.findings if finding.kind == "concept")
    assert concept.onset_row <= concept.row <= 400
    assert result.labelling.rate.low > 0.15
    # The estimate without labels is fooled, as it must be; the labels say so.
    assert result.labelling.estimate.accuracy > 0.9
    assert not result.labelling.estimate.trusted


@needs_realdata
def test_more_of_two_keywords_is_a_label_shift_of_the_real_model(tmp_path: Path) -> None:
    files = sorted((REALDATA / "data/kws01").glob("*.bin"))
    truth = np.array([int(file.stem.rsplit("_", 1)[1]) for file in files])
    inputs = np.stack([np.fromfile(file, np.int8) for file in files]).reshape(-1, 49, 10, 1)
    rng = np.random.default_rng(0)
    order = rng.permutation(500)

    def saved(name: str, rows: np.ndarray) -> Path:
        np.savez(tmp_path / name, input_1=inputs[rows], label=truth[rows])
        return tmp_path / name

    build_bundle(
        REALDATA / "models/mlperf_tiny/kws_ref_model.tflite",
        saved("reference.npz", order[:300]),
        tmp_path / "b",
        labels="label",
        window_seconds=60,
    )
    bundle = Bundle.open(tmp_path / "b", None)
    found = {}
    for name, factor in (("even", 1.0), ("steep", 10.0)):
        weights = np.where(np.isin(truth[order[300:]], (7, 10)), factor, 1.0)
        rows = rng.choice(order[300:], size=600, p=weights / weights.sum())
        live = saved(f"{name}.npz", rows)
        result = replay_bundle(bundle, live, Setup(window_rows=25, row_seconds=2.0), labels="label")
        found[name] = kinds(result)
        estimate = result.labelling.estimate
        assert estimate.low <= 1 - result.labelling.live.error_rate <= estimate.high
    assert found == {"even": [], "steep": ["label_shift"]}


@needs_realdata
def test_the_estimate_for_degraded_pictures_falls_or_is_doubted(tmp_path: Path) -> None:
    """ResNet8 on 1,000 CIFAR pictures: half as the reference, the other half as they are, darkened, noisy."""
    image = pytest.importorskip("PIL.Image")
    folder = REALDATA / "data/cifar10_jpg/dev"
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    pairs = [(file, c) for c, name in enumerate(classes) for file in sorted((folder / name).iterdir())]
    pixels = np.stack([np.asarray(image.open(file).convert("RGB")) for file, _ in pairs]).astype(np.float64)
    truth = np.array([c for _, c in pairs])
    order = np.random.default_rng(0).permutation(len(truth))
    noise = np.random.default_rng(1).normal(0.0, 30.0, pixels.shape)
    versions = {"same": pixels, "dark": pixels * 0.45, "noisy": pixels + noise}

    def saved(name: str, some: np.ndarray, rows: np.ndarray) -> Path:
        codes = np.clip(np.rint(some[rows]) - 128, -128, 127).astype(np.int8)
        np.savez(tmp_path / name, input_1=codes, label=truth[rows])
        return tmp_path / name

    model = next((REALDATA / "models/mlperf_tiny").glob("*[rR]es*quant*.tflite"), None) or next(
        (REALDATA / "models/mlperf_tiny").glob("*[rR]es*.tflite")
    )
    build_bundle(
        model, saved("reference.npz", pixels, order[:500]), tmp_path / "b", labels="label", window_seconds=60
    )
    bundle = Bundle.open(tmp_path / "b", None)
    fallen = {}
    for name, some in versions.items():
        live = saved(f"{name}.npz", some, order[500:])
        result = replay_bundle(bundle, live, Setup(window_rows=50, row_seconds=1.2), labels="label")
        estimate, true = result.labelling.estimate, 1 - result.labelling.live.error_rate
        fallen[name] = (estimate.reference - estimate.accuracy, estimate.reference - true, estimate.trusted)
        assert estimate.low <= true <= estimate.high or not estimate.trusted
    assert fallen["same"][2]
    assert fallen["noisy"][1] > 0.1
    assert fallen["noisy"][0] > 0.05 or not fallen["noisy"][2]
    assert not fallen["dark"][2]
