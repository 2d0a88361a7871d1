"""Delayed labels on the device: remembered answers, error rates, findings, restarts, hostile requests."""

from __future__ import annotations

import json
import threading
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest

from agent.bundles import CLASSES, REFERENCE_ROWS, built, mlp, tabular_rows
from agent.clocks import ManualClock
from driftpost_agent.errors import LabelRefused, RequestRefused
from driftpost_agent.guard import Guard
from driftpost_agent.label_requests import MAX_LABELS, decode_labels
from driftpost_agent.server import InferenceServer
from driftpost_agent.serving import Serving
from driftpost_agent.store import Store
from driftpost_models.bundle import Bundle
from driftpost_models.runtime import load_model
from driftpost_sketches.labels.label_sketch import LabelSketch
from driftpost_sync.messages import FindingBody, LabelsBody

WRONG = 0.1


def answers_to(rows: np.ndarray) -> np.ndarray:
    model = load_model(mlp(), kind="onnx")
    said = np.concatenate([model.run({"x": row[None]})["p"] for row in rows]).argmax(axis=1)
    model.close()
    return np.asarray(said)


def spoilt(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Labels of which a share contradicts the model."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(labels)) < share, (labels + 1) % CLASSES, labels)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("labelled")
    reference = tabular_rows(REFERENCE_ROWS)
    labels = folder / "labels.npy"
    np.save(labels, spoilt(answers_to(reference), WRONG, 1))
    names = [f"class{number}" for number in range(CLASSES)]
    out = built(
        folder, "named", mlp(), reference, labels=str(labels), classes=names, window_seconds=1.0,
        budget="1 per device-day",
    )  # fmt: skip
    return Bundle.open(out, None)


def guard_of(bundle: Bundle, clock: ManualClock, store: Store | Path | None = None) -> Guard:
    return Guard(bundle, clock=clock, store=store, threaded=False, window_seconds=1.0)


def feed(guard: Guard, clock: ManualClock, rows: np.ndarray, labels: np.ndarray) -> None:
    """A hundred rows a window, labelled right away."""
    for begin in range(0, len(rows), 100):
        named = [guard.run(row[None]).inference_id for row in rows[begin : begin + 100]]
        for name, label in zip(named, labels[begin : begin + 100].tolist(), strict=True):
            assert guard.label(name, label)
        clock.advance(1000)
        guard.tick()


def bodies(store: Store, kind: str) -> list[bytes]:
    with store.lock:
        found = store._db.execute("select body from messages where kind = ? order by id", (kind,))
        return [bytes(row[0]) for row in found.fetchall()]


def test_labels_become_sketches_in_the_outbox_and_each_counts_once(labelled: Bundle, tmp_path: Path) -> None:
    clock = ManualClock(5000, 1_800_000_000_000)
    rows = tabular_rows(300, seed=4)
    truth = spoilt(answers_to(rows), 0.2, 2)
    with Store.open(tmp_path / "s.db", clock=clock) as store, guard_of(labelled, clock, store) as guard:
        names = [guard.run(row[None]).inference_id for row in rows]
        for name, label in zip(names, truth.tolist(), strict=True):
            assert guard.label(name, label)
            assert guard.label(name, label)
        assert not guard.label("nobody", 3)
        assert guard.label(names[0], "class4")
        clock.advance(1000)
        guard.tick()
        (packed,) = bodies(store, "labels")
        body = LabelsBody.from_bytes(packed)
        assert (body.bundle, body.unknown, body.wall_end) == (labelled.id, 1, 1_800_000_001_000)
        sketch = LabelSketch.from_bytes(body.sketch)
        assert sketch.rows == 300
        assert sketch.error_rate == pytest.approx((truth != answers_to(rows)).mean())
        assert int(sketch.reliability.rows.sum()) == 300
        assert guard.labels.status()["counted"] == 300
        assert guard.labels.status()["remembered_rows"] == 300


def test_a_model_that_became_worse_is_a_finding_and_a_recovery_clears_it(
    labelled: Bundle, tmp_path: Path
) -> None:
    clock = ManualClock(5000, 1_800_000_000_000)
    with Store.open(tmp_path / "s.db", clock=clock) as store, guard_of(labelled, clock, store) as guard:
        for seed, share in ((5, WRONG), (6, 0.5), (7, WRONG)):
            rows = tabular_rows(1500, seed=seed)
            feed(guard, clock, rows, spoilt(answers_to(rows), share, seed))
        told = [FindingBody.from_bytes(body) for body in bodies(store, "finding")]
        told = [finding for finding in told if finding.kind == "concept"]
        assert [finding.state for finding in told] == ["raised", "cleared"]
        assert told[0].id == told[1].id
        assert told[0].streams[0][0].startswith("error_rate")
        assert told[0].effect_natural == pytest.approx(0.4, abs=0.15)


def test_a_restart_goes_on_where_the_test_was(labelled: Bundle, tmp_path: Path) -> None:
    clock = ManualClock(5000)
    path = tmp_path / "s.db"
    rows = tabular_rows(1500, seed=6)
    truth = spoilt(answers_to(rows), 0.5, 6)
    with Store.open(path, clock=clock) as store, guard_of(labelled, clock, store) as guard:
        feed(guard, clock, rows, truth)
        before = guard.labels.status()
        assert [f.state for f in guard.labels.remembered] == ["raised"]
    with Store.open(path, clock=clock) as store, guard_of(labelled, clock, store) as guard:
        after = guard.labels.status()
        assert (after["error_rate"], after["low"]) == (before["error_rate"], before["low"])
        assert not guard.label("of another life", 1)
        rows = tabular_rows(1500, seed=7)
        feed(guard, clock, rows, spoilt(answers_to(rows), WRONG, 7))
        told = [FindingBody.from_bytes(body) for body in bodies(store, "finding")]
        assert [f.state for f in told if f.kind == "concept"] == ["raised", "cleared"]
        assert len({f.id for f in told if f.kind == "concept"}) == 1


def test_a_test_that_begins_anew_clears_the_finding_that_stood(labelled: Bundle, tmp_path: Path) -> None:
    clock = ManualClock(5000)
    rows = tabular_rows(1500, seed=6)
    with Store.open(tmp_path / "s.db", clock=clock) as store:
        with guard_of(labelled, clock, store) as guard:
            feed(guard, clock, rows, spoilt(answers_to(rows), 0.5, 6))
        assert store.finding_counts() == (1, 1)
        # Another length of windows: another threshold, to which the stored state does not belong.
        for _ in range(2):
            Guard(labelled, clock=clock, store=store, threaded=False, window_seconds=2.0).close()
        assert store.finding_counts() == (1, 0)
        told = [FindingBody.from_bytes(body) for body in bodies(store, "finding")]
        assert [finding.state for finding in told] == ["raised", "cleared"]


def test_a_bundle_that_is_replaced_leaves_no_finding_on_labels_behind(
    labelled: Bundle, tmp_path: Path
) -> None:
    clock = ManualClock(5000)
    rows = tabular_rows(1500, seed=6)
    with Store.open(tmp_path / "s.db", clock=clock) as store, guard_of(labelled, clock, store) as guard:
        feed(guard, clock, rows, spoilt(answers_to(rows), 0.5, 6))
        assert store.finding_counts() == (1, 1)
        for _ in range(2):
            guard.labels.abandon("another bundle was activated instead")
        assert store.finding_counts() == (1, 0)
        assert store.label_state(labelled.id) is None


def test_memory_of_answers_is_bounded_and_the_oldest_go_first(labelled: Bundle) -> None:
    clock = ManualClock(5000)
    with guard_of(labelled, clock) as guard:
        answers = guard.labels.answers
        small = type(answers)(answers._scores, 40, clock, rows=50)
        row = tabular_rows(1)
        results = [guard.run(row) for _ in range(120)]
        for result in results:
            small.append(result)
            if small.waiting >= 30:
                small.read()
        assert small.rows == 50 or small.find("x") is None
        assert small.find(results[0].inference_id) is None
        assert small.find(results[69].inference_id) is None
        assert small.find(results[70].inference_id).tolist() == [70]
        assert small.find(results[119].inference_id).tolist() == [119]
        clock.advance(7000)
        assert small.reach_s() == 7.0


def test_a_caller_that_writes_into_its_outputs_does_not_change_what_labels_are_compared_with(
    labelled: Bundle,
) -> None:
    rows = tabular_rows(50, seed=5)
    with guard_of(labelled, ManualClock(5000)) as guard:
        for number, row in enumerate(rows):
            scores = guard.run(row[None], inference_id=f"r{number}").output
            np.subtract(scores.max(), scores, out=scores)
        for number, truth in enumerate(answers_to(rows)):
            assert guard.label(f"r{number}", int(truth))
        guard.labels.tick(now=True)
        assert guard.labels.status()["error_rate"] == 0.0


def test_a_batch_is_labelled_row_by_row(labelled: Bundle) -> None:
    clock = ManualClock(5000)
    rows = tabular_rows(20, seed=8)
    truth = answers_to(rows)
    with guard_of(labelled, clock) as guard:
        result = guard.run(rows, "batch of mine")
        assert result.rows == 20
        with pytest.raises(LabelRefused, match="3 labels for 20 rows"):
            guard.label("batch of mine", [1, 2, 3])
        assert guard.label("batch of mine", truth.tolist())
        assert guard.labels.counted == 20


def test_labels_that_are_no_class_are_refused(labelled: Bundle, mlp_bundle: Bundle) -> None:
    clock = ManualClock(5000)
    with guard_of(labelled, clock) as guard:
        name = guard.run(tabular_rows(1)).inference_id
        for wrong in (-1, 10, "unicorn", True, 1.5, None, [1.5], [None], np.float32(1.0)):
            with pytest.raises(LabelRefused):
                guard.label(name, wrong)
        assert guard.labels.counted == 0
        assert guard.label(name, np.int64(3))
    with guard_of(mlp_bundle, clock) as guard, pytest.raises(LabelRefused, match="without --labels"):
        guard.label("x", 1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"[]",
        b'{"labels": 3}',
        b'{"labels": [3]}',
        b'{"labels": [{"id": 7, "label": 1}]}',
        b'{"labels": [{"id": "", "label": 1}]}',
        b'{"labels": [{"id": "a"}]}',
        b'{"labels": [{"id": "a", "label": 1.5}]}',
        b'{"labels": [{"id": "a", "label": true}]}',
        b'{"labels": [{"id": "a", "label": [[1]]}]}',
        json.dumps({"labels": [{"id": "a", "label": 1}] * (MAX_LABELS + 1)}).encode(),
        b"[" * 100_000,
    ],
)
def test_hostile_label_requests_are_refused(body: bytes) -> None:
    with pytest.raises(RequestRefused):
        decode_labels(body)


def test_the_local_server_takes_labels(labelled: Bundle) -> None:
    class Service(Serving):
        def model_metadata(self) -> dict[str, object]:
            return self.metadata

    clock = ManualClock(5000)
    with guard_of(labelled, clock) as guard:
        server = InferenceServer(("127.0.0.1", 0), Service(labelled, guard))  # type: ignore[arg-type]  # what POST needs
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="server-under-test")
        thread.start()
        name = guard.run(tabular_rows(1)).inference_id
        connection = HTTPConnection("127.0.0.1", server.port, timeout=10)

        def post(plain: object) -> tuple[int, dict[str, object]]:
            connection.request("POST", "/labels", json.dumps(plain))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

        pairs = [{"id": name, "label": "class3"}, {"id": "gone", "label": 3}]
        assert post({"labels": pairs}) == (200, {"known": 1, "unknown": 1})
        status, said = post({"labels": [{"id": name, "label": "unicorn"}]})
        assert status == 400
        assert "unicorn" in str(said["error"])
        connection.close()
        server.shutdown()
        server.close_connections()
        thread.join(5)


def test_label_messages_refuse_what_is_malformed() -> None:
    from driftpost_sync.errors import MalformedMessage

    good = LabelsBody("b", 1, 2, None, None, b"x", 3)
    assert LabelsBody.from_bytes(good.to_bytes()) == good
    for wrong in (
        LabelsBody("b", 2, 1, None, None, b"x"),
        LabelsBody("b", 1, 2, None, None, b"x", -1),
        LabelsBody("", 1, 2, None, None, b"x"),
    ):
        with pytest.raises(MalformedMessage):
            LabelsBody.from_bytes(wrong.to_bytes())
    with pytest.raises(MalformedMessage):
        LabelsBody.from_bytes(good.to_bytes()[:-1])
