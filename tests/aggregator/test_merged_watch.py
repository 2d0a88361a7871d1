from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sqlalchemy import Engine, insert, select, update

from driftpost_aggregator import concept_watch, merged_watch, suspicion
from driftpost_aggregator.batch import Incoming
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.merged_watch import MergedWatch, populations_of, standing_alarms
from driftpost_aggregator.registry import KnownBundle, check
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.store.tables import detector_states, populations
from driftpost_sketches.drift.budget import Budget
from paper_fleet import BUNDLE, FLEET, NOW, PaperBundle, PaperDevice, draw, make_bundle

BUCKET_S = 10
START = NOW // 10_000 * 10_000
BUDGET = Budget.parse("1 per fleet-year")


@pytest.fixture(scope="module")
def bundle() -> PaperBundle:
    return make_bundle()


@pytest.fixture
def known(bundle: PaperBundle) -> KnownBundle:
    return check(bundle.describe)


@pytest.fixture
def feed(engine: Engine, bundle: PaperBundle) -> Callable[[int, float], int]:
    """Gives each of six devices, three with camera B, one window in a bucket, B's contrast shifted."""
    ingest = Ingest(engine, fleet=FLEET, bucket_s=BUCKET_S, now_ms=lambda: START)
    fleet = [PaperDevice(f"m{index}", {"camera": "AB"[index % 2]}) for index in range(6)]
    generator = np.random.default_rng(6)
    first = fleet[0]
    ingest.take([Incoming(device.identity.state, device.presence(), START) for device in fleet])
    payload = first.message([first.item("describe", bundle.describe.to_bytes())], START)
    ingest.take([Incoming(first.identity.up, payload, START)])

    def give(bucket: int, shift: float) -> int:
        end = START + bucket * 10_000 + 9_000
        batch = []
        for index, device in enumerate(fleet):
            values = draw(generator, 300, shift={"contrast": shift} if index % 2 else {})
            item = device.window(bundle.window(values), end, length_ms=8_000)
            batch.append(Incoming(device.identity.up, device.message([item], end), end))
        ingest.take(batch)
        return START + bucket * 10_000 + 40_000

    return give


def stored(engine: Engine) -> dict[tuple[str, str], tuple[int, bytes]]:
    with reading(engine) as connection:
        rows = connection.execute(select(detector_states)).all()
    return {(row.scope, row.scope_key): (row.next_bucket_ms, row.state) for row in rows}


def standing(engine: Engine) -> set[tuple[str, str]]:
    with reading(engine) as connection:
        return {(one.scope_key, one.stream) for one in standing_alarms(connection, BUNDLE)}


def test_a_bucket_is_taken_once_and_only_after_it_has_closed(
    engine: Engine, known: KnownBundle, feed: Callable[[int, float], int]
) -> None:
    watch = MergedWatch(known, BUDGET, BUCKET_S)
    ripe = feed(0, 0.0)
    assert watch.step(engine, ripe - 20_000) == 0
    assert watch.step(engine, ripe) == 1
    assert watch.step(engine, ripe) == 0
    assert set(stored(engine)) == {("fleet", ""), ("cohort", "camera=A"), ("cohort", "camera=B")}


def test_a_cohort_s_drift_is_raised_there_and_cleared_when_it_is_over(
    engine: Engine, known: KnownBundle, feed: Callable[[int, float], int]
) -> None:
    watch = MergedWatch(known, BUDGET, BUCKET_S)
    for bucket in range(10):
        watch.step(engine, feed(bucket, 0.5))
    assert ("camera=B", "contrast") in standing(engine)
    assert ("camera=A", "contrast") not in standing(engine)
    for bucket in range(10, 60):
        watch.step(engine, feed(bucket, 0.0))
    assert standing(engine) == set()


def test_workers_that_take_turns_and_die_end_where_one_alone_would(
    engine: Engine, known: KnownBundle, feed: Callable[[int, float], int]
) -> None:
    now = START
    for bucket in range(12):
        now = feed(bucket, 0.1)
    alone = MergedWatch(known, BUDGET, BUCKET_S)
    alone.step(engine, now)
    expected = stored(engine)
    with writing(engine) as connection:
        connection.execute(detector_states.delete())
    workers = [MergedWatch(known, BUDGET, BUCKET_S) for _ in range(2)]
    for bucket in range(12):
        if bucket == 5:
            workers[0] = MergedWatch(known, BUDGET, BUCKET_S)
        workers[bucket % 3 % 2].step(engine, START + bucket * 10_000 + 40_000)
    assert stored(engine) == expected


def test_a_worker_that_was_overtaken_drops_what_it_counted(
    engine: Engine, known: KnownBundle, feed: Callable[[int, float], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast = MergedWatch(known, BUDGET, BUCKET_S), MergedWatch(known, BUDGET, BUCKET_S)
    now = feed(0, 0.0)
    real = slow._taken

    def overtaken(*arguments: object) -> object:
        outcome = real(*arguments)  # type: ignore[arg-type]  # passes on what it was given
        assert fast.step(engine, now) == 1
        return outcome

    monkeypatch.setattr(slow, "_taken", overtaken)
    assert slow.step(engine, now) == 0
    monkeypatch.undo()
    after = stored(engine)
    assert slow.step(engine, feed(1, 0.0)) == 1
    assert all(stored(engine)[key][0] == next_ms + 10_000 for key, (next_ms, _) in after.items())


def test_a_state_of_another_threshold_starts_afresh_without_its_alarms(
    engine: Engine, known: KnownBundle, feed: Callable[[int, float], int]
) -> None:
    watch = MergedWatch(known, BUDGET, BUCKET_S)
    for bucket in range(6):
        watch.step(engine, feed(bucket, 1.0))
    assert standing(engine)
    with writing(engine) as connection:
        connection.execute(update(detector_states).values(raised={"ghost": {"kind": "shift"}}))
    other = MergedWatch(known, Budget.parse("1 per fleet-hour"), BUCKET_S)
    other.step(engine, feed(6, 0.0))
    assert all(stream != "ghost" for _, stream in standing(engine))


def test_a_cohort_that_nobody_is_in_any_more_is_forgotten_with_its_alarm(
    engine: Engine, known: KnownBundle, feed: Callable[[int, float], int]
) -> None:
    watch = MergedWatch(known, BUDGET, BUCKET_S)
    watch.step(engine, feed(0, 0.0))
    alarm = {"kind": "shift", "log_e": 20.0, "onset_ms": START, "raised_ms": START}
    gone = START - merged_watch.FORGOTTEN_MS
    lately = gone + 60_000
    with writing(engine) as connection:
        for name, taken_ms in (("lens=a", gone), ("lens=b", lately)):
            row = {"scope": "cohort", "scope_key": name, "bundle": BUNDLE, "next_bucket_ms": taken_ms}
            connection.execute(insert(detector_states).values(**row, state=b"", raised={"contrast": alarm}))
    watch.step(engine, feed(1, 0.0))
    assert standing(engine) == {("lens=b", "contrast")}
    assert ("cohort", "lens=a") not in stored(engine)


def test_of_a_fleet_larger_than_can_be_held_every_scope_has_its_part(
    engine: Engine,
    known: KnownBundle,
    feed: Callable[[int, float], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(merged_watch, "MAX_SAMPLE", 2)
    monkeypatch.setattr(merged_watch, "LEAST_SAMPLE", 2)
    monkeypatch.setattr(merged_watch, "MAX_MERGED", 2)
    watch = MergedWatch(known, BUDGET, BUCKET_S)
    for bucket in range(14):
        watch.step(engine, feed(bucket, 1.0))
    assert set(stored(engine)) == {("fleet", ""), ("cohort", "camera=A"), ("cohort", "camera=B")}
    assert ("camera=B", "contrast") in standing(engine)
    assert ("camera=A", "contrast") not in standing(engine)
    with reading(engine) as connection:
        assert 4 <= populations_of(connection, [BUNDLE])[BUNDLE] <= 6
        assert connection.scalar(select(populations.c.bucket_ms)) == START + 13 * 10_000


def test_changes_of_categories_are_told_as_shares_of_rows(known: KnownBundle) -> None:
    assert (known.units["brightness"], known.units["class"]) == ("level", "share")


def test_all_that_spend_the_fleet_s_budget_spend_no_more_than_it() -> None:
    assert merged_watch.SHARE + suspicion.SHARE + concept_watch.SHARE <= 1.0


def test_pairs_of_attributes_are_watched_where_they_are_neither_of_the_two() -> None:
    fleet = {
        f"m{number}": [f"camera={'AB'[number % 2]}", f"lens={'ab'[number % 2]}", f"site=s{number // 2 % 2}"]
        for number in range(40)
    }
    watched = merged_watch._scopes(fleet)
    pairs = {name for scope, name in watched if scope == "cohort" and merged_watch.AND in name}
    assert "camera=A & site=s1" in pairs
    assert "camera=A & lens=a" not in pairs
    assert len(watched["cohort", "camera=A & site=s1"]) == 10
    assert "camera=A & site=s1" not in {
        name for _, name in merged_watch._scopes(dict(list(fleet.items())[:20]))
    }
