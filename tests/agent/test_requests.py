"""What the aggregator asks of a device: labels and accounts, once for each id, however often it comes."""

from __future__ import annotations

import sqlite3
import zlib
from pathlib import Path

import numpy as np
import pytest

from agent.bundles import CLASSES, REFERENCE_ROWS, built, mlp, tabular_rows
from agent.clocks import ManualClock
from agent.test_labels import answers_to, bodies, guard_of
from driftpost_agent import answer_log
from driftpost_agent.guard import Guard
from driftpost_agent.requests import Requests
from driftpost_agent.store import Store
from driftpost_models.bundle import Bundle
from driftpost_sketches.labels.label_sketch import LabelSketch
from driftpost_sync.messages import AnswerBody, GivenLabel, GivenLabels, LabelsBody, Request

WALL = 1_800_000_000_000
NO_LABEL = GivenLabels((GivenLabel("a", ()),)).to_bytes()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("asked")
    reference = tabular_rows(REFERENCE_ROWS)
    labels = folder / "labels.npy"
    np.save(labels, answers_to(reference))
    names = [f"class{number}" for number in range(CLASSES)]
    out = built(
        folder, "asked", mlp(), reference, labels=str(labels), classes=names, window_seconds=1.0
    )  # fmt: skip
    return Bundle.open(out, None)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(5000, WALL)


def asking(store: Store, clock: ManualClock, guard: Guard | None) -> Requests:
    return Requests(
        store,
        clock,
        labels=lambda: None if guard is None else guard.labels,
        ledger=store.queue_ledger,
    )


def given(request: str, *pairs: tuple[str | int, int | str], expires: int = WALL + 60_000) -> Request:
    labels = GivenLabels(tuple(GivenLabel(name, (label,)) for name, label in pairs))
    return Request(request, "labels", expires, labels.to_bytes())


def answers(store: Store) -> list[AnswerBody]:
    return [AnswerBody.from_bytes(body) for body in bodies(store, "answer")]


def sketches(store: Store) -> list[LabelSketch]:
    return [LabelSketch.from_bytes(LabelsBody.from_bytes(body).sketch) for body in bodies(store, "labels")]


def test_labels_are_joined_once_and_answered_in_the_transaction_that_records_them(
    labelled: Bundle, clock: ManualClock, tmp_path: Path
) -> None:
    rows = tabular_rows(20, seed=4)
    truth = answers_to(rows).tolist()
    with Store.open(tmp_path / "s.db", clock=clock) as store, guard_of(labelled, clock, store) as guard:
        names = [guard.run(row[None]).inference_id for row in rows]
        requests = asking(store, clock, guard)
        pairs = [*zip(names, truth, strict=True), ("nobody", 1), (names[0], truth[0]), (names[1], "no class")]
        for _ in range(3):
            requests.take(given("lb-1", *pairs))
        assert not answers(store), "nothing is answered before it is recorded"
        clock.advance(1000)
        guard.tick()
        (answer,) = answers(store)
        assert (answer.request, answer.outcome) == ("lb-1", "done")
        assert answer.counts == {"counted": 20, "twice": 1, "unknown": 1, "refused": 1}
        assert "no class" in answer.text
        (sketch,) = sketches(store)
        assert sketch.rows == 20
        requests.take(given("lb-1", *pairs))
        clock.advance(1000)
        guard.tick()
        assert len(answers(store)) == 1
        requests.take(given("lb-2", *pairs[:5]))
        clock.advance(1000)
        guard.tick()
        assert answers(store)[1].counts == {"counted": 0, "twice": 5, "unknown": 0, "refused": 0}
        assert sum(sketch.rows for sketch in sketches(store)) == 20


def test_a_time_finds_the_nearest_answer_and_none_when_the_clock_is_not_good(
    labelled: Bundle, clock: ManualClock, tmp_path: Path
) -> None:
    rows = tabular_rows(3, seed=5)
    truth = answers_to(rows).tolist()
    with Store.open(tmp_path / "s.db", clock=clock) as store, guard_of(labelled, clock, store) as guard:
        for row in rows:
            guard.run(row[None])
            clock.advance(10_000)
        requests = asking(store, clock, guard)
        requests.take(given("lb-1", (WALL + 9_600, truth[1]), (WALL + 5_000, 0), (WALL + 20_900, truth[2])))
        clock.advance(1000)
        guard.tick()
        assert answers(store)[0].counts == {"counted": 2, "twice": 0, "unknown": 1, "refused": 0}
        assert sketches(store)[0].error_rate == 0.0
        clock.wall = None
        requests.take(given("lb-2", (WALL, truth[0])))
        clock.advance(1000)
        guard.tick()
        assert answers(store)[1].counts["unknown"] == 1


@pytest.mark.parametrize(
    ("request_", "outcome", "words"),
    [
        (given("lb-1", ("a", 1), expires=WALL - 1), "expired", "after its end"),
        (Request("lb-1", "labels", WALL + 1, b"\xc1"), "refused", "not msgpack"),
        (Request("lb-1", "labels", WALL + 1, NO_LABEL), "refused", "no label"),
        (Request("lb-1", "dance", WALL + 1), "refused", "not known"),
    ],
)  # fmt: skip
def test_what_comes_too_late_or_makes_no_sense_is_answered_so(
    labelled: Bundle, tmp_path: Path, request_: Request, outcome: str, words: str
) -> None:
    clock = ManualClock(5000, WALL)
    with Store.open(tmp_path / "s.db", clock=clock) as store, guard_of(labelled, clock, store) as guard:
        asking(store, clock, guard).take(request_)
        (answer,) = answers(store)
        assert answer.outcome == outcome
        assert words in answer.text


def test_what_came_too_late_is_carried_out_when_it_is_asked_again_with_time(
    labelled: Bundle, tmp_path: Path
) -> None:
    clock = ManualClock(5000, WALL)
    with Store.open(tmp_path / "s.db", clock=clock) as store, guard_of(labelled, clock, store) as guard:
        requests = asking(store, clock, guard)
        requests.take(given("lb-1", ("a", 1), expires=WALL - 1))
        requests.take(given("lb-1", ("a", 1), expires=WALL + 60_000))
        requests.take(given("lb-1", ("a", 1), expires=WALL - 1))
        clock.advance(1000)
        guard.tick()
        assert [one.outcome for one in answers(store)] == ["expired", "expired", "done"]
        requests.take(given("lb-1", ("a", 1), expires=WALL - 1))
        requests.take(given("lb-1", ("a", 1), expires=WALL + 60_000))
        clock.advance(1000)
        guard.tick()
        assert [one.outcome for one in answers(store)] == ["expired", "expired", "done"]


def test_a_model_without_labels_refuses_them(clock: ManualClock, tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.db", clock=clock) as store:
        asking(store, clock, None).take(given("lb-1", ("a", 1)))
        assert answers(store)[0].outcome == "refused"
        assert "without labels" in answers(store)[0].text


def test_an_account_that_is_asked_for_is_queued_with_its_answer(clock: ManualClock, tmp_path: Path) -> None:
    with Store.open(tmp_path / "s.db", clock=clock) as store:
        requests = asking(store, clock, None)
        for _ in range(2):
            requests.take(Request("lq-1", "ledger", WALL + 1))
        assert len(bodies(store, "ledger")) == 1
        assert answers(store)[0].outcome == "done"


def test_a_kill_before_the_labels_are_recorded_leaves_the_request_open(
    labelled: Bundle, clock: ManualClock, tmp_path: Path
) -> None:
    row = tabular_rows(1, seed=6)[0]
    with Store.open(tmp_path / "s.db", clock=clock) as store, guard_of(labelled, clock, store) as guard:
        name = guard.run(row[None]).inference_id
        asking(store, clock, guard).take(given("lb-1", (name, 1)))
        assert not store.answered("lb-1")


def test_a_store_that_can_not_be_written_makes_the_answer_wait(
    labelled: Bundle, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = tabular_rows(1, seed=6)[0]
    with Store.open(tmp_path / "s.db", clock=clock) as store, guard_of(labelled, clock, store) as guard:
        name = guard.run(row[None]).inference_id
        requests = asking(store, clock, guard)

        def full(*_: object, **__: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(store, "record_labels", full)
            requests.take(given("lb-1", (name, 1)))
            clock.advance(1000)
            guard.tick()
        assert not answers(store)
        clock.advance(1000)
        guard.tick()
        assert answers(store)[0].counts["counted"] == 1


def test_only_so_many_ids_are_remembered(
    clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_log, "KEEP_ANSWERED", 5)
    with Store.open(tmp_path / "s.db", clock=clock) as store:
        for number in range(9):
            store.record_answer(AnswerBody(f"r{number}", "done"))
        assert [store.answered(f"r{number}") for number in (3, 4, 8)] == [False, True, True]


def test_answers_are_remembered_over_an_orderly_restart_with_their_labels_and_times(
    labelled: Bundle, clock: ManualClock, tmp_path: Path
) -> None:
    rows = tabular_rows(3, seed=7)
    truth = answers_to(rows).tolist()
    path = tmp_path / "s.db"
    with Store.open(path, clock=clock) as store, guard_of(labelled, clock, store) as guard:
        names = []
        for row in rows:
            names.append(guard.run(row[None]).inference_id)
            clock.advance(10_000)
        assert guard.label(names[0], truth[0])
    # Another boot: the monotonic clock begins anew.
    later = ManualClock(7, clock.wall + 3_600_000)
    with Store.open(path, clock=later) as store, guard_of(labelled, later, store) as guard:
        asking(store, later, guard).take(
            given(
                "lb-1",
                (names[0], truth[0]),
                (names[1], truth[1]),
                (WALL + 20_400, truth[2]),
                expires=WALL * 2,
            )
        )
        later.advance(1000)
        guard.tick()
        assert answers(store)[0].counts == {"counted": 2, "twice": 1, "unknown": 0, "refused": 0}
        assert store.take_answers(labelled.id) is None
        assert guard.labels.status()["remembered_hours"] == pytest.approx(1.0, abs=0.02)


def test_kept_answers_that_are_damaged_are_forgotten(
    labelled: Bundle, clock: ManualClock, tmp_path: Path
) -> None:
    for data in (
        b"",
        b"damage",
        zlib.compress(b"\xc1"),
        zlib.compress(b"\x95\x90\xc0\xc0\xc0\xc0"),
        zlib.compress(b"\x01"),
    ):
        with Store.open(tmp_path / "s.db", clock=clock) as store:
            store.keep_answers(labelled.id, data)
            with guard_of(labelled, clock, store) as guard:
                assert guard.labels.answers.rows == 0


def test_a_device_without_a_good_clock_remembers_names_but_no_times(labelled: Bundle, tmp_path: Path) -> None:
    clock = ManualClock(5000)
    row = tabular_rows(1, seed=8)[0]
    with Store.open(tmp_path / "s.db", clock=clock) as store, guard_of(labelled, clock, store) as guard:
        name = guard.run(row[None]).inference_id
    clock.wall = WALL
    with Store.open(tmp_path / "s.db", clock=clock) as store, guard_of(labelled, clock, store) as guard:
        assert guard.labels.answers.named_at(WALL) is None
        assert guard.label(name, 1)
