"""Delayed labels at the aggregator: counted once, merged by scope, shown, and in retrain requests."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import Engine, func, select
from starlette.testclient import TestClient

from driftpost_aggregator.batch import Incoming, Reply
from driftpost_aggregator.causes import Finding, Kind, Surroundings, find_causes
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.label_rollups import labels_since
from driftpost_aggregator.performance import performance_of, worst_slices
from driftpost_aggregator.registry import Registry
from driftpost_aggregator.retrain_event import Ranking, build_event
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.store.tables import incidents, label_rollups, quarantine
from driftpost_aggregator.web.app import build
from driftpost_aggregator.web.options import WebOptions
from driftpost_aggregator.wording import sentence
from driftpost_sketches.labels.label_sketch import LabelSketch
from driftpost_sketches.labels.record import PerformanceRecord
from driftpost_sketches.labels.reliability import BINS, Reliability
from driftpost_sync.messages import Item, LabelsBody
from paper_fleet import BUNDLE, FLEET, NOW, PaperBundle, PaperDevice, draw, make_bundle

BUCKET_S = 60
CLASSES = 4


@pytest.fixture(scope="module")
def bundle() -> PaperBundle:
    """The paper bundle with a labelled reference of which a tenth is wrong."""
    made = make_bundle(rows=4000)
    rng = np.random.default_rng(2)
    values = draw(np.random.default_rng(1), 4000)
    truth = values[:, -1].astype(np.int64)
    truth = np.where(rng.random(4000) < 0.1, (truth + 1) % CLASSES, truth)
    record = PerformanceRecord.fit(
        made.schema, values, truth, answers="class", confidence="confidence", classes=CLASSES
    )
    return replace(made, describe=replace(made.describe, performance=record.to_bytes()))


@pytest.fixture
def ingest(engine: Engine) -> Ingest:
    return Ingest(engine, fleet=FLEET, bucket_s=BUCKET_S, quarantine_rows=100, now_ms=lambda: NOW)


def labels(rng: np.random.Generator, n: int, wrong: float, classes: int = CLASSES) -> LabelSketch:
    said = rng.integers(0, classes, n)
    truth = np.where(rng.random(n) < wrong, (said + 1) % classes, said)
    return LabelSketch.of_classes(classes, said, truth, rng.uniform(0.8, 1.0, n))


def invented(rows: int) -> LabelSketch:
    """As many right answers as one likes."""
    confusion = np.zeros((CLASSES, CLASSES), dtype=np.int64)
    confusion[0, 0] = rows
    moves = np.array([[rows - 1, 0], [0, 0]])
    return LabelSketch(CLASSES, rows, 1, 0, 0, moves, Reliability.empty(), confusion)


def wrapping() -> LabelSketch:
    """Four bins of 2**62 rows: their sum and their products with the bins' borders wrap around to 0."""
    rows = np.zeros(BINS, dtype=np.int64)
    rows[[4, 5, 9, 10]] = 1 << 62
    return replace(invented(1), reliability=replace(Reliability.empty(), rows=rows))


def message(device: PaperDevice, sketch: LabelSketch, unknown: int = 0, bundle: str = BUNDLE) -> Item:
    mono = NOW - device.booted_ms
    body = LabelsBody(bundle, mono - 1000, mono, NOW - 1000, NOW, sketch.to_bytes(), unknown)
    return device.item("labels", body.to_bytes())


def send(ingest: Ingest, device: PaperDevice, items: list[Item]) -> list[Reply]:
    return list(ingest.take([Incoming(device.identity.up, device.message(items, NOW), NOW)]))


def born(ingest: Ingest, device: PaperDevice, bundle: PaperBundle) -> None:
    ingest.take([Incoming(device.identity.state, device.presence(), NOW)])
    send(ingest, device, [device.item("describe", bundle.describe.to_bytes())])


def test_labels_count_once_and_add_up_by_device_cohort_and_fleet(
    engine: Engine, ingest: Ingest, bundle: PaperBundle
) -> None:
    rng = np.random.default_rng(3)
    fleet = [PaperDevice("a", {"site": "north"}), PaperDevice("b", {"site": "north"}), PaperDevice("c")]
    total = LabelSketch.empty(CLASSES)
    for device in fleet:
        born(ingest, device, bundle)
        sketches = [labels(rng, 100, 0.2) for _ in range(3)]
        items = [message(device, sketch, unknown=1) for sketch in sketches]
        for _ in range(2):  # the second time it is a repetition
            send(ingest, device, items)
        for sketch in sketches:
            total = total.merge(sketch)
    with reading(engine) as connection:
        assert labels_since(connection, "fleet", "", BUNDLE, NOW) == total
        assert labels_since(connection, "cohort", "site=north", BUNDLE, NOW).rows == 600
        assert labels_since(connection, "device", "c", BUNDLE, NOW).rows == 300
        assert labels_since(connection, "device", "c", BUNDLE, NOW + 86_400_000) is None
        unknown = connection.execute(
            select(func.sum(label_rollups.c.unknown)).where(label_rollups.c.scope == "fleet")
        ).scalar()
        assert unknown == 9


@pytest.mark.parametrize("wrong", ["classes", "bytes", "too many", "wrapping"])
def test_labels_that_fit_no_bundle_go_to_quarantine(
    engine: Engine, ingest: Ingest, bundle: PaperBundle, wrong: str
) -> None:
    device = PaperDevice("a")
    born(ingest, device, bundle)
    rng = np.random.default_rng(4)
    if wrong == "classes":
        item = message(device, labels(rng, 10, 0.1, classes=7))
    elif wrong == "too many":
        item = message(device, invented(1 << 38))
    elif wrong == "wrapping":
        item = message(device, wrapping())
    else:
        body = LabelsBody(BUNDLE, 1, 2, None, None, b"no sketch")
        item = device.item("labels", body.to_bytes())
    send(ingest, device, [item])
    with reading(engine) as connection:
        assert connection.execute(select(func.count()).select_from(label_rollups)).scalar() == 0
        assert connection.execute(select(quarantine.c.kind)).scalars().all() == ["labels"]


def test_labels_that_came_before_their_bundle_was_described_count_once_it_is(
    engine: Engine, ingest: Ingest, bundle: PaperBundle
) -> None:
    rng = np.random.default_rng(5)
    early, late = labels(rng, 60, 0.2), labels(rng, 40, 0.2)
    device, other = PaperDevice("a", {"site": "north"}), PaperDevice("b")
    ingest.take([Incoming(device.identity.state, device.presence(), NOW)])
    items = [message(device, early, unknown=2)]
    (reply,) = send(ingest, device, items)
    assert f"describe:{BUNDLE}" in reply.ack.wanted
    assert not reply.ack.refused
    send(ingest, device, items)
    # Of another number of classes: nobody can know before the description comes.
    send(ingest, other, [message(other, labels(rng, 10, 0.1, classes=7))])
    for _ in range(2):
        send(ingest, device, [device.item("describe", bundle.describe.to_bytes()), message(device, late)])
        late = labels(rng, 5, 0.2)
    with reading(engine) as connection:
        for scope, key in (("fleet", ""), ("cohort", "site=north"), ("device", "a")):
            found = labels_since(connection, scope, key, BUNDLE, NOW)
            assert found is not None
            assert found.rows == 105
        assert labels_since(connection, "device", "b", BUNDLE, NOW) is None
        unknown = select(label_rollups.c.unknown).where(label_rollups.c.scope == "fleet")
        assert connection.execute(unknown).scalars().all() == [2]


def test_a_device_that_invents_labels_does_not_keep_others_from_being_counted(
    engine: Engine, ingest: Ingest, bundle: PaperBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("driftpost_aggregator.label_rollups.MAX_ROWS_PER_S", 1 << 40)
    liar, honest = PaperDevice("liar"), PaperDevice("honest")
    for device in (liar, honest):
        born(ingest, device, bundle)
    send(ingest, liar, [message(liar, invented(1 << 38))])
    (reply,) = send(ingest, honest, [message(honest, labels(np.random.default_rng(6), 100, 0.1))])
    assert not reply.ack.refused
    with reading(engine) as connection:
        assert labels_since(connection, "device", "honest", BUNDLE, NOW).rows == 100


def test_performance_by_labels_contradicts_an_estimate_that_knows_no_better(bundle: PaperBundle) -> None:
    record = PerformanceRecord.from_bytes(bundle.describe.performance)
    window = bundle.window(draw(np.random.default_rng(5), 500))
    calm = performance_of(
        record,
        bundle.schema,
        bundle.baseline,
        {},
        window=window,
        labels=labels(np.random.default_rng(6), 400, 0.1),
    )
    assert calm.low < calm.error_rate < calm.high
    assert calm.estimate.trusted
    assert abs(calm.loss) < 0.06
    worse = performance_of(
        record,
        bundle.schema,
        bundle.baseline,
        {},
        window=window,
        labels=labels(np.random.default_rng(7), 400, 0.5),
    )
    assert worse.loss == pytest.approx(0.4, abs=0.08)
    assert any("labels show" in doubt for doubt in worse.estimate.doubts)
    blind = performance_of(record, bundle.schema, bundle.baseline, {}, window=None, labels=None)
    assert blind.loss is None


def finding(device: str, kind: str, stream: str) -> Finding:
    return Finding(
        device=device,
        incarnation=1,
        seq=1,
        bundle=BUNDLE,
        kind=kind,
        source="drift",
        streams=((stream, 1.0),),
        log_e=20.0,
        effect=0.9,
        effect_natural=0.3,
        unit="share",
        direction="up",
        onset_ms=NOW - 1000,
        received_ms=NOW,
        text="",
    )


@pytest.mark.parametrize(
    ("kind", "stream", "cause"),
    [
        ("concept", "error_rate:2", Kind.CONCEPT_SHIFT),
        ("label_shift", "class", Kind.LABEL_SHIFT),
    ],
)
def test_findings_on_labels_and_class_mix_are_causes_of_their_own(
    kind: str, stream: str, cause: Kind
) -> None:
    around = Surroundings(["a", "b"], {"a": {}, "b": {}}, inputs=frozenset({"brightness"}))
    (found,) = find_causes([finding("a", kind, stream)], around)
    assert found.kind is cause
    said = sentence(found, NOW)
    assert ("error rate of answers '2' +30.0%" in said) == (kind == "concept")


def test_a_retrain_request_tells_the_accuracy_that_was_lost(
    engine: Engine, ingest: Ingest, bundle: PaperBundle
) -> None:
    device = PaperDevice("a")
    born(ingest, device, bundle)
    window = device.window(bundle.window(draw(np.random.default_rng(8), 300)), NOW)
    send(ingest, device, [window, message(device, labels(np.random.default_rng(9), 300, 0.5))])
    with writing(engine) as connection:
        values = dict.fromkeys((column.name for column in incidents.c), None)
        values |= {
            "incident": "i1", "model": "meter reader", "bundle": BUNDLE, "bundles": [BUNDLE],
            "scope": "device",
            "scope_key": "a", "attributes": [], "kind": "concept_shift", "detail": "concept", "state": "open",
            "severity": 1.0, "title": "t", "cause": "c", "onset_ms": NOW - 100_000, "opened_ms": NOW,
            "updated_ms": NOW, "affected": 1, "members": 1, "elsewhere": 0,
            "streams": [{"stream": "error_rate", "share": 1.0}], "log_e": 20.0, "reopened": 0,
        }  # fmt: skip
        connection.execute(incidents.insert().values(values))
        row = connection.execute(select(incidents)).mappings().one()
        body = build_event(
            connection,
            row,
            request="r",
            fleet=FLEET,
            public_url=None,
            now_ms=NOW,
            ranking=Ranking(0.0, "assumed", 1, 1.0),
        )
    told = json.loads(body)["data"]["accuracy"]
    assert told["reference"] == pytest.approx(0.9, abs=0.02)
    assert told["by_labels"]["low"] < told["by_labels"]["accuracy"] < told["by_labels"]["high"]
    assert told["loss"] == pytest.approx(0.4, abs=0.08)
    assert told["estimated"]["doubts"]


def test_the_description_brings_the_class_mix_to_the_registry(
    engine: Engine, ingest: Ingest, bundle: PaperBundle
) -> None:
    born(ingest, PaperDevice("a"), bundle)
    with reading(engine) as connection:
        known = Registry().find(connection, BUNDLE)
    assert known.performance.labels.rows == 4000
    assert (
        known.class_mix.groups[:CLASSES] == ("0", "1", "2", "3") or len(known.class_mix.groups) == CLASSES + 1
    )


def test_the_devices_page_shows_errors_calibration_and_the_estimate(
    engine: Engine, ingest: Ingest, bundle: PaperBundle
) -> None:
    device = PaperDevice("a")
    born(ingest, device, bundle)
    window = device.window(bundle.window(draw(np.random.default_rng(8), 300)), NOW)
    send(ingest, device, [window, message(device, labels(np.random.default_rng(9), 300, 0.5))])
    options = WebOptions.checked(fleet=FLEET, host="127.0.0.1", port=0)
    app = build(engine, options, now_ms=lambda: NOW + 1500)
    with TestClient(app, base_url="http://127.0.0.1:8088") as client:
        page = client.get("/devices/a").text
    assert "right on the labelled reference" in page
    assert "of 300 labelled answers are wrong" in page
    assert "Brier score" in page
    assert "not to be relied on" in page


def test_classes_that_are_surely_worse_than_the_rest_are_told_and_others_are_not(
    engine: Engine, ingest: Ingest, bundle: PaperBundle
) -> None:
    rng = np.random.default_rng(8)
    said = rng.integers(0, CLASSES, 2_000)
    truth = np.where((said == 2) & (rng.random(2_000) < 0.6), 3, said)
    sketch = LabelSketch.of_classes(CLASSES, said, truth, rng.uniform(0.8, 1.0, 2_000))
    device = PaperDevice("a")
    born(ingest, device, bundle)
    send(ingest, device, [message(device, sketch)])
    slices = worst_slices(sketch, 1.0)
    assert [(one.side, one.number) for one in slices] == [("answer", 2), ("label", 3)]
    assert slices[0].low > sketch.error_rate
    assert slices[0].low < 0.6 < slices[0].high
    with TestClient(
        build(engine, WebOptions(FLEET), now_ms=lambda: NOW), base_url="http://127.0.0.1:8088"
    ) as client:
        page = client.get("/devices/a").text
    assert "Worse than the rest" in page
    assert "answered 2" in page


def test_few_labels_accuse_no_class() -> None:
    sketch = LabelSketch.of_classes(4, np.array([0, 1, 2]), np.array([0, 1, 3]))
    assert worst_slices(sketch, 1.0) == ()
