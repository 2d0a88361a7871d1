from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgpack
import numpy as np
import pytest
from sqlalchemy import Connection, Engine, delete, event, func, select, text

from driftpost_aggregator import ingest as ingest_module
from driftpost_aggregator import seen as seen_module
from driftpost_aggregator.batch import MAX_REFUSED, Incoming, Reply
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.places import Place, ReadSketch
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.store.tables import (
    bundles,
    device_attributes,
    devices,
    findings,
    ledgers,
    quarantine,
    rollups,
    windows,
)
from driftpost_sketches.window import MAX_COUNT, SUM2_LIMIT, Window
from driftpost_sync.codec import MAX_INCARNATION, MAX_SEQ
from driftpost_sync.messages import MAX_ITEMS, MAX_READ_BYTES, Ack, Item, WindowBody
from paper_fleet import BUNDLE, FLEET, NOW, PaperBundle, PaperDevice, draw, make_bundle

BUCKET_S = 60


@pytest.fixture(scope="module")
def bundle() -> PaperBundle:
    return make_bundle()


@pytest.fixture
def ingest(engine: Engine) -> Ingest:
    return Ingest(engine, fleet=FLEET, bucket_s=BUCKET_S, quarantine_rows=100, now_ms=lambda: NOW)


def up(device: PaperDevice, items: Sequence[Item], *, wall: bool = True, at_ms: int = NOW) -> Incoming:
    return Incoming(device.identity.up, device.message(items, at_ms, wall=wall), at_ms)


def birth(device: PaperDevice, *, online: bool = True, at_ms: int = NOW) -> Incoming:
    return Incoming(device.identity.state, device.presence(online=online), at_ms)


def describe(device: PaperDevice, bundle: PaperBundle) -> Item:
    return device.item("describe", bundle.describe.to_bytes())


def some_windows(device: PaperDevice, bundle: PaperBundle, count: int, seed: int = 0) -> list[Item]:
    generator = np.random.default_rng(seed)
    return [device.window(bundle.window(draw(generator, 50)), NOW - 10_000 * index) for index in range(count)]


def acked(replies: Sequence[Reply]) -> set[tuple[str, int]]:
    return {
        (reply.device, seq)
        for reply in replies
        for first, last in reply.ack.ranges
        for seq in range(first, last + 1)
    }


def totals(engine: Engine) -> dict[str, tuple[int, int]]:
    """Windows and rows: stored, in each device's row, in each scope's rollups."""
    with reading(engine) as connection:
        stored = connection.execute(select(func.count(), func.coalesce(func.sum(windows.c.rows), 0))).one()
        counted = connection.execute(
            select(func.coalesce(func.sum(devices.c.windows), 0), func.coalesce(func.sum(devices.c.rows), 0))
        ).one()
        scopes = connection.execute(
            select(rollups.c.scope, func.sum(rollups.c.parts), func.sum(rollups.c.rows)).group_by(
                rollups.c.scope
            )
        ).all()
    return {"stored": tuple(stored), "devices": tuple(counted)} | {row[0]: (row[1], row[2]) for row in scopes}


def reasons(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        return list(connection.execute(select(quarantine.c.reason).order_by(quarantine.c.id)).scalars())


def test_windows_count_in_their_device_each_of_its_cohorts_and_the_fleet(
    ingest: Ingest, engine: Engine, bundle: PaperBundle
) -> None:
    first = PaperDevice("m1", {"camera": "A", "site": "north"})
    second = PaperDevice("m2", {"camera": "B", "site": "north"})
    replies = ingest.take(
        [
            birth(first),
            birth(second),
            up(first, [describe(first, bundle), *some_windows(first, bundle, 3)]),
            up(second, some_windows(second, bundle, 2)),
        ]
    )
    assert acked(replies) == {("m1", 1), ("m1", 2), ("m1", 3), ("m1", 4), ("m2", 1), ("m2", 2)}
    assert totals(engine) == {
        "stored": (5, 250),
        "devices": (5, 250),
        "device": (5, 250),
        "cohort": (10, 500),
        "fleet": (5, 250),
    }
    with reading(engine) as connection:
        row = connection.execute(
            select(func.sum(rollups.c.rows), func.max(rollups.c.devices)).where(
                rollups.c.scope_key == "site=north"
            )
        ).one()
    assert tuple(row) == (250, 2)


def test_a_rollup_holds_exactly_what_one_pass_over_all_rows_would(
    ingest: Ingest, engine: Engine, bundle: PaperBundle
) -> None:
    device = PaperDevice("m1")
    generator = np.random.default_rng(3)
    blocks = [draw(generator, 40) for _ in range(6)]
    end = NOW // 60_000 * 60_000 + 59_000
    items = [
        device.window(bundle.window(block), end - 1_000 * index, length_ms=1_000)
        for index, block in enumerate(blocks)
    ]
    ingest.take([up(device, [describe(device, bundle)])])
    for item in items:
        ingest.take([up(device, [item])])
    with reading(engine) as connection:
        packed = connection.execute(select(rollups.c.window).where(rollups.c.scope == "fleet")).scalar_one()
    merged, whole = Window.from_bytes(packed), bundle.window(np.concatenate(blocks))
    assert merged == replace(whole, parts=6)


def test_whatever_is_repeated_or_reordered_counts_once(
    engine: Engine, bundle: PaperBundle, ingest: Ingest
) -> None:
    chance = random.Random(5)
    fleet = [PaperDevice(f"m{index}", {"camera": "AB"[index % 2]}) for index in range(4)]
    ingest.take([birth(device) for device in fleet] + [up(fleet[0], [describe(fleet[0], bundle)])])
    before = fleet[0].seq
    messages = []
    for device in fleet:
        items = some_windows(device, bundle, 12, seed=device.seq)
        messages += [up(device, items[begin : begin + 3]) for begin in range(0, 12, 3)]
    messages *= 3
    chance.shuffle(messages)
    seen: set[tuple[str, int]] = set()
    while messages:
        size = chance.randint(1, 9)
        seen |= acked(ingest.take(messages[:size]))
        del messages[:size]
    assert totals(engine)["stored"] == totals(engine)["devices"] == totals(engine)["fleet"] == (48, 2400)
    assert len(seen) == 48
    assert before == 1


def test_a_message_that_returns_after_its_row_was_deleted_is_acknowledged_and_not_counted_again(
    engine: Engine, bundle: PaperBundle, ingest: Ingest
) -> None:
    device = PaperDevice("m1")
    message = up(device, [describe(device, bundle), *some_windows(device, bundle, 4)])
    first = acked(ingest.take([birth(device), message]))
    with writing(engine) as connection:
        connection.execute(delete(windows).where(windows.c.merged))
    assert acked(ingest.take([message])) == first
    after = totals(engine)
    assert (after["stored"], after["devices"], after["fleet"]) == ((0, 0), (4, 200), (4, 200))


def test_one_message_twice_in_one_batch_counts_once_and_is_acknowledged(
    ingest: Ingest, engine: Engine, bundle: PaperBundle
) -> None:
    device = PaperDevice("m1")
    message = up(device, [describe(device, bundle), *some_windows(device, bundle, 2)])
    assert acked(ingest.take([message, message])) == {("m1", 1), ("m1", 2), ("m1", 3)}
    assert totals(engine)["stored"] == (2, 100)


def test_a_commit_whose_acknowledgement_was_lost_is_acknowledged_again_and_not_counted_again(
    engine: Engine, bundle: PaperBundle
) -> None:
    device = PaperDevice("m1", {"camera": "A"})
    batch = [birth(device), up(device, [describe(device, bundle), *some_windows(device, bundle, 3)])]
    first = Ingest(engine, fleet=FLEET, bucket_s=BUCKET_S, now_ms=lambda: NOW)
    first.take(batch)  # and the process dies here, its replies unsent
    second = Ingest(engine, fleet=FLEET, bucket_s=BUCKET_S, now_ms=lambda: NOW)
    assert acked(second.take(batch)) == {("m1", seq) for seq in range(1, 5)}
    assert totals(engine)["stored"] == totals(engine)["cohort"] == (3, 150)


def test_a_process_that_dies_before_the_commit_has_counted_nothing(
    engine: Engine, bundle: PaperBundle, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = PaperDevice("m1")
    batch = [birth(device), up(device, [describe(device, bundle), *some_windows(device, bundle, 3)])]

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("driftpost_aggregator.device_rows.grow", die)
        with pytest.raises(Killed):
            ingest.take(batch)
    assert totals(engine) == {"stored": (0, 0), "devices": (0, 0)}
    again = Ingest(engine, fleet=FLEET, bucket_s=BUCKET_S, now_ms=lambda: NOW)
    again.take(batch)
    assert totals(engine)["fleet"] == (3, 150)


def test_a_device_that_starts_anew_counts_from_one_again(
    ingest: Ingest, engine: Engine, bundle: PaperBundle
) -> None:
    device = PaperDevice("m1")
    reborn = PaperDevice("m1", incarnation=(2 << 32) | 9)
    ingest.take([up(device, [describe(device, bundle), *some_windows(device, bundle, 2)])])
    ingest.take([up(reborn, some_windows(reborn, bundle, 2))])
    assert totals(engine)["stored"] == (4, 200)


def test_windows_of_an_unknown_bundle_are_stored_asked_about_and_merged_once_it_is_described(
    ingest: Ingest, engine: Engine, bundle: PaperBundle
) -> None:
    device = PaperDevice("m1", {"camera": "A"})
    replies = ingest.take([birth(device), up(device, some_windows(device, bundle, 3))])
    assert [reply.ack.wanted for reply in replies] == [(f"describe:{BUNDLE}",)]
    assert totals(engine) == {"stored": (3, 150), "devices": (3, 150)}
    replies = ingest.take([up(device, [describe(device, bundle)])])
    assert [reply.ack.wanted for reply in replies] == [()]
    assert totals(engine)["fleet"] == totals(engine)["cohort"] == (3, 150)


def test_a_device_whose_birth_was_never_seen_is_asked_for_it(ingest: Ingest, bundle: PaperBundle) -> None:
    device = PaperDevice("m1")
    (reply,) = ingest.take([up(device, [describe(device, bundle)])])
    assert reply.ack.wanted == ("birth", "ledger")


def test_the_first_description_of_a_bundle_stands_against_another_device(
    ingest: Ingest, engine: Engine, bundle: PaperBundle
) -> None:
    honest, liar = PaperDevice("m1"), PaperDevice("m2")
    other = make_bundle(seed=99, rows=500)
    ingest.take([up(honest, [describe(honest, bundle)])])
    (reply,) = ingest.take([up(liar, [describe(liar, other)])])
    assert reply.ack.refused[0][0] == 1
    assert "already described differently" in reply.ack.refused[0][1]
    with reading(engine) as connection:
        assert connection.execute(select(bundles.c.schema_id)).scalar_one() == bundle.schema.id


def test_attributes_that_change_within_a_bucket_count_the_device_once_in_each_cohort(
    ingest: Ingest, engine: Engine, bundle: PaperBundle
) -> None:
    device = PaperDevice("m1", {"site": "north"})
    end = NOW // 60_000 * 60_000 + 30_000
    body = bundle.window(draw(np.random.default_rng(1), 10))
    ingest.take([birth(device), up(device, [describe(device, bundle), device.window(body, end)])])
    device.attributes = {"site": "south"}
    ingest.take([birth(device), up(device, [device.window(body, end + 1), device.window(body, end + 2)])])
    with reading(engine) as connection:
        rows = connection.execute(select(rollups.c.scope_key, rollups.c.devices, rollups.c.parts)).all()
        attributes = connection.execute(select(device_attributes.c.value)).scalars().all()
    assert sorted(map(tuple, rows)) == [("", 1, 3), ("m1", 1, 3), ("site=north", 1, 1), ("site=south", 1, 2)]
    assert attributes == ["south"]


def test_the_will_of_a_replaced_incarnation_does_not_make_a_device_offline(
    ingest: Ingest, engine: Engine
) -> None:
    old = PaperDevice("m1", incarnation=1 << 32)
    new = PaperDevice("m1", incarnation=2 << 32)
    ingest.take([birth(old), birth(new), birth(old, online=False)])
    with reading(engine) as connection:
        row = connection.execute(select(devices)).one()
    assert (row.online, row.incarnation) == (True, 2 << 32)
    ingest.take([birth(new, online=False)])
    with reading(engine) as connection:
        assert connection.execute(select(devices.c.online)).scalar_one() is False


def test_the_will_of_a_device_long_gone_does_not_count_as_hearing_from_it(
    ingest: Ingest, engine: Engine
) -> None:
    device = PaperDevice("m1")
    ingest.take([birth(device), birth(device, online=False)])
    # The broker repeats retained states whenever we subscribe again.
    ingest.take([birth(device, online=False, at_ms=NOW + 30 * 86_400_000)])
    with reading(engine) as connection:
        assert connection.execute(select(devices.c.online, devices.c.last_seen_ms)).one() == (False, NOW)


def test_a_device_whose_store_was_lost_is_believed_and_its_old_findings_end(
    ingest: Ingest, engine: Engine, bundle: PaperBundle
) -> None:
    old = PaperDevice("m1", incarnation=(9 << 32) | 5)
    ingest.take([birth(old), up(old, [describe(old, bundle), old.finding(NOW)])])
    restarted = PaperDevice("m1", incarnation=(10 << 32) | 6)
    ingest.take([birth(restarted)])
    with reading(engine) as connection:
        assert connection.execute(select(findings.c.cleared_ms)).scalar_one() is None
    fresh = PaperDevice("m1", incarnation=(1 << 32) | 7)
    ingest.take([birth(fresh, at_ms=NOW + 5), up(fresh, some_windows(fresh, bundle, 2))])
    ingest.take([birth(restarted, online=False)])
    with reading(engine) as connection:
        assert connection.execute(select(findings.c.cleared_ms)).scalar_one() == NOW + 5
        row = connection.execute(select(devices)).one()
    assert (row.online, row.incarnation, row.windows) == (True, (1 << 32) | 7, 2)


def test_a_device_without_wall_clock_is_placed_by_its_monotonic_one(
    ingest: Ingest, engine: Engine, bundle: PaperBundle
) -> None:
    device = PaperDevice("m1", booted_ms=NOW - 86_400_000)
    item = device.window(bundle.window(draw(np.random.default_rng(1), 10)), NOW - 7_200_000, wall=False)
    ingest.take([up(device, [describe(device, bundle), item], wall=False)])
    with reading(engine) as connection:
        row = connection.execute(select(windows)).one()
    assert (row.start_ms, row.end_ms, row.clock) == (NOW - 7_210_000, NOW - 7_200_000, "monotonic")


def test_a_finding_is_cleared_by_its_own_end_even_when_that_arrives_first(
    ingest: Ingest, engine: Engine
) -> None:
    device = PaperDevice("m1")
    raised = device.finding(NOW - 5_000, name="f1")
    cleared = device.finding(NOW - 1_000, name="f1", state="cleared")
    other = device.finding(NOW - 4_000, name="f2")
    ingest.take([up(device, [cleared])])
    ingest.take([up(device, [raised, other])])
    with reading(engine) as connection:
        rows = connection.execute(
            select(findings.c.id, findings.c.cleared_ms).where(findings.c.state == "raised")
        ).all()
    assert sorted(map(tuple, rows)) == [("f1", NOW - 1_000), ("f2", None)]


def test_an_older_ledger_does_not_replace_a_newer_one(ingest: Ingest, engine: Engine) -> None:
    device = PaperDevice("m1")
    older, newer = device.ledger(10, 1000, pending=10), device.ledger(20, 2000)
    ingest.take([up(device, [newer])])
    ingest.take([up(device, [older])])
    with reading(engine) as connection:
        row = connection.execute(select(ledgers)).one()
    assert (row.recorded_windows, row.pending_windows, row.acked_rows) == (20, 0, 2000)


def test_a_ledger_that_does_not_balance_is_refused(ingest: Ingest, engine: Engine) -> None:
    device = PaperDevice("m1")
    broken = msgpack.packb(
        {"i": 5, "n": [3, 30], "a": [1, 10], "p": [1, 10], "q": [0, 0], "g": [0, 0], "l": 0}
    )
    (reply,) = ingest.take([up(device, [device.item("ledger", broken)])])
    assert "does not balance" in reply.ack.refused[0][1]
    assert reasons(engine)[0].startswith("its ledger does not balance")


Spoil = Callable[[PaperDevice, PaperBundle], Item]


def _body(bundle: PaperBundle, **changes: object) -> WindowBody:
    window = bundle.window(draw(np.random.default_rng(1), 10))
    plain = WindowBody(
        bundle=BUNDLE,
        schema_id=window.schema_id,
        mono_start=1_000,
        mono_end=11_000,
        wall_start=NOW - 10_000,
        wall_end=NOW,
        window=window.to_bytes(),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # each test gives a field of its own type


def _rows(bundle: PaperBundle, rows: int) -> bytes:
    window = bundle.window(draw(np.random.default_rng(1), 10))
    return replace(window, rows=rows).to_bytes()


def _inflated(bundle: PaperBundle) -> bytes:
    window = bundle.window(draw(np.random.default_rng(1), 10))
    return replace(window, rows=window.rows << 40, counts=window.counts << 40).to_bytes()


HOSTILE: dict[str, tuple[Spoil, str]] = {
    "a kind we do not know": (lambda d, b: d.item("gossip", b"\x80"), "unknown kind"),
    "bytes that are no msgpack": (lambda d, b: d.item("window", b"\xc1" * 40), "not msgpack"),
    "a truncated sketch": (
        lambda d, b: d.item("window", _body(b, window=_body(b).window[:-9]).to_bytes()),
        "not a readable sketch",
    ),
    "an empty sketch": (lambda d, b: d.item("window", _body(b, window=b"").to_bytes()), "not a readable"),
    "another schema's name": (
        lambda d, b: d.item("window", _body(b, schema_id=b"x" * 16).to_bytes()),
        "another schema than it says",
    ),
    "another bundle's sketch": (
        lambda d, b: d.item(
            "window",
            _body(
                b,
                window=(w := make_bundle(seed=9, rows=300))
                .window(draw(np.random.default_rng(1), 9))
                .to_bytes(),
                schema_id=w.schema.id,
            ).to_bytes(),
        ),
        "can not merge",
    ),
    "rows that its counts do not hold": (
        lambda d, b: d.item("window", _body(b, window=_rows(b, 11)).to_bytes()),
        "do not add up",
    ),
    "more rows than anyone can infer": (
        lambda d, b: d.item("window", _body(b, window=_inflated(b)).to_bytes()),
        "",
    ),
    "no base window": (
        lambda d, b: d.item(
            "window",
            _body(
                b, window=replace(b.window(draw(np.random.default_rng(1), 10)), parts=0).to_bytes()
            ).to_bytes(),
        ),
        "",
    ),
    "evidence for a stream too many": (
        lambda d, b: d.item("window", _body(b, evidence=b"\0\0" * 6).to_bytes()),
        "evidence for 6 streams",
    ),
    "evidence that is no number": (
        lambda d, b: d.item(
            "window", _body(b, evidence=np.full(5, np.nan, dtype="<f2").tobytes()).to_bytes()
        ),
        "not a number",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_item_is_refused_with_its_reason_and_its_neighbours_count(
    ingest: Ingest, engine: Engine, bundle: PaperBundle, name: str
) -> None:
    device = PaperDevice("m1")
    ingest.take([birth(device), up(device, [describe(device, bundle)])])
    spoil, words = HOSTILE[name]
    good, bad, after = (
        some_windows(device, bundle, 1)[0],
        spoil(device, bundle),
        some_windows(device, bundle, 1)[0],
    )
    (reply,) = ingest.take([up(device, [good, bad, after])])
    assert acked([reply]) == {("m1", 2), ("m1", 4)}
    assert [seq for seq, _ in reply.ack.refused] == [3]
    assert words in reply.ack.refused[0][1]
    assert totals(engine)["fleet"] == (2, 100)
    assert len(reasons(engine)) == 1
    ingest.take([up(device, [good, bad, after])])
    assert len(reasons(engine)) == 1, "a refusal that comes again is one row in quarantine"
    with reading(engine) as connection:
        assert connection.execute(select(devices.c.quarantined)).scalar_one() == 1


@pytest.mark.parametrize(
    ("topic", "payload", "words"),
    [
        ("driftpost/v1/meters/m1/up", b"", "up"),
        ("driftpost/v1/meters/m1/up", b"\x81" * 5_000, "up"),
        ("driftpost/v1/meters/m1/up", bytes(70_000), "bytes, at most"),
        ("driftpost/v1/other/m1/up", PaperDevice("m1").message([], NOW), "fleet 'other' is not ours"),
        ("driftpost/v1/meters/m2/up", PaperDevice("m1").message([], NOW), "came on the topic of 'm2'"),
        ("driftpost/v1/meters/m\u00fc/up", PaperDevice("m1").message([], NOW), "no valid name"),
        ("elsewhere", b"hello", "no topic of this protocol"),
        ("driftpost/v1/meters/m1/state", b"\xff", "state"),
        ("driftpost/v1/other/m1/state", PaperDevice("m1").presence(), "fleet 'other' is not ours"),
    ],
)
def test_a_message_that_can_not_be_read_is_set_aside_and_not_acknowledged(
    engine: Engine, bundle: PaperBundle, topic: str, payload: bytes, words: str
) -> None:
    ingest = Ingest(engine, fleet=FLEET, bucket_s=BUCKET_S, now_ms=lambda: NOW)
    honest = PaperDevice("m9")
    replies = ingest.take(
        [
            Incoming(topic, payload, NOW),
            up(honest, [describe(honest, bundle), *some_windows(honest, bundle, 1)]),
        ]
    )
    assert {reply.device for reply in replies if reply.ack.ranges} == {"m9"}
    assert words in reasons(engine)[0]
    assert totals(engine)["fleet"] == (1, 50)


def test_random_bytes_never_stop_the_ingest(ingest: Ingest, engine: Engine, bundle: PaperBundle) -> None:
    chance = random.Random(8)
    device = PaperDevice("m1")
    valid = device.message([describe(device, bundle), *some_windows(device, bundle, 1)], NOW)
    for _ in range(60):
        damaged = bytearray(valid)
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        ingest.take([Incoming(device.identity.up, bytes(damaged), NOW)])
        ingest.take([Incoming(device.identity.up, chance.randbytes(chance.randint(0, 400)), NOW)])
    with reading(engine) as connection:
        kept = connection.execute(select(func.count()).select_from(quarantine)).scalar_one()
    assert 0 < kept <= 100, "quarantine is bounded"


def test_a_message_that_breaks_the_transaction_is_found_and_the_others_count(
    ingest: Ingest, engine: Engine, bundle: PaperBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = [PaperDevice(f"m{index}") for index in range(5)]
    ingest.take([up(fleet[0], [describe(fleet[0], bundle)])])
    real = ingest_module.Batch.finish

    def finish(self: ingest_module.Batch, connection: Connection) -> list[Reply]:
        if any(place.device == "m3" for place in self._items):
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        return real(self, connection)

    monkeypatch.setattr(ingest_module.Batch, "finish", finish)
    replies = ingest.take([up(device, some_windows(device, bundle, 2)) for device in fleet])
    refused = {reply.device for reply in replies if reply.ack.refused}
    assert refused == {"m3"}
    assert totals(engine)["fleet"] == (8, 400)
    assert "can not be stored" in reasons(engine)[0]


def test_a_mistake_of_ours_about_one_message_sets_it_aside_and_the_others_count(
    ingest: Ingest,
    engine: Engine,
    bundle: PaperBundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fleet = [PaperDevice(f"m{index}") for index in range(5)]
    ingest.take([up(fleet[0], [describe(fleet[0], bundle)])])
    real = ingest_module.Batch._window

    def window(self: ingest_module.Batch, place: Place, body: WindowBody, sketch: ReadSketch | None) -> None:
        if place.device == "m3":
            raise KeyError("nobody foresaw this")
        real(self, place, body, sketch)

    monkeypatch.setattr(ingest_module.Batch, "_window", window)
    replies = ingest.take([up(device, some_windows(device, bundle, 2)) for device in fleet])
    assert {reply.device for reply in replies if reply.ack.refused} == {"m3"}
    assert totals(engine)["fleet"] == (8, 400)
    assert reasons(engine)[0] == "can not be stored: KeyError"
    assert "nobody foresaw this" in caplog.text


def test_a_message_that_can_not_even_be_set_aside_does_not_keep_the_others_from_counting(
    ingest: Ingest,
    engine: Engine,
    bundle: PaperBundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fleet = [PaperDevice(f"m{index}") for index in range(5)]
    ingest.take([up(fleet[0], [describe(fleet[0], bundle)])])
    real = ingest_module.Batch.add

    def add(self: ingest_module.Batch, incoming: Incoming, refuse: str | None) -> None:
        if incoming.topic == fleet[3].identity.up:
            raise KeyError("nobody foresaw this")
        real(self, incoming, refuse)

    monkeypatch.setattr(ingest_module.Batch, "add", add)
    replies = ingest.take([up(device, some_windows(device, bundle, 2)) for device in fleet])
    assert {reply.device for reply in replies} == {"m0", "m1", "m2", "m4"}
    assert totals(engine)["fleet"] == (8, 400)
    assert "can not even be set aside" in caplog.text


@pytest.mark.parametrize("trouble", [MemoryError(), OSError(28, "No space left on device")])
def test_no_message_is_blamed_for_a_machine_in_trouble(
    ingest: Ingest,
    engine: Engine,
    bundle: PaperBundle,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Exception,
) -> None:
    device = PaperDevice("m1")

    def finish(self: ingest_module.Batch, connection: Connection) -> list[Reply]:
        raise trouble

    monkeypatch.setattr(ingest_module.Batch, "finish", finish)
    with pytest.raises(type(trouble)):
        ingest.take([up(device, [describe(device, bundle), *some_windows(device, bundle, 2)])])
    assert reasons(engine) == []


def test_what_is_refused_for_its_number_leaves_no_trace(
    ingest: Ingest, engine: Engine, bundle: PaperBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen_module, "MAX_GAPS", 1)
    device = PaperDevice("m1")
    ingest.take([birth(device), up(device, [describe(device, bundle)])])
    for refused in ((), (7, 10)):
        device.seq += 2
        (reply,) = ingest.take([up(device, some_windows(device, bundle, 1))])
        assert tuple(seq for seq, _ in reply.ack.refused) == refused[:1]
    assert totals(engine) == {"stored": (1, 50), "devices": (1, 50), "device": (1, 50), "fleet": (1, 50)}


def filled(window: Window, count: int) -> Window:
    """As many rows as a device may claim, all in the first bin of each stream."""
    counts = np.zeros_like(window.counts)
    counts[window.layout[:-1]] = count
    none = np.zeros_like(window.missing)
    # Clipped values at one end, so that nothing about it contradicts itself.
    low = np.full_like(window.low, -1e30)
    numeric = window.sum2 > 0
    sum1 = np.where(numeric, -min(count << 16, SUM2_LIMIT), 0)
    sum2 = np.where(numeric, min(count << 32, SUM2_LIMIT), 0)
    return replace(
        window,
        rows=count,
        counts=counts,
        missing=none,
        nonfinite=none,
        low=low,
        high=low,
        sum1=sum1,
        sum2=sum2,
        parts=1,
    )


def test_a_device_that_fills_a_merged_window_does_not_keep_its_neighbours_from_counting(
    ingest: Ingest, engine: Engine, bundle: PaperBundle
) -> None:
    good, bad = PaperDevice("good", {"camera": "A"}), PaperDevice("bad", {"camera": "A"})
    years = 3 * 365 * 86_400_000
    good.booted_ms = bad.booted_ms = NOW - 2 * years
    sketch = bundle.window(draw(np.random.default_rng(1), 50))
    # Its span makes 2^46 rows believable, and places it where the neighbour's backlog begins.
    claimed = bad.window(filled(sketch, MAX_COUNT), NOW, length_ms=years)
    ingest.take([birth(good), birth(bad), up(good, [describe(good, bundle)]), up(bad, [claimed])])
    backlog = [good.window(sketch, NOW - years + 10_000 + index) for index in range(3)]
    replies = ingest.take([up(good, backlog)])
    assert acked(replies) == {("good", 2), ("good", 3), ("good", 4)}
    assert not reasons(engine)
    with reading(engine) as connection:
        own = select(func.sum(rollups.c.rows)).where(rollups.c.scope_key == "good")
        assert connection.execute(own).scalar_one() == 150


def test_refusals_by_the_thousand_are_looked_up_once_a_batch(
    ingest: Ingest, engine: Engine, bundle: PaperBundle
) -> None:
    device = PaperDevice("m1")
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *words: statements.append(words[2]))
    ingest.take([up(device, [device.item("nonsense", b"") for _ in range(512)]) for _ in range(4)])
    assert (
        sum("FROM quarantine" in one and one.startswith("SELECT quarantine.inc") for one in statements) == 1
    )
    assert len(statements) < 30


def test_an_acknowledgement_full_of_long_reasons_can_be_read_by_a_device(ingest: Ingest) -> None:
    device = PaperDevice("m1")
    payloads = [device.message([device.item("\U0001f600" * 40, b"") for _ in range(256)], NOW) for _ in "ab"]
    replies = ingest.take([Incoming(device.identity.up, payload, NOW) for payload in payloads])
    assert sorted(seq for reply in replies for seq, _ in reply.ack.refused) == list(range(1, 513))
    assert max(len(reply.ack.to_bytes()) for reply in replies) <= MAX_READ_BYTES
    # The worst that can be: every reason and every range at its longest.
    worst = Ack(
        MAX_INCARNATION,
        ((MAX_SEQ, MAX_SEQ),) * MAX_ITEMS,
        ((MAX_SEQ, "\U0001f600" * 200),) * MAX_REFUSED,
        ("describe:" + "\U0001f600" * 80,) * 16,
    )
    assert len(worst.to_bytes()) <= MAX_READ_BYTES


def test_a_batch_that_the_database_refuses_is_not_acknowledged_and_can_be_taken_again(
    ingest: Ingest, engine: Engine, bundle: PaperBundle
) -> None:
    from sqlalchemy.exc import DBAPIError

    device = PaperDevice("m1")
    batch = [birth(device), up(device, [describe(device, bundle), *some_windows(device, bundle, 2)])]
    with engine.connect() as connection:
        connection.execute(text("ALTER TABLE rollups RENAME TO away"))
        connection.commit()
    with pytest.raises(DBAPIError):
        ingest.take(batch)
    assert totals_of_windows(engine) == 0
    with engine.connect() as connection:
        connection.execute(text("ALTER TABLE away RENAME TO rollups"))
        connection.commit()
    assert len(acked(ingest.take(batch))) == 3
    assert totals(engine)["fleet"] == (2, 100)


def totals_of_windows(engine: Engine) -> int:
    with reading(engine) as connection:
        return connection.execute(select(func.count()).select_from(windows)).scalar_one()


def test_an_acknowledgement_never_exceeds_what_a_device_reads(
    ingest: Ingest, engine: Engine, bundle: PaperBundle
) -> None:
    device = PaperDevice("m1")
    body = device.ledger(3, 30).body
    scattered = [Item(seq, "ledger", body) for seq in range(10, 2_410, 2)]
    messages = [up(device, scattered[begin : begin + 400]) for begin in range(0, len(scattered), 400)]
    replies = ingest.take([up(device, [describe(device, bundle)]), *messages])
    assert len(acked(replies)) == 1_201
    assert all(len(reply.ack.ranges) <= 512 and len(reply.ack.to_bytes()) < 16_384 for reply in replies)
    assert sum("birth" in reply.ack.wanted for reply in replies) == 1


HOT = {
    "ix_findings_id": "SELECT at_ms FROM findings WHERE device = 'd' AND id = 'x' AND state = 'cleared'",
    "ix_findings_standing": "SELECT * FROM findings WHERE bundle = 'b' AND state = 'raised' "
    "AND cleared_ms IS NULL",
    "ix_windows_device_start_ms": "SELECT * FROM windows WHERE device = 'd' AND start_ms > 5 "
    "ORDER BY start_ms DESC LIMIT 9",
    "ix_windows_waiting": "SELECT 1 FROM windows WHERE bundle = 'b' AND merged = 0",
    "sqlite_autoindex_rollups_1": "SELECT * FROM rollups WHERE "
    "(scope, scope_key, bundle, bucket_s, bucket_start_ms) IN (VALUES ('device', 'd', 'b', 60, 0))",
    "sqlite_autoindex_seen_1": "SELECT * FROM seen WHERE (device, incarnation) IN (VALUES ('d', 1))",
    "ix_deliveries_state_next_attempt_ms": "SELECT * FROM deliveries WHERE state = 'pending' "
    "AND next_attempt_ms <= 5",
    "ix_incidents_state": "SELECT * FROM incidents WHERE state IN ('open', 'muted')",
}


@pytest.mark.parametrize("index", HOT)
def test_a_hot_query_uses_its_index(engine: Engine, index: str) -> None:
    with writing(engine) as connection:
        plan = connection.execute(text(f"EXPLAIN QUERY PLAN {HOT[index]}"))
        assert index in " ".join(str(row.detail) for row in plan)


def test_windows_merge_the_same_in_every_order_of_arrival(
    engine: Engine, bundle: PaperBundle, ingest: Ingest
) -> None:
    generator = np.random.default_rng(4)
    parts = [bundle.window(draw(generator, 20)) for _ in range(3)]
    packed = set()
    for number, order in enumerate(itertools.permutations(range(3))):
        device = PaperDevice(f"m{number}")
        end = NOW // 60_000 * 60_000 + 20_000
        if number == 0:
            ingest.take([up(device, [describe(device, bundle)])])
        for index in order:
            ingest.take([up(device, [device.window(parts[index], end + index)])])
        with reading(engine) as connection:
            packed.add(
                connection.execute(
                    select(rollups.c.window).where(rollups.c.scope_key == device.name)
                ).scalar_one()
            )
    assert len(packed) == 1
