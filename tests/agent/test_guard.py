"""The guard: verdicts with real models, policies, recording, threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.bundles import FEATURES, pictures, tabular_rows, with_policy
from agent.clocks import ManualClock
from driftpost import Guard, GuardClosed, Reason, Status
from driftpost_agent.block_buffer import MAX_ROWS
from driftpost_agent.recorder import ClosedWindow
from driftpost_agent.store import Store
from driftpost_models.bundle import Bundle
from driftpost_models.errors import BundleUntrusted, InferenceFailed, ModelRefused
from driftpost_models.runtime import Runtime, load_model
from driftpost_sync.messages import WindowBody


class Recorded:
    """A guard without a thread of its own, and the windows it closed."""

    def __init__(self, bundle: Bundle, **options: Any) -> None:
        self.clock = ManualClock(1_000)
        self.windows: list[ClosedWindow] = []
        self.bundle = bundle
        self.guard = Guard(
            bundle,
            clock=self.clock,
            on_window=self.windows.append,
            threaded=False,
            **{"window_seconds": 60.0, **options},
        )

    def verdicts(self) -> dict[str, int]:
        """How often each verdict was recorded in the windows so far."""
        self.guard.flush()
        counts: dict[str, int] = {}
        schema = self.bundle.schema
        index = schema.index("verdict")
        for closed in self.windows:
            for position, count in enumerate(closed.window.summary(schema, index).counts):
                if count:
                    label = schema.streams[index].bin_label(position)
                    counts[label] = counts.get(label, 0) + int(count)
        return counts


@pytest.fixture
def tabular(mlp_bundle: Bundle) -> Iterator[Recorded]:
    recorded = Recorded(mlp_bundle)
    yield recorded
    recorded.guard.close()


class Broken:
    """A real model that fails when told to."""

    def __init__(self, model: Runtime) -> None:
        self._model = model
        self.failing = True
        self.kind, self.version, self.provider = model.kind, model.version, model.provider
        self.inputs, self.outputs = model.inputs, model.outputs

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if self.failing:
            raise InferenceFailed("the arena is too small")
        return self._model.run(inputs)

    def close(self) -> None:
        self._model.close()


def test_a_normal_row_is_ok_and_its_outputs_are_the_models(tabular: Recorded) -> None:
    row = tabular_rows(1)
    result = tabular.guard.run({"x": row})
    plain = load_model(tabular.bundle.model_bytes)
    np.testing.assert_array_equal(result.outputs["p"], plain.run({"x": row})["p"])
    assert result.verdict.ok
    assert result.verdict.reasons == ()
    assert result.rows == 1
    plain.close()


def test_a_single_input_may_be_given_without_its_name(tabular: Recorded) -> None:
    row = tabular_rows(1)
    np.testing.assert_array_equal(tabular.guard.run(row).output, tabular.guard.run({"x": row}).output)


def test_every_inference_has_a_name_of_its_own_unless_the_caller_gives_one(tabular: Recorded) -> None:
    first, second = tabular.guard.run(tabular_rows(1)), tabular.guard.run(tabular_rows(1))
    assert first.inference_id != second.inference_id
    assert tabular.guard.run(tabular_rows(1), "frame-7").inference_id == "frame-7"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_inputs_are_flagged_and_recorded(tabular: Recorded, value: float) -> None:
    row = tabular_rows(1)
    row[0, 3] = value
    result = tabular.guard.run(row)
    assert result.verdict.status is Status.FLAGGED
    assert Reason.NONFINITE_INPUT in result.verdict.reasons
    assert result.verdict.reasons[0] is Reason.NONFINITE_INPUT
    assert tabular.verdicts() == {"nonfinite_input": 1}


@pytest.mark.parametrize("value", [60.0, -60.0])
def test_values_far_outside_the_reference_are_flagged_on_both_sides(tabular: Recorded, value: float) -> None:
    row = tabular_rows(1)
    row[0, 29] = value
    assert tabular.guard.run(row).verdict.reasons == (Reason.OUT_OF_RANGE,)
    assert tabular.verdicts() == {"out_of_range": 1}


def test_values_a_little_outside_are_left_to_the_detectors(tabular: Recorded) -> None:
    row = tabular_rows(1)
    row[0, 0] = 5.5
    assert tabular.guard.run(row).verdict.ok


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"x": np.zeros((1, 29), np.float32)}, Reason.SHAPE),
        ({"x": np.zeros(FEATURES, np.float32)}, Reason.SHAPE),
        ({"x": np.zeros((0, FEATURES), np.float32)}, Reason.SHAPE),
        ({"x": np.zeros((1, FEATURES), np.float64)}, Reason.DTYPE),
        ({"x": np.array([["text"] * FEATURES])}, Reason.DTYPE),
        ({}, Reason.SHAPE),
        ({"y": np.zeros((1, FEATURES), np.float32)}, Reason.SHAPE),
        ({"x": np.zeros((1, FEATURES), np.float32), "y": np.zeros(1)}, Reason.SHAPE),
    ],
)
def test_what_the_model_can_not_take_is_abstained_from_with_a_sentence(
    tabular: Recorded, inputs: dict[str, Any], reason: Reason
) -> None:
    result = tabular.guard.run(inputs)
    assert result.verdict.status is Status.ABSTAINED
    assert result.verdict.reasons == (reason,)
    assert result.outputs == {}
    assert "input" in result.detail
    assert tabular.verdicts() == {reason.label: 1}


def test_a_frozen_sensor_is_noticed_after_a_few_repeats_and_recovers(tabular: Recorded) -> None:
    row = tabular_rows(1)
    statuses = [tabular.guard.run(row).verdict.status for _ in range(6)]
    assert statuses == [Status.OK] * 4 + [Status.FLAGGED] * 2
    assert tabular.guard.run(tabular_rows(1, seed=5)).verdict.ok


def test_a_saturated_picture_is_flagged(picture_bundle: Bundle) -> None:
    recorded = Recorded(picture_bundle)
    for picture in pictures(3, seed=4):
        assert recorded.guard.run(picture[None]).verdict.ok
    white = np.full((1, 16, 16, 3), 255, np.uint8)
    assert recorded.guard.run(white).verdict.reasons == (Reason.SATURATED,)
    assert recorded.guard.run(np.zeros_like(white)).verdict.reasons == (Reason.SATURATED,)
    recorded.guard.close()


def test_a_non_finite_answer_is_flagged(reciprocal_bundle: Bundle) -> None:
    recorded = Recorded(reciprocal_bundle)
    result = recorded.guard.run(np.array([[1, 2, 0, 4]], np.float32))
    assert result.verdict.reasons == (Reason.NONFINITE_OUTPUT,)
    assert recorded.verdicts() == {"nonfinite_output": 1}
    recorded.guard.close()


def test_an_unsure_answer_is_bad_only_if_the_policy_asks_for_confidence(mlp_bundle: Bundle) -> None:
    row = np.zeros((1, FEATURES), np.float32)  # without biases all classes are equal
    with Guard(mlp_bundle, threaded=False) as plain:
        assert plain.run(row).verdict.ok
    with Guard(with_policy(mlp_bundle, min_confidence=0.5), threaded=False) as strict:
        assert strict.run(row).verdict.reasons == (Reason.LOW_CONFIDENCE,)


def test_the_policy_abstains_for_the_reasons_it_names(mlp_bundle: Bundle) -> None:
    with Guard(with_policy(mlp_bundle, reasons={"out_of_range": "abstain"}), threaded=False) as guard:
        row = tabular_rows(1)
        row[0, 0] = 99.0
        result = guard.run(row)
        assert result.verdict.status is Status.ABSTAINED
        assert result.outputs == {}
        row[0, 0] = np.nan
        assert guard.run(row).verdict.status is Status.FLAGGED


def test_the_fallback_answers_for_a_bad_verdict(mlp_bundle: Bundle, bundles: Path) -> None:
    other = load_model(Bundle.open(bundles / "mlp2.bundle", None).model_bytes)
    row = tabular_rows(1)
    row[0, 0] = 99.0
    expected = other.run({"x": row})["p"]
    with Guard(with_policy(mlp_bundle, on_bad_verdict="fallback"), fallback=other, threaded=False) as guard:
        result = guard.run(row)
        np.testing.assert_array_equal(result.outputs["p"], expected)
        assert result.verdict.status is Status.FALLBACK
        assert guard.run(tabular_rows(1)).verdict.ok


def test_without_a_fallback_the_guard_abstains_rather_than_passing_a_bad_answer(mlp_bundle: Bundle) -> None:
    with Guard(with_policy(mlp_bundle, on_bad_verdict="fallback"), threaded=False) as guard:
        result = guard.run(np.full((1, FEATURES), 99, np.float32))
        assert (result.verdict.status, result.outputs) == (Status.ABSTAINED, {})


def test_a_model_that_fails_gives_a_verdict_and_not_an_exception(mlp_bundle: Bundle) -> None:
    seen: list[Exception] = []
    broken = Broken(load_model(mlp_bundle.model_bytes))
    recorded = Recorded(mlp_bundle, runtime=broken, on_failure=seen.append)
    result = recorded.guard.run(tabular_rows(1))
    assert result.verdict.reasons == (Reason.MODEL_FAILED,)
    assert result.verdict.status is Status.ABSTAINED
    assert "arena is too small" in result.detail
    assert len(seen) == 1
    broken.failing = False
    assert recorded.guard.run(tabular_rows(1)).verdict.ok
    assert recorded.verdicts() == {"model_failed": 1, "ok": 1}
    # The input was there, so its streams have it; the answer was not, so its streams miss it.
    schema, window = mlp_bundle.schema, recorded.windows[0].window
    assert [int(window.missing[schema.index(name)]) for name in ("x0", "confidence")] == [0, 1]
    recorded.guard.close()


def test_a_fallback_may_answer_for_a_model_that_fails(mlp_bundle: Bundle) -> None:
    broken = Broken(load_model(mlp_bundle.model_bytes))
    policy = mlp_bundle.policy.with_(on_bad_verdict="fallback")
    with Guard(
        mlp_bundle, broken, fallback=load_model(mlp_bundle.model_bytes), policy=policy, threaded=False
    ) as guard:
        result = guard.run(tabular_rows(3))
        assert result.verdict.status is Status.FALLBACK
        assert result.outputs["p"].shape == (3, 10)


def test_a_batch_is_so_many_rows_with_one_verdict_each(tabular: Recorded) -> None:
    rows = tabular_rows(5)
    rows[2, 0], rows[4, 1] = 99.0, np.nan
    result = tabular.guard.run(rows)
    assert result.rows == 5
    assert result.outputs["p"].shape == (5, 10)
    assert result.verdict.reasons[:2] == (Reason.NONFINITE_INPUT, Reason.OUT_OF_RANGE)
    assert tabular.verdicts() == {"ok": 3, "out_of_range": 1, "nonfinite_input": 1}


def test_a_batch_larger_than_a_block_is_recorded_whole(tabular: Recorded) -> None:
    tabular.guard.run(tabular_rows(1000))
    tabular.guard.run(tabular_rows(7))
    tabular.guard.flush()
    assert sum(closed.window.rows for closed in tabular.windows) == 1007


def test_a_batch_and_its_rows_one_by_one_are_sketched_alike(mlp_bundle: Bundle) -> None:
    rows = tabular_rows(300, seed=3)
    whole, single = Recorded(mlp_bundle), Recorded(mlp_bundle)
    whole.guard.run(rows)
    for row in rows:
        single.guard.run(row[None])
    schema = mlp_bundle.schema
    windows = []
    for recorded in (whole, single):
        recorded.guard.flush()
        windows.append(recorded.windows[0].window)
        recorded.guard.close()
    for name in ("x0", "x29", "class", "verdict"):
        counts = [window.summary(schema, schema.index(name)).counts.tolist() for window in windows]
        assert counts[0] == counts[1], name


def test_a_model_with_a_fixed_batch_is_called_row_by_row(picture_bundle: Bundle) -> None:
    with Guard(picture_bundle, threaded=False) as guard:
        batch = pictures(4, seed=8)
        result = guard.run(batch)
        np.testing.assert_allclose(result.outputs["brightness"], batch.reshape(4, -1).mean(axis=1), rtol=1e-4)
        assert result.rows == 4


def test_windows_close_on_the_clock_and_by_rows(mlp_bundle: Bundle) -> None:
    by_time = Recorded(mlp_bundle, window_seconds=10.0)
    by_time.guard.run(tabular_rows(1))
    by_time.clock.mono = 9_999
    by_time.guard.tick()
    assert by_time.windows == []
    by_time.clock.mono = 10_000
    by_time.guard.tick()
    assert [(closed.mono_start, closed.mono_end) for closed in by_time.windows] == [(1_000, 10_000)]
    by_time.guard.close()
    by_rows = Recorded(mlp_bundle, window_rows=MAX_ROWS)
    by_rows.guard.run(tabular_rows(2 * MAX_ROWS + 100))
    assert [closed.window.rows for closed in by_rows.windows] == [MAX_ROWS, MAX_ROWS]
    by_rows.guard.close()


def test_closing_records_the_open_window_once_and_refuses_further_calls(
    mlp_bundle: Bundle, tmp_path: Path
) -> None:
    guard = Guard(mlp_bundle, store=tmp_path / "guard.db", threaded=False)
    guard.run(tabular_rows(3))
    guard.close()
    guard.close()
    with pytest.raises(GuardClosed):
        guard.run(tabular_rows(1))
    with Store.open(tmp_path / "guard.db", clock=ManualClock()) as store:
        assert store.outbox_total().recorded.rows == 3


def test_the_stored_window_is_the_recorded_one(mlp_bundle: Bundle, tmp_path: Path) -> None:
    from driftpost_sketches.window import Window

    windows: list[ClosedWindow] = []
    with Guard(mlp_bundle, store=tmp_path / "guard.db", on_window=windows.append, threaded=False) as guard:
        guard.run(tabular_rows(64))
        guard.flush()
        assert guard.store is not None
        with guard.store.outbox_transaction() as outbox:
            batch = outbox.next_batch(1 << 20, now=0)
    assert batch is not None
    bodies = [WindowBody.from_bytes(row.body) for row in batch.rows if row.kind == "window"]
    assert [Window.from_bytes(body.window) for body in bodies] == [windows[0].window]
    assert bodies[0].bundle == mlp_bundle.id
    assert bodies[0].schema_id == mlp_bundle.schema.id


def test_many_threads_may_call_one_guard(mlp_bundle: Bundle) -> None:
    windows: list[ClosedWindow] = []
    guard = Guard(mlp_bundle, window_seconds=0.2, on_window=windows.append)
    rows = tabular_rows(400, seed=6)
    wrong: list[str] = []

    def call(part: int) -> None:
        for row in rows[part::4]:
            result = guard.run(row[None])
            if not result.verdict.ok:
                wrong.append(str(result.verdict))

    threads = [threading.Thread(target=call, args=(part,), name=f"caller-{part}") for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    guard.close()
    assert wrong == []
    assert sum(closed.window.rows for closed in windows) == 400
    assert guard.meter.read().calls == 400


def test_a_drift_is_found_stored_and_cleared_under_one_name(mlp_bundle: Bundle, tmp_path: Path) -> None:
    clock = ManualClock()
    store = Store.open(tmp_path / "guard.db", clock=clock)
    guard = Guard(mlp_bundle, store=store, clock=clock, window_seconds=60.0, threaded=False)

    def live(windows: int, shift: float, seed: int) -> None:
        for number in range(windows):
            guard.run(tabular_rows(200, seed=seed + number, shift=shift))
            clock.advance(60_000)
            guard.tick()

    live(10, 0.0, 100)
    assert store.finding_counts() == (0, 0)
    live(10, 1.5, 200)
    raised, standing = store.finding_counts()
    assert raised >= 1
    assert standing >= 1
    finding = store.findings(standing=True)[0]
    assert finding["source"] == "drift"
    live(60, 0.0, 300)
    assert store.finding_counts()[1] == 0
    assert finding["finding"] in {entry["finding"] for entry in store.findings()}
    guard.close()
    store.close()


def test_detectors_go_on_after_a_restart_as_if_nothing_had_happened(
    mlp_bundle: Bundle, tmp_path: Path
) -> None:
    def evidence(restarts: bool) -> list[float]:
        clock = ManualClock()
        path = tmp_path / f"{restarts}.db"
        seen = []
        guard = Guard(mlp_bundle, store=path, clock=clock, window_seconds=60.0, threaded=False)
        for number in range(6):
            # Whole windows only: a restart loses the step between two of them.
            guard.run(tabular_rows(200, seed=number, shift=0.1))
            clock.advance(60_000)
            guard.tick()
            seen.append(float(guard.checks.evidence().max()))
            if restarts and number == 2:
                guard.close()
                guard = Guard(mlp_bundle, store=path, clock=clock, window_seconds=60.0, threaded=False)
        guard.close()
        return seen

    with_restart, without = evidence(True), evidence(False)
    assert with_restart[:3] == without[:3]
    np.testing.assert_allclose(with_restart[3:], without[3:], atol=1.0)
    assert abs(with_restart[-1]) > 0


def test_unsigned_or_foreign_bundles_are_not_opened(bundles: Path) -> None:
    from driftpost_models.signing import generate

    with pytest.raises(BundleUntrusted, match="trusted="):
        Guard.open(bundles / "mlp.bundle")
    with pytest.raises(BundleUntrusted):
        Guard.open(bundles / "mlp.bundle", trusted=[generate().public_key()])
    with Guard.open(bundles / "mlp.bundle", trusted=[bundles / "team.pub"]) as guard:
        assert guard.run(tabular_rows(1)).verdict.ok


def test_the_guards_own_cost_is_measured(tabular: Recorded) -> None:
    for row in tabular_rows(50):
        tabular.guard.run(row[None])
    reading = tabular.guard.meter.read()
    assert reading.calls == 50
    assert 0 < reading.guard_us < 5_000
    assert 0 < reading.model_us < 50_000


def test_a_refused_model_leaves_the_store_free(mlp_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused):
        Guard(replace(mlp_bundle, model_bytes=b"no model"), store=tmp_path / "guard.db")
    with Guard(mlp_bundle, store=tmp_path / "guard.db") as guard:
        assert guard.run(tabular_rows(1)).outputs


class Held(Broken):
    """A model that answers only when it is let go."""

    def __init__(self, model: Runtime) -> None:
        super().__init__(model)
        self.failing = False
        self.entered, self.go = threading.Event(), threading.Event()

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self.entered.set()
        assert self.go.wait(10)
        return super().run(inputs)


def test_a_call_under_way_when_the_guard_is_closed_is_in_the_last_window(
    mlp_bundle: Bundle, tmp_path: Path
) -> None:
    model = Held(load_model(mlp_bundle.model_bytes))
    windows: list[ClosedWindow] = []
    guard = Guard(mlp_bundle, model, store=tmp_path / "g.db", on_window=windows.append, window_seconds=600)
    answers = []
    caller = threading.Thread(target=lambda: answers.append(guard.run(tabular_rows(1))), name="caller")
    caller.start()
    assert model.entered.wait(10)
    closer = threading.Thread(target=guard.close, name="closer")
    closer.start()
    closer.join(0.2)
    assert closer.is_alive()
    with pytest.raises(GuardClosed):
        guard.run(tabular_rows(1))
    model.go.set()
    caller.join(10)
    closer.join(10)
    assert answers[0].verdict.status is Status.OK
    assert sum(closed.window.rows for closed in windows) == 1


def test_a_call_that_hangs_does_not_keep_a_guard_from_closing(mlp_bundle: Bundle) -> None:
    model = Held(load_model(mlp_bundle.model_bytes))
    guard = Guard(mlp_bundle, model, threaded=False)
    caller = threading.Thread(target=lambda: guard.run(tabular_rows(1)), name="caller")
    caller.start()
    assert model.entered.wait(10)
    guard.close(0.01)
    model.go.set()
    caller.join(10)


def test_answers_of_another_length_are_laid_out_anew(tabular: Recorded) -> None:
    row = {"x": tabular_rows(1)}

    def laid_out(rows: int) -> tuple[int, ...]:
        layout = tabular.guard._layouts.of(row, {"p": np.zeros((rows, 10), np.float32)}, 1)
        return tuple(layout.outputs[0].row_shape)

    assert [laid_out(rows) for rows in (1, 3, 2, 3, 1)] == [(10,), (3, 10), (2, 10), (3, 10), (10,)]
