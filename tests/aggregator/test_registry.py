from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import Engine, func, select

from driftpost_aggregator.batch import Incoming
from driftpost_aggregator.catch_up import catch_up
from driftpost_aggregator.errors import BundleRejected
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.registry import OWNER, Registry, check, from_plain, register
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.store.tables import bundles, rollups, windows
from driftpost_sync.messages import DescribeBody
from paper_fleet import BUNDLE, FLEET, NOW, PaperBundle, PaperDevice, draw, make_bundle


@pytest.fixture(scope="module")
def bundle() -> PaperBundle:
    return make_bundle()


@pytest.fixture(scope="module")
def other() -> PaperBundle:
    return make_bundle(seed=99, rows=800)


def add(engine: Engine, body: DescribeBody, source: str) -> bool:
    with writing(engine) as connection:
        return register(connection, body, source=source, now_ms=NOW)


def source_of(engine: Engine) -> str:
    with reading(engine) as connection:
        return connection.execute(select(bundles.c.source)).scalar_one()


def test_a_description_reads_back_as_it_was(engine: Engine, bundle: PaperBundle) -> None:
    assert add(engine, bundle.describe, "m1")
    with reading(engine) as connection:
        known = Registry().find(connection, BUNDLE)
    assert known is not None
    assert known.schema == bundle.schema
    assert known.baseline == bundle.baseline
    assert known.inputs == {"brightness", "sharpness", "contrast"}
    assert (known.window_s, known.tau["contrast"], known.name) == (10.0, 1.0, "meter reader")


def test_saying_the_same_again_changes_nothing(engine: Engine, bundle: PaperBundle) -> None:
    assert add(engine, bundle.describe, "m1")
    assert not add(engine, bundle.describe, "m2")
    assert source_of(engine) == "m1"


def test_the_owner_s_file_replaces_what_a_device_said_and_then_stands(
    engine: Engine, bundle: PaperBundle, other: PaperBundle
) -> None:
    add(engine, other.describe, "liar")
    assert add(engine, bundle.describe, OWNER)
    assert source_of(engine) == OWNER
    assert not add(engine, bundle.describe, OWNER)
    for source in ("liar", OWNER):
        with pytest.raises(BundleRejected):
            add(engine, other.describe, source)
    with reading(engine) as connection:
        assert connection.execute(select(bundles.c.schema_id)).scalar_one() == bundle.schema.id


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": {}}, "schema"),
        ({"baseline": b"nothing"}, "not a readable sketch"),
        ({"window_s": 1e-9}, "windows of 1e-09 s"),
        ({"window_s": 86_401.0}, "86400 s"),
        ({"budget": "seldom"}, "budget"),
        ({"tau": {}}, "tau of stream 'brightness' is missing"),
        ({"n_ref": {}}, "n_ref of stream"),
        ({"smallest_effect": {"brightness": -1.0}}, "must not be negative"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(
    bundle: PaperBundle, changes: dict[str, object], words: str
) -> None:
    body = replace(bundle.describe, **changes)  # type: ignore[arg-type]  # each row gives fields of their types
    with pytest.raises(BundleRejected, match=words):
        check(body)


def test_a_correlation_length_of_zero_is_refused(bundle: PaperBundle) -> None:
    body = replace(bundle.describe, tau={**bundle.describe.tau, "contrast": 0.0})
    with pytest.raises(BundleRejected, match="tau must be positive"):
        check(body)


def test_another_bundle_s_baseline_is_refused(bundle: PaperBundle, other: PaperBundle) -> None:
    with pytest.raises(BundleRejected):
        check(replace(bundle.describe, baseline=other.describe.baseline))


def test_a_plain_description_that_is_malformed_names_its_bundle() -> None:
    with pytest.raises(BundleRejected, match="bundle abcdef: "):
        from_plain({"bundle": "abcdef"})


def test_only_waiting_windows_that_fit_are_merged_when_the_description_comes(
    engine: Engine, bundle: PaperBundle, other: PaperBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("driftpost_aggregator.catch_up.CATCH_UP", 3)
    ingest = Ingest(engine, fleet=FLEET, bucket_s=60, now_ms=lambda: NOW)
    honest, liar = PaperDevice("m1"), PaperDevice("m0")
    generator = np.random.default_rng(1)
    for device, source, count in ((liar, other, 2), (honest, bundle, 5)):
        items = [device.window(source.window(draw(generator, 20)), NOW - 1_000 * n) for n in range(count)]
        ingest.take([Incoming(device.identity.up, device.message(items, NOW), NOW)])
    add(engine, bundle.describe, OWNER)
    with writing(engine) as connection:
        assert catch_up(connection, Registry(), BUNDLE, bucket_s=60, now_ms=NOW) == 5
        assert catch_up(connection, Registry(), BUNDLE, bucket_s=60, now_ms=NOW) == 0
    with reading(engine) as connection:
        waiting = connection.execute(
            select(windows.c.device, func.count()).where(~windows.c.merged).group_by(windows.c.device)
        ).all()
        rows = connection.execute(select(func.sum(rollups.c.rows)).where(rollups.c.scope == "fleet")).scalar()
    assert [tuple(row) for row in waiting] == [("m0", 2)]
    assert rows == 100
