from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from driftpost_models import build as build_module
from driftpost_models.build import Built, build_bundle
from driftpost_models.bundle import Bundle
from driftpost_models.errors import ConfigError, ModelRefused, ReferenceRefused
from driftpost_models.image_files import ImageScale
from driftpost_models.isolated import IsolatedRuntime
from driftpost_models.probes.block import Block
from driftpost_models.runtime import load_model
from driftpost_models.signing import fingerprint, generate
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.detector import DriftDetector
from driftpost_sketches.schema import StreamKind
from models import onnx_files, tflite_files

NOW = datetime.datetime(2026, 3, 1, 12, 0, tzinfo=datetime.timezone.utc)


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


class TestTable:
    def test_streams_come_from_columns_answers_and_the_guard(self, built: Built) -> None:
        schema = built.bundle.schema
        assert [stream.name for stream in schema.streams] == [
            "temperature",
            "humidity",
            "door",
            "class",
            "confidence",
            "margin",
            "entropy",
            "latency_us",
            "verdict",
        ]
        kinds = {stream.name: stream.kind for stream in schema.streams}
        assert kinds["door"] is StreamKind.CATEGORICAL
        assert kinds["humidity"] is StreamKind.NUMERIC
        assert schema.streams[schema.index("class")].labels == ("dry", "wet")
        tracked = {schema.streams[i].name for i in schema.tracked_streams}
        assert {"latency_us", "verdict"} == set(kinds) - tracked

    def test_the_baseline_is_the_sketch_of_the_whole_reference(self, built: Built) -> None:
        baseline = built.bundle.calibration.baseline
        schema = built.bundle.schema
        assert baseline.rows == 400
        summary = baseline.summary(schema, schema.index("temperature"))
        assert summary.n == 400
        assert summary.mean == pytest.approx(20, abs=0.3)
        assert baseline.summary(schema, schema.index("verdict")).counts[0] == 400

    def test_labels_give_a_confusion_matrix_and_an_accuracy(
        self, built: Built, table: Path, model: Path
    ) -> None:
        confusion = built.bundle.confusion
        assert confusion.shape == (2, 2)
        assert confusion.sum() == 400
        lines = [line.split(",") for line in table.read_text(encoding="utf-8").splitlines()[1:]]
        runtime = load_model(model)
        rows = np.array([[float(v) for v in line[:3]] for line in lines], np.float32)
        answers = runtime.run({"x": rows})["y"].argmax(axis=1)
        runtime.close()
        truth = np.array([("dry", "wet").index(line[3]) for line in lines])
        for true in (0, 1):
            for answer in (0, 1):
                assert confusion[true, answer] == ((truth == true) & (answers == answer)).sum()
        assert built.accuracy == pytest.approx((truth == answers).mean())

    def test_limits_are_what_the_reference_showed(self, built: Built) -> None:
        limits = built.bundle.limits["x"]
        summary = built.bundle.calibration.baseline.summary(built.bundle.schema, 0)
        assert limits.low[0] == pytest.approx(summary.low, rel=1e-6)
        assert limits.high[0] == pytest.approx(summary.high, rel=1e-6)
        assert limits.low.shape == (3,)
        assert limits.longest_run == 1

    def test_golden_calls_are_spread_over_the_reference(self, built: Built) -> None:
        golden = built.bundle.golden
        assert golden.calls == 12
        assert golden.inputs["x"].shape == (12, 1, 3)
        assert golden.outputs["y"].shape == (12, 1, 2)

    def test_two_builds_differ_in_nothing_but_latency(
        self, built: Built, model: Path, table: Path, tmp_path: Path
    ) -> None:
        again = build_bundle(model, table, tmp_path / "b", labels="label", now=lambda: NOW, author="tests")
        for name, array in again.bundle.golden.outputs.items():
            np.testing.assert_array_equal(array, built.bundle.golden.outputs[name])
        a, b = again.bundle.schema, built.bundle.schema
        assert [s for s in a.streams if s.name != "latency_us"] == [
            s for s in b.streams if s.name != "latency_us"
        ]

    def test_a_column_that_never_moved_is_told_to_be_constant(self, tmp_path: Path) -> None:
        rows = np.random.default_rng(1).normal(size=(400, 3)).astype(np.float32)
        rows[:, 1] = 4.5
        np.save(tmp_path / "rows.npy", rows)
        model = _write(tmp_path / "m.onnx", onnx_files.classifier(3, 2))
        built = build_bundle(model, tmp_path / "rows.npy", tmp_path / "b")
        notes = [note for note in built.notes if "constant in the reference (4.5)" in note]
        assert len(notes) == 1

    def test_a_short_reference_is_said_with_how_much_is_missing(self, built: Built) -> None:
        text = " ".join((*built.short, *built.notes))
        assert "rows" in text

    def test_the_guarded_reference_raises_no_alarm_and_a_shift_does(self, built: Built, table: Path) -> None:
        bundle = built.bundle
        runtime = load_model(bundle.model_bytes)
        rng = np.random.default_rng(5)
        threshold = Budget.parse(bundle.policy.budget).log_threshold(bundle.policy.window_seconds)
        lines = table.read_text(encoding="utf-8").splitlines()[1:]
        rows = np.array([[float(v) for v in line.split(",")[:3]] for line in lines], np.float32)

        def alarms(shift: float) -> list[str]:
            detector = DriftDetector(bundle.calibration, threshold)
            accumulator = WindowAccumulator(bundle.schema)
            probes = bundle.probes.copy()
            found = []
            for _ in range(20):
                part = rows[rng.integers(0, 380) :][:20] + np.array([0, shift, 0], np.float32)
                outputs = runtime.run({"x": part})
                block = Block({"x": part}, outputs, np.full(20, 50.0), np.zeros(20, np.int64))
                accumulator.update(*probes.extract(block))
                window, transitions = accumulator.take()
                for alarm in detector.step(transitions, window):
                    found += [name for name, _ in alarm.streams]
            return found

        assert alarms(0.0) == []
        assert "humidity" in alarms(25.0)
        runtime.close()


class TestModelsOfEveryKind:
    def test_images_from_a_folder(self, tmp_path: Path) -> None:
        folder = tmp_path / "images"
        rng = np.random.default_rng(0)
        for kind in ("a", "b", "c"):
            (folder / kind).mkdir(parents=True)
            for number in range(40):
                pixels = rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / kind / f"{number:03}.png")
        model = _write(tmp_path / "m.onnx", onnx_files.conv_images())
        built = build_bundle(model, folder, tmp_path / "b", image_scale=ImageScale.parse("0..1"))
        schema = built.bundle.schema
        assert {"brightness", "sharpness", "frame_change", "red_share", "class"} <= {
            s.name for s in schema.streams
        }
        assert built.bundle.classes == ("a", "b", "c")
        assert any(
            "scaled to 0 to 1" in step for step in built.bundle.provenance["reference"]["preprocessing"]
        )
        assert Bundle.open(tmp_path / "b", None).id == built.bundle.id

    @pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
    def test_quantized_tensors_of_every_width(self, tmp_path: Path, dtype: str) -> None:
        model = _write(
            tmp_path / "m.tflite", tflite_files.quantized_adder(dtype, 0.5, 0 if dtype == "int16" else 3)
        )
        np.save(tmp_path / "r.npy", np.random.default_rng(0).normal(0, 5, (200, 4)))
        built = build_bundle(model, tmp_path / "r.npy", tmp_path / "b")
        names = [stream.name for stream in built.bundle.schema.streams]
        assert "reconstruction_error" in names
        assert any(
            "quantized by the input's scale" in s
            for s in built.bundle.provenance["reference"]["preprocessing"]
        )

    def test_codes_are_counted_exactly(self, tmp_path: Path) -> None:
        model = _write(tmp_path / "m.onnx", onnx_files.identity(3, [1, 6, 8]))
        raw = np.random.default_rng(0).integers(-128, 128, (150, 6, 8)).astype(np.int8)
        np.save(tmp_path / "r.npy", raw)
        built = build_bundle(model, tmp_path / "r.npy", tmp_path / "b")
        schema = built.bundle.schema
        summary = built.bundle.calibration.baseline.summary(schema, schema.index("x.codes"))
        np.testing.assert_array_equal(
            summary.counts, np.bincount(raw.ravel().astype(int) + 128, minlength=256)
        )
        assert (summary.low, summary.high) == (raw.min(), raw.max())

    def test_a_state_is_fed_back_and_the_golden_calls_carry_it(self, tmp_path: Path) -> None:
        model = _write(tmp_path / "m.onnx", onnx_files.counter())
        np.savez(tmp_path / "r.npz", x=np.random.default_rng(0).normal(size=(150, 2)).astype(np.float32))
        built = build_bundle(model, tmp_path / "r.npz", tmp_path / "b")
        assert built.bundle.provenance["states"] == {"state": "state_out"}
        assert set(built.bundle.limits) == {"x"}
        golden = built.bundle.golden
        np.testing.assert_allclose(golden.inputs["state"][1:], golden.outputs["state_out"][:-1])
        runtime = IsolatedRuntime(built.bundle.model_bytes)
        assert built.bundle.self_test(runtime).ok
        runtime.close()

    def test_several_inputs_and_a_scalar(self, tmp_path: Path) -> None:
        model = _write(tmp_path / "m.onnx", onnx_files.two_inputs_and_a_scalar())
        rng = np.random.default_rng(0)
        a, b = (rng.normal(size=(150, 3)).astype(np.float32) for _ in range(2))
        np.savez(tmp_path / "r.npz", a=a, b=b, k=np.array(3))
        built = build_bundle(model, tmp_path / "r.npz", tmp_path / "b")
        assert {"a.0", "b.2", "k"} <= {stream.name for stream in built.bundle.schema.streams}

    def test_free_dimensions_follow_the_reference(self, tmp_path: Path) -> None:
        model = _write(tmp_path / "m.onnx", onnx_files.identity(shape=("batch", "samples")))
        np.save(tmp_path / "r.npy", np.random.default_rng(0).normal(size=(150, 256)).astype(np.float32))
        built = build_bundle(model, tmp_path / "r.npy", tmp_path / "b")
        assert built.bundle.inputs[0].shape == (None, None)
        assert "band1" in [stream.name for stream in built.bundle.schema.streams]


class TestWishes:
    def test_the_configuration_file_and_the_command_line_are_obeyed(
        self, model: Path, table: Path, tmp_path: Path
    ) -> None:
        config = tmp_path / "c.toml"
        config.write_text(
            '[policy]\nbudget = "1 per fleet-month"\nmin_confidence = 0.9\nwindow_seconds = 60\n'
            "[policy.smallest_effects]\nhumidity = 0.5\nerror_rate = 0.2\n"
            '[probes.inputs.x]\nnames = ["temperature", "humidity", "door"]\nunits = ["degC", "%", ""]\n'
            "[probes.streams.margin]\ntracked = false\n",
            encoding="utf-8",
        )
        built = build_bundle(
            model,
            table,
            tmp_path / "b",
            labels="label",
            config=config,
            name="n",
            version="2",
            budget="2 per device-year",
            smallest_effect=0.3,
            window_seconds=30,
            classes=("wet", "dry"),
            key=(key := generate()),
        )
        bundle = Bundle.open(built.path, [key.public_key()])
        assert (bundle.name, bundle.version) == ("n", "2")
        assert (bundle.policy.budget, bundle.policy.window_seconds) == ("2 per device-year", 30)
        assert bundle.calibration.effect("temperature") == 0.3
        assert bundle.calibration.effect("humidity") == 0.5
        assert bundle.policy.effect("error_rate") == 0.2
        assert bundle.classes == ("wet", "dry")
        assert "margin" not in bundle.calibration.tracked_names
        assert bundle.schema.streams[0].unit == "degC"
        assert bundle.signature.key == fingerprint(key)
        verdict = bundle.calibration.baseline.summary(bundle.schema, bundle.schema.index("verdict"))
        assert verdict.counts[0] + verdict.counts[8] == 400

    @pytest.mark.parametrize(
        ("config", "problem"),
        [
            ("[polciy]\n", "did you mean 'policy'"),
            ("[policy]\nbuget = 1\n", "policy.buget"),
            ("[probes]\ninptus = 1\n", "probes.inptus"),
            ("[policy.smallest_effects]\nmystery = 1\n", "no such tracked stream"),
            ("[probes.streams.mystery]\ntracked = false\n", "no stream 'mystery'"),
        ],
    )
    def test_a_configuration_that_does_not_fit_is_refused(
        self, model: Path, table: Path, tmp_path: Path, config: str, problem: str
    ) -> None:
        path = tmp_path / "c.toml"
        path.write_text(config, encoding="utf-8")
        with pytest.raises(Exception, match=problem) as error:
            build_bundle(model, table, tmp_path / "b", labels="label", config=path)
        assert type(error.value).__module__ == "driftpost_models.errors"
        assert not (tmp_path / "b").exists()

    def test_an_impossible_budget_is_refused_before_the_model_is_run(
        self, table: Path, tmp_path: Path, model: Path
    ) -> None:
        with pytest.raises(ConfigError, match=r"policy\.budget"):
            build_bundle(model, table, tmp_path / "b", budget="never")


class TestRefusals:
    def test_a_reference_of_few_rows_says_how_many_are_needed(self, model: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "r.npy", np.ones((20, 3), np.float32))
        with pytest.raises(ReferenceRefused, match="at least"):
            build_bundle(model, tmp_path / "r.npy", tmp_path / "b")

    def test_a_column_without_a_single_value_is_named(self, model: Path, tmp_path: Path) -> None:
        rows = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
        rows[:, 1] = np.nan
        np.save(tmp_path / "r.npy", rows)
        with pytest.raises(ReferenceRefused, match="x1"):
            build_bundle(model, tmp_path / "r.npy", tmp_path / "b")

    def test_labels_beyond_the_models_classes_are_refused(self, model: Path, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        np.savez(tmp_path / "r.npz", x=rng.normal(size=(200, 3)).astype(np.float32), t=np.arange(200) % 5)
        with pytest.raises(ReferenceRefused, match="a label is 4, but the model has 2 classes"):
            build_bundle(model, tmp_path / "r.npz", tmp_path / "b", labels="t")

    def test_a_model_that_fails_or_hangs_on_the_reference_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        np.save(tmp_path / "r.npy", np.ones((200, 3), np.float32))
        with pytest.raises(ModelRefused, match="fails on the reference"):
            build_bundle(
                _write(tmp_path / "m.onnx", onnx_files.failing()), tmp_path / "r.npy", tmp_path / "b"
            )
        monkeypatch.setattr(build_module, "DEADLINE_S", 0.2)
        np.savez(tmp_path / "r.npz", x=np.ones((200, 1), np.float32))
        with pytest.raises(ModelRefused, match=r"did not answer within 0\.2 s"):
            build_bundle(
                _write(tmp_path / "m.onnx", onnx_files.endless()), tmp_path / "r.npz", tmp_path / "b"
            )

    def test_an_input_that_nothing_feeds_is_named(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "r.npz", a=np.ones((200, 3), np.float32), k=np.array(1))
        model = _write(tmp_path / "m.onnx", onnx_files.two_inputs_and_a_scalar())
        with pytest.raises(ReferenceRefused, match="nothing for the input 'b'"):
            build_bundle(model, tmp_path / "r.npz", tmp_path / "b")

    def test_nothing_is_left_behind_after_a_refusal(self, model: Path, table: Path, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="No such file"):
            build_bundle(model, table, tmp_path / "none" / "b", labels="label")
        assert list(tmp_path.iterdir()) == []


def test_progress_is_told_for_every_step(model: Path, table: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    build_bundle(
        model,
        table,
        tmp_path / "b",
        labels="label",
        progress=lambda step, done, total: told.append((step, done, total)),
    )
    steps = list(dict.fromkeys(step for step, _, _ in told))
    assert steps == ["running the reference", "calibrating"]
    for step in steps:
        last = [entry for entry in told if entry[0] == step][-1]
        assert last[1] == last[2]
    assert json.dumps(told)
