"""Rollups become coarser with age and lose nothing, whatever comes late and wherever it is interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, event, func, select, text

from driftpost_aggregator import retention as retention_module
from driftpost_aggregator.batch import Incoming
from driftpost_aggregator.horizons import DAY_S, HOUR_S, Horizons, lengths
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.retention import Keep, Retention
from driftpost_aggregator.store import bulk, tables
from driftpost_aggregator.store.database import migrate, open_engine, reading, writing
from driftpost_sketches.window import Window
from paper_fleet import FLEET, PaperBundle, PaperDevice, draw, make_bundle
from postgresql import running_postgresql

BUCKET_S = 600
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
START = 1_790_000_000_000 // DAY_MS * DAY_MS
KEEP = Keep(raw_days=2, hours_days=4, days_days=400)


@pytest.fixture(scope="module")
def bundle() -> PaperBundle:
    return make_bundle(rows=4_000)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running_postgresql() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path / 'r.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("server")
    opened = open_engine(url)
    migrate(opened)
    with writing(opened) as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(table.delete())
    yield opened
    opened.dispose()


def parts_of(engine: Engine, table: str) -> set[str]:
    query = (
        "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid "
        "JOIN pg_class parent ON parent.oid = inhparent WHERE parent.relname = :t"
    )
    with reading(engine) as connection:
        return set(connection.execute(text(query), {"t": table}).scalars())


@pytest.fixture
def unparted(server: str) -> Iterator[Engine]:
    """An empty PostgreSQL in which no part was made yet."""
    opened = open_engine(server)
    migrate(opened)
    with writing(opened) as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(table.delete())
    for table_name in ("windows", "rollups"):
        for part in parts_of(opened, table_name) - {f"{table_name}_default"}:
            with writing(opened) as connection:
                connection.execute(text(f"DROP TABLE {part}"))
    yield opened
    opened.dispose()


class Play:
    """A fleet of which every window is remembered."""

    def __init__(self, engine: Engine, bundle: PaperBundle) -> None:
        self.engine = engine
        self.bundle = bundle
        self.now_ms = START
        self.generator = np.random.default_rng(5)
        self.devices = [
            PaperDevice(f"m{n}", {"camera": "AB"[n % 2]}, booted_ms=START - 30 * DAY_MS) for n in range(4)
        ]
        self.sent: list[tuple[str, int, Window]] = []
        first = self.devices[0]
        self.take(first, [first.item("describe", bundle.describe.to_bytes())])
        for device in self.devices:
            self.ingest.take([Incoming(device.identity.state, device.presence(), self.now_ms)])
        self.retention = Retention(engine, bucket_s=BUCKET_S, keep=KEEP, now_ms=lambda: self.now_ms)

    @property
    def ingest(self) -> Ingest:
        return Ingest(self.engine, fleet=FLEET, bucket_s=BUCKET_S, now_ms=lambda: self.now_ms)

    def take(self, device: PaperDevice, items: list) -> None:  # type: ignore[type-arg]  # items of one message
        message = device.message(items, self.now_ms)
        self.ingest.take([Incoming(device.identity.up, message, self.now_ms)])

    def send(self, number: int, end_ms: int) -> None:
        window = self.bundle.window(draw(self.generator, 20))
        device = self.devices[number]
        self.take(device, [device.window(window, end_ms)])
        self.sent.append((device.name, end_ms - 10_000, window))

    def day(self, day: int, each: int = 5) -> None:
        """One day of every device."""
        for step in range(each):
            end_ms = START + day * DAY_MS + step * (DAY_MS // each) + 20_000
            self.now_ms = end_ms + 2_000_000
            messages = []
            for number, device in enumerate(self.devices):
                at = end_ms + 900_000 * (number % 3)
                window = self.bundle.window(draw(self.generator, 20))
                payload = device.message([device.window(window, at)], self.now_ms)
                messages.append(Incoming(device.identity.up, payload, self.now_ms))
                self.sent.append((device.name, at - 10_000, window))
            self.ingest.take(messages)

    def coarsen(self) -> None:
        for _ in range(10_000):
            if not self.retention.step():
                return
        raise AssertionError("it never ends")

    def rounds(self) -> None:
        while self.retention.round() == 0.0:
            pass

    def stored(self, length: int, scope: str, key: str) -> dict[int, tuple[Window, int]]:
        columns = tables.rollups.c
        with reading(self.engine) as connection:
            rows = connection.execute(
                select(columns.bucket_start_ms, columns.window, columns.devices).where(
                    columns.scope == scope, columns.scope_key == key, columns.bucket_s == length
                )
            )
            return {row[0]: (Window.from_bytes(bytes(row[1])), row[2]) for row in rows}

    def expected(self, length: int, names: set[str]) -> dict[int, tuple[Window, int]]:
        windows: dict[int, Window] = {}
        devices: dict[int, set[str]] = {}
        for name, start_ms, window in self.sent:
            if name in names:
                start = start_ms // (length * 1000) * (length * 1000)
                windows[start] = windows[start].merge(window) if start in windows else window
                devices.setdefault(start, set()).add(name)
        return {start: (windows[start], len(devices[start])) for start in windows}

    def check(self, length: int, since_ms: int, until_ms: int) -> None:
        """Every bucket of a length in some time holds exactly what was sent."""
        scopes = [("fleet", "", {one.name for one in self.devices})]
        scopes += [("device", one.name, {one.name}) for one in self.devices]
        scopes += [
            ("cohort", f"camera={camera}", {d.name for d in self.devices if d.attributes["camera"] == camera})
            for camera in "AB"
        ]
        for scope, key, names in scopes:
            wanted = {
                at: one for at, one in self.expected(length, names).items() if since_ms <= at < until_ms
            }
            stored = self.stored(length, scope, key)
            found = {at: one for at, one in stored.items() if since_ms <= at < until_ms}
            assert found == wanted, (scope, key)


def test_hours_and_days_hold_what_was_sent_and_minutes_are_forgotten(
    engine: Engine, bundle: PaperBundle
) -> None:
    play = Play(engine, bundle)
    for day in range(7):
        play.day(day)
        play.coarsen()
    today = START + 7 * DAY_MS
    play.now_ms = today + HOUR_MS
    play.coarsen()
    play.check(HOUR_S, START + 3 * DAY_MS, today)
    play.check(DAY_S, START, today)
    play.check(BUCKET_S, START + 5 * DAY_MS, today)
    for length, kept_ms in ((BUCKET_S, today - 2 * DAY_MS), (HOUR_S, today - 4 * DAY_MS)):
        starts = play.stored(length, "fleet", "")
        # PostgreSQL drops its parts of hours whole, once all of a part is too old.
        if engine.dialect.name == "sqlite":
            assert min(starts) >= kept_ms
    with reading(engine) as connection:
        oldest = connection.execute(select(func.min(tables.windows.c.received_ms))).scalar_one()
        assert connection.execute(select(func.count()).select_from(tables.coarse_work)).scalar_one() == 0
    assert oldest >= play.now_ms - 2 * DAY_MS


def test_what_comes_late_is_merged_wherever_its_time_is_kept(engine: Engine, bundle: PaperBundle) -> None:
    play = Play(engine, bundle)
    for day in range(7):
        play.day(day)
        play.coarsen()
    today = START + 7 * DAY_MS
    play.now_ms = today + 2 * HOUR_MS
    play.coarsen()
    with reading(engine) as connection:
        horizons = Horizons.read(connection, BUCKET_S)
    late = [START + 6 * DAY_MS + 5 * HOUR_MS, START + 4 * DAY_MS, START + 20_000, START - 5 * DAY_MS]
    assert [horizons.length_for(at) for at in late] == [BUCKET_S, HOUR_S, DAY_S, DAY_S]
    for number in (1, 2, 1):
        for at in late:
            play.send(number, at + 10_000)
    play.coarsen()
    play.check(HOUR_S, START + 3 * DAY_MS, today)
    play.check(DAY_S, START - 10 * DAY_MS, today)


def test_an_interruption_anywhere_loses_and_doubles_nothing(
    engine: Engine, bundle: PaperBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = Play(engine, bundle)
    for day in range(4):
        play.day(day)
    play.now_ms = START + 4 * DAY_MS + HOUR_MS
    generator = np.random.default_rng(3)
    monkeypatch.setattr(retention_module, "KEYS_PER_STEP", 9)

    class Killed(BaseException):
        pass

    def fragile(real):  # type: ignore[no-untyped-def]  # wraps functions of any signature
        def call(*arguments: object, **options: object) -> object:
            if generator.random() < 0.04:
                raise Killed
            return real(*arguments, **options)

        return call

    for module, name in (
        (bulk, "replace"),
        (bulk, "delete"),
        (bulk, "fetch"),
        (retention_module, "_put"),
        (retention_module, "_queue_all"),
    ):
        monkeypatch.setattr(module, name, fragile(getattr(module, name)))
    kills = 0
    for _ in range(20_000):
        try:
            if not play.retention.step():
                break
        except Killed:
            kills += 1
    assert kills > 5
    monkeypatch.undo()
    play.check(HOUR_S, START, START + 4 * DAY_MS)
    play.check(DAY_S, START, START + 4 * DAY_MS)


def test_windows_that_wait_for_their_bundle_are_not_forgotten(engine: Engine, bundle: PaperBundle) -> None:
    play = Play(engine, bundle)
    stranger = PaperDevice("stranger", bundle="f" * 64, booted_ms=START - DAY_MS)
    play.take(stranger, [stranger.window(bundle.window(draw(play.generator, 20)), START)])
    play.send(0, START)
    play.now_ms = START + 30 * DAY_MS
    play.coarsen()
    with reading(engine) as connection:
        assert connection.execute(select(tables.windows.c.device)).scalars().all() == ["stranger"]


def test_partitions_are_made_ahead_and_dropped_whole(unparted: Engine, bundle: PaperBundle) -> None:
    play = Play(unparted, bundle)
    play.retention.round()
    tomorrow = f"{START + DAY_MS}_{START + 2 * DAY_MS}"
    assert f"windows_{tomorrow}" in parts_of(unparted, "windows")
    assert f"rollups_{BUCKET_S}_{tomorrow}" in parts_of(unparted, "rollups")
    for day in range(1, 6):
        play.day(day)
        play.rounds()
    assert f"windows_{tomorrow}" not in parts_of(unparted, "windows")
    assert f"rollups_{BUCKET_S}_{tomorrow}" not in parts_of(unparted, "rollups")
    with reading(unparted) as connection:
        in_default = connection.execute(text("SELECT count(*) FROM windows_default")).scalar_one()
    assert in_default == 0
    play.check(DAY_S, START + DAY_MS, START + 5 * DAY_MS)


def test_what_came_while_our_clock_was_ahead_moves_into_its_part(
    unparted: Engine, bundle: PaperBundle
) -> None:
    play = Play(unparted, bundle)
    ahead_ms = START + 6 * DAY_MS
    play.now_ms = ahead_ms + HOUR_MS
    for number in range(3):
        play.send(number, play.now_ms)
    for day in range(5):
        play.now_ms = START + day * DAY_MS
        play.rounds()
    part = f"{ahead_ms}_{ahead_ms + DAY_MS}"
    with reading(unparted) as connection:
        for table, rows in ((f"windows_{part}", 3), (f"rollups_{BUCKET_S}_{part}", 6)):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == rows
    play.send(0, play.now_ms)
    play.now_ms = ahead_ms + DAY_MS + HOUR_MS
    play.coarsen()
    play.check(BUCKET_S, ahead_ms, ahead_ms + DAY_MS)
    play.check(DAY_S, START, ahead_ms + DAY_MS)


def test_one_window_that_waits_does_not_keep_the_others_of_its_day(
    unparted: Engine, bundle: PaperBundle
) -> None:
    play = Play(unparted, bundle)
    play.retention.round()
    play.now_ms = START + DAY_MS + HOUR_MS
    stranger = PaperDevice("stranger", bundle="f" * 64, booted_ms=START - DAY_MS)
    play.take(stranger, [stranger.window(bundle.window(draw(play.generator, 20)), START + DAY_MS)])
    for day in range(1, 6):
        play.day(day)
        play.rounds()
    old = tables.windows.c.received_ms < START + 3 * DAY_MS
    with reading(unparted) as connection:
        assert connection.execute(select(tables.windows.c.device).where(old)).scalars().all() == ["stranger"]


def test_rollups_that_are_kept_longer_are_not_looked_at_to_forget_shorter_ones(
    tmp_path: Path, bundle: PaperBundle
) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'r.db'}")
    migrate(engine)
    play = Play(engine, bundle)
    play.day(0)
    play.now_ms = START + 6 * DAY_MS
    sent: list[tuple[str, object]] = []

    def note(_c: object, _k: object, statement: str, parameters: object, _x: object, _many: bool) -> None:
        if statement.startswith("DELETE FROM rollups"):
            sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    play.coarsen()
    assert len(sent) > 3
    with reading(engine) as connection:
        for statement, parameters in sent:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            assert any("(bucket_s=? AND bucket_start_ms<?)" in row[-1] for row in plan), plan
    engine.dispose()


def test_rollups_of_a_length_that_the_settings_had_before_are_forgotten_too(
    engine: Engine, bundle: PaperBundle
) -> None:
    play = Play(engine, bundle)
    play.day(0)
    play.retention = Retention(engine, bucket_s=1_200, keep=KEEP, now_ms=lambda: play.now_ms)
    play.now_ms = START + 2 * DAY_MS + HOUR_MS
    play.coarsen()
    assert play.stored(BUCKET_S, "fleet", "") != {}
    play.now_ms += DAY_MS
    play.coarsen()
    with reading(engine) as connection:
        assert connection.execute(select(tables.rollups.c.bucket_s)).first() is None


def test_only_lengths_that_divide_an_hour_become_hours() -> None:
    assert lengths(300) == (300, HOUR_S, DAY_S)
    assert lengths(HOUR_S) == (HOUR_S, DAY_S)
    assert lengths(700) == (700,)
    assert lengths(DAY_S) == (DAY_S,)
