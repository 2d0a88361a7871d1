"""Error rates of cohorts and the fleet, by delayed labels of devices that have too few each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import Engine

from driftpost_aggregator.batch import Incoming
from driftpost_aggregator.causes import Cause, Kind, Surroundings
from driftpost_aggregator.concept_watch import Labelled, concept_causes, labelled_bundles, trimmed
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.registry import Registry
from driftpost_aggregator.store.database import reading
from driftpost_aggregator.wording import sentence
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.labels.label_sketch import LabelSketch
from driftpost_sketches.labels.record import PerformanceRecord
from driftpost_sync.messages import LabelsBody
from paper_fleet import BUNDLE, FLEET, NOW, PaperBundle, PaperDevice, draw, make_bundle

CLASSES = 4
BUDGET = Budget.parse("1 per fleet-month")
USUAL = 0.1


@pytest.fixture(scope="module")
def bundle() -> PaperBundle:
    """A bundle whose labelled reference is wrong one time in ten."""
    made = make_bundle(rows=4000)
    rng = np.random.default_rng(2)
    values = draw(np.random.default_rng(1), 4000)
    truth = values[:, -1].astype(np.int64)
    truth = np.where(rng.random(4000) < USUAL, (truth + 1) % CLASSES, truth)
    record = PerformanceRecord.fit(
        made.schema, values, truth, answers="class", confidence="confidence", classes=CLASSES
    )
    assert record is not None
    return replace(made, describe=replace(made.describe, performance=record.to_bytes()))


def attributes(count: int) -> dict[str, dict[str, str]]:
    return {
        f"m{number}": {"camera": "AB"[number % 2], "site": ("north", "south", "west")[number // 2 % 3]}
        for number in range(count)
    }


def told(
    engine: Engine, bundle: PaperBundle, errors: Mapping[str, float], rows: int | Mapping[str, int] = 600
) -> list[Cause]:
    """Causes after every device has sent its labels; `errors` by device, the reference's where left out."""
    fleet = attributes(24)
    rng = np.random.default_rng(5)
    ingest = Ingest(engine, fleet=FLEET, bucket_s=60, now_ms=lambda: NOW)
    for name, own in fleet.items():
        device = PaperDevice(name, own)
        count = rows if isinstance(rows, int) else rows.get(name, 600)
        said = rng.integers(0, CLASSES, count)
        wrong = rng.random(count) < errors.get(name, USUAL)
        sketch = LabelSketch.of_classes(CLASSES, said, np.where(wrong, (said + 1) % CLASSES, said))
        mono = NOW - device.booted_ms
        body = LabelsBody(BUNDLE, mono - 60_000, mono, NOW - 60_000, NOW, sketch.to_bytes(), 0)
        items = [device.item("describe", bundle.describe.to_bytes()), device.item("labels", body.to_bytes())]
        ingest.take([Incoming(device.identity.state, device.presence(), NOW)])
        ingest.take([Incoming(device.identity.up, device.message(items, NOW), NOW)])
    with reading(engine) as connection:
        known = Registry().find(connection, BUNDLE)
        assert known is not None
        assert labelled_bundles(connection, NOW) == {BUNDLE}
        around = Surroundings(sorted(fleet), fleet)
        return concept_causes(connection, known, around, budget=BUDGET, now_ms=NOW)


def test_labels_like_the_reference_s_tell_of_nothing(engine: Engine, bundle: PaperBundle) -> None:
    assert told(engine, bundle, {}) == []


def test_a_cohort_whose_answers_became_worse_is_named(engine: Engine, bundle: PaperBundle) -> None:
    errors = {f"m{number}": 0.35 for number in range(0, 24, 2)}
    (cause,) = told(engine, bundle, errors)
    assert (cause.kind, cause.scope, cause.scope_key) == (Kind.CONCEPT_SHIFT, "cohort", "camera=A")
    assert len(cause.affected) == 12
    assert cause.streams[0].effect_natural == pytest.approx(0.25, abs=0.06)
    assert "error rate" in sentence(cause, NOW)


def test_worse_answers_everywhere_are_the_fleet_s(engine: Engine, bundle: PaperBundle) -> None:
    (cause,) = told(engine, bundle, {f"m{number}": 0.3 for number in range(24)})
    assert (cause.scope, cause.scope_key, cause.attributes) == ("fleet", "", ())


def test_better_answers_are_news_too(engine: Engine, bundle: PaperBundle) -> None:
    (cause,) = told(engine, bundle, {f"m{number}": 0.0 for number in range(24)}, rows=1500)
    assert cause.streams[0].direction == "down"


def test_a_few_devices_that_lie_about_their_labels_raise_nothing(engine: Engine, bundle: PaperBundle) -> None:
    liars = {"m0": 1.0, "m3": 1.0}  # of no cohort more than one
    assert told(engine, bundle, liars, rows=dict.fromkeys(liars, 50_000)) == []


def test_a_tenth_is_left_out_and_nobody_counts_more_than_twice_the_usual() -> None:
    parts = [Labelled(100.0, 10.0, 1.0)] * 18 + [
        Labelled(10_000.0, 10_000.0, 1.0),
        Labelled(9_000.0, 0.0, 1.0),
    ]
    left = trimmed(parts, worse=True)
    assert left is not None
    assert left.rows == 17 * 100 + 200
    assert left.loss / left.rows < 0.1
    assert trimmed(parts[:2], worse=True) is None


def test_a_bundle_without_a_labelled_reference_has_nothing_to_compare(
    engine: Engine, bundle: PaperBundle
) -> None:
    ingest = Ingest(engine, fleet=FLEET, bucket_s=60, now_ms=lambda: NOW)
    device = PaperDevice("m0")
    plain = make_bundle()
    ingest.take([Incoming(device.identity.state, device.presence(), NOW)])
    items = [device.item("describe", plain.describe.to_bytes())]
    ingest.take([Incoming(device.identity.up, device.message(items, NOW), NOW)])
    with reading(engine) as connection:
        known = Registry().find(connection, BUNDLE)
        assert known is not None
        around = Surroundings(["m0"], {"m0": {}})
        assert concept_causes(connection, known, around, budget=BUDGET, now_ms=NOW) == []
