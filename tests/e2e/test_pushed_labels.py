"""A person's file of labels reaches a real agent over a real broker, and its error rate comes back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from agent.bundles import CLASSES, REFERENCE_ROWS, built, mlp, tabular_rows
from agent.test_labels import answers_to
from driftpost_agent.guard import Guard
from driftpost_agent.store import Store
from driftpost_agent.uplink import Uplink
from driftpost_aggregator import settings as aggregator_settings
from driftpost_aggregator.labels.client import Client
from driftpost_aggregator.labels.reading import CSV, Given, read_labels
from driftpost_aggregator.service import Aggregator
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading
from driftpost_models.bundle import Bundle
from driftpost_sketches.labels.label_sketch import LabelSketch
from driftpost_sync.mqtt_settings import MqttSettings
from driftpost_sync.topics import Identity
from mosquitto import Mosquitto, needs_mosquitto, running_mosquitto
from wire import CLOCK, wait_until

pytestmark = needs_mosquitto
ROWS = 60


@pytest.fixture
def broker() -> Iterator[Mosquitto]:
    with running_mosquitto() as running:
        yield running


@pytest.fixture
def aggregator(tmp_path: Path, broker: Mosquitto) -> Iterator[Aggregator]:
    path = tmp_path / "aggregator.toml"
    path.write_text(
        f"""
        [fleet]
        name = "meters"
        [mqtt]
        host = "{broker.host}"
        port = {broker.port}
        reconnect_min_s = 0.05
        reconnect_max_s = 0.2
        [web]
        port = 0
        [rollups]
        bucket_s = 1
        [[retrain.targets]]
        name = "bus"
        kind = "mqtt"
        """
    )
    service = Aggregator(aggregator_settings.load(path), threading.Event())
    try:
        service.start()
        yield service
    finally:
        service.stop()


def test_labels_are_joined_on_the_device_and_its_error_rate_comes_back(
    tmp_path: Path, broker: Mosquitto, aggregator: Aggregator
) -> None:
    reference = tabular_rows(REFERENCE_ROWS)
    np.save(tmp_path / "labels.npy", answers_to(reference))
    names = [f"class{number}" for number in range(CLASSES)]
    labels = str(tmp_path / "labels.npy")
    file = built(tmp_path, "pushed", mlp(), reference, labels=labels, classes=names, window_seconds=0.5)
    settings = MqttSettings(
        host=broker.host, port=broker.port, reconnect_min_s=0.05, reconnect_max_s=0.2, ack_timeout_s=1.0
    )
    rows = tabular_rows(ROWS, seed=4)
    truth = answers_to(rows)
    wrong = np.arange(ROWS) % 6 == 0
    truth = np.where(wrong, (truth + 1) % CLASSES, truth)
    with (
        Store.open(tmp_path / "device.db", clock=CLOCK) as store,
        Guard(Bundle.open(file, None), clock=CLOCK, store=store, window_seconds=0.5) as guard,
    ):
        uplink = Uplink.of_guard(guard, settings, Identity("meters", "m1"), {"site": "a"}, clock=CLOCK)
        try:
            named = [guard.run(row[None]).inference_id for row in rows]

            def online() -> bool:
                with reading(aggregator.engine) as connection:
                    return bool(
                        connection.execute(
                            select(tables.devices.c.online).where(tables.devices.c.device == "m1")
                        ).scalar()
                    )

            wait_until(online, "the device's birth reaches the aggregator")
            lines = [f"m1,{name},class{label}" for name, label in zip(named, truth.tolist(), strict=True)]
            body = "\n".join(["device,inference,label", *lines, "m1,never-made,class0"]).encode()
            found = [one for one in read_labels(body, CSV) if isinstance(one, Given)]
            with Client(aggregator.web.address, None) as client:
                (outcome,) = client.push(found, actor="anna")
                assert outcome.queued == ROWS + 1

                def settled() -> bool:
                    uplink.wake()
                    return all(
                        part["state"] == "done"
                        for part in client.outcome(outcome.pushes[0])["parts"]["items"]
                    )

                wait_until(settled, "the device answers", 30.0)
                (part,) = client.outcome(outcome.pushes[0])["parts"]["items"]
            assert (part["counted"], part["unknown"], part["twice"]) == (ROWS, 1, 0)

            def counted() -> list[bytes]:
                with reading(aggregator.engine) as connection:
                    return list(
                        connection.execute(
                            select(tables.label_rollups.c.sketch).where(
                                tables.label_rollups.c.scope == "fleet"
                            )
                        ).scalars()
                    )

            wait_until(lambda: bool(counted()), "the label sketch reaches the fleet's rollup")
            sketch = LabelSketch.from_bytes(counted()[0])
            assert sketch.rows == ROWS
            assert sketch.error_rate == pytest.approx(float(wrong.mean()))
        finally:
            assert uplink.stop(5.0)


def test_a_retrain_request_is_published_on_the_fleet_s_broker(
    aggregator: Aggregator, broker: Mosquitto
) -> None:
    wait_until(lambda: aggregator.link.status().connected, "the aggregator is connected")
    assert aggregator.link.post("driftpost/v1/meters/_aggregator/retrain", b"{}", 5.0) == ""
    broker.stop()
    assert aggregator.link.post("driftpost/v1/meters/_aggregator/retrain", b"{}", 0.5) != ""
