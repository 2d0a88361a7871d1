"""Whether a known bundle fits what drifted devices see, with the same schema and with edges of its own."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import Engine, select, update

from aggregator.test_retrain import ask, open_incident
from driftpost_aggregator.batch import Incoming
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.rebinning import rebinned
from driftpost_aggregator.registry import KnownBundle, check
from driftpost_aggregator.reuse import compare
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading, writing
from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.drift.effect import effect_of
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.schema import Role, Schema
from driftpost_sketches.window import Window
from driftpost_sync.messages import DescribeBody
from paper_fleet import BUNDLE, FLEET, NOW, STREAMS, PaperBundle, PaperDevice, draw, make_bundle

DARK = {"brightness": -4.0}


def trained_on(name: str, shift: dict[str, float], seed: int, version: str = "2.0") -> PaperBundle:
    """A bundle whose own reference, and so whose own edges, are of a shifted world."""
    values = draw(np.random.default_rng(seed), 20_000, shift=shift)
    streams = [
        *(
            fit_numeric(stream, values[:, at], Role.INPUT, "" if at == 1 else "level")
            for at, stream in enumerate(STREAMS)
        ),
        fit_numeric("confidence", values[:, 3], Role.OUTPUT),
        fit_categorical("class", values[:, 4], Role.OUTPUT, labels=("0", "1", "2", "3")),
    ]  # fmt: skip
    schema = Schema(streams)
    accumulator = WindowAccumulator(schema)
    accumulator.update(values)
    baseline = accumulator.take()[0]
    plain = make_bundle(name).describe
    describe = replace(
        plain, schema=schema.to_dict(), baseline=baseline.to_bytes(), version=version, model_sha256="d" * 64
    )
    return PaperBundle(schema, baseline, describe)


@pytest.fixture(scope="module")
def own() -> PaperBundle:
    return make_bundle()


@pytest.fixture(scope="module")
def night() -> PaperBundle:
    return trained_on("a" * 64, DARK, 11)


def known(bundle: PaperBundle) -> KnownBundle:
    return check(bundle.describe)


def seen(bundle: PaperBundle, rows: int = 4_000, seed: int = 5) -> Window:
    return bundle.window(draw(np.random.default_rng(seed), rows, shift=DARK))


def test_a_bundle_made_for_the_dark_fits_devices_in_the_dark_and_another_does_not(
    own: PaperBundle, night: PaperBundle
) -> None:
    bright = trained_on("c" * 64, {"brightness": 2.0}, 12)
    fits = compare(known(own), seen(own), [known(bright), known(night)])
    assert [(fit.bundle[0], fit.fits) for fit in fits] == [("a", True), ("c", False)]
    assert abs(fits[0].shift) < 0.1
    assert fits[1].stream == "brightness"
    assert fits[1].shift < -3


def test_a_bundle_that_fits_one_input_and_not_another_does_not_fit(own: PaperBundle) -> None:
    half = trained_on("a" * 64, DARK | {"contrast": 1.0}, 13)
    (fit,) = compare(known(own), seen(own), [known(half)])
    assert not fit.fits
    assert fit.stream == "contrast"


def test_bundles_of_other_inputs_or_classes_are_not_compared(own: PaperBundle, night: PaperBundle) -> None:
    other_classes = replace(known(night), classes=("a", "b"))
    fewer = own.schema
    narrow = Schema(fewer.streams[1:])
    window, shared = rebinned(seen(own), narrow, fewer)
    assert "brightness" not in shared
    assert window.finite()[fewer.index("brightness")] == 0
    assert compare(known(own), seen(own), [other_classes]) == []


def test_a_reference_in_other_bins_keeps_its_rows_its_moments_and_its_shape(
    own: PaperBundle, night: PaperBundle
) -> None:
    moved, shared = rebinned(night.baseline, night.schema, own.schema)
    moved.check(own.schema)
    assert shared == {stream.name for stream in own.schema.streams}
    assert moved.finite().tolist() == night.baseline.finite().tolist()
    for name in STREAMS:
        effect = effect_of(own.schema, moved, seen(own, 20_000), own.schema.index(name))
        assert abs(effect.sd_shift) < 0.05
        assert effect.std_ratio == pytest.approx(1.0, abs=0.05)
        assert effect.psi < 0.01


def test_rebinning_to_its_own_edges_changes_nothing(own: PaperBundle) -> None:
    window = seen(own)
    moved, _ = rebinned(window, own.schema, own.schema)
    assert moved.counts.tolist() == window.counts.tolist()
    assert moved.sum1.tolist() == window.sum1.tolist()


def drifting_fleet(engine: Engine, own: PaperBundle, others: list[DescribeBody], rows: int = 1_000) -> None:
    """Four devices in the dark, their windows in the database, and an incident about them."""
    ingest = Ingest(engine, fleet=FLEET, bucket_s=60, quarantine_rows=100, now_ms=lambda: NOW)
    for number in range(4):
        device = PaperDevice(f"m{number}", {"camera": "B"})
        ingest.take([Incoming(device.identity.state, device.presence(), NOW)])
        bodies = [own.describe, *others] if number == 0 else []
        items = [device.item("describe", body.to_bytes()) for body in bodies]
        window = own.window(draw(np.random.default_rng(number), rows, shift=DARK))
        items.append(device.window(window, NOW - 10_000))
        ingest.take([Incoming(device.identity.up, device.message(items, NOW), NOW)])
    open_incident(engine, bundle=BUNDLE, onset_ms=NOW - 600_000)


def test_a_request_proposes_the_known_bundle_instead_of_retraining(
    engine: Engine, own: PaperBundle, night: PaperBundle
) -> None:
    drifting_fleet(engine, own, [night.describe])
    (request,) = ask(engine)
    with reading(engine) as connection:
        row = connection.execute(select(tables.retrain_requests)).one()
        event = connection.execute(
            select(tables.incident_events.c.text).where(tables.incident_events.c.event == "retrain")
        ).scalar_one()
    data = json.loads(row.body)["data"]
    assert data["action"] == "reuse"
    assert data["reuse"]["bundle"] == "a" * 64
    assert data["reuse"]["model_sha256"] == "d" * 64
    assert data["known_bundles"][0] == data["reuse"] == row.reuse
    assert request in event
    assert "instead of retraining" in event


def test_too_little_data_proposes_nothing(engine: Engine, own: PaperBundle, night: PaperBundle) -> None:
    drifting_fleet(engine, own, [night.describe], rows=1)
    ask(engine)
    with reading(engine) as connection:
        data = json.loads(connection.execute(select(tables.retrain_requests.c.body)).scalar_one())["data"]
    assert data["action"] == "retrain"
    assert data["known_bundles"] == []


def test_a_damaged_row_does_not_keep_an_incident_from_asking(
    engine: Engine, own: PaperBundle, night: PaperBundle
) -> None:
    drifting_fleet(engine, own, [night.describe])
    with writing(engine) as connection:
        damaged = update(tables.rollups).where(tables.rollups.c.scope_key == "m0")
        assert connection.execute(damaged.values(window=b"damaged")).rowcount
    ask(engine)
    with reading(engine) as connection:
        assert connection.execute(select(tables.retrain_requests.c.reuse)).scalar_one()["bundle"] == "a" * 64


def test_devices_that_have_cleared_are_not_asked(
    engine: Engine, own: PaperBundle, night: PaperBundle
) -> None:
    drifting_fleet(engine, own, [night.describe])
    with writing(engine) as connection:
        connection.execute(update(tables.incident_devices).values(cleared_ms=NOW))
    ask(engine)
    with reading(engine) as connection:
        assert connection.execute(select(tables.retrain_requests.c.reuse)).scalar_one() is None
