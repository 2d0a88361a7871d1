"""Requests from topics of a local broker: answered where they ask for it, or refused; never looped."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.bundles import FEATURES, tabular_rows
from agent.daemons import running
from driftpost import Guard
from driftpost_agent.errors import ConfigurationInvalid, RequestRefused
from driftpost_agent.inference_protocol import HEADER_LENGTH
from driftpost_agent.local_mqtt import LocalTopics, TopicRules, decode_packed
from driftpost_agent.serving import Serving
from driftpost_agent.settings import TABLE
from driftpost_models.bundle import Bundle
from driftpost_sync.settings import Settings
from mosquitto import Mosquitto, needs_mosquitto, running_mosquitto

pytestmark = needs_mosquitto

PATIENCE_S = 20.0


def settings(**section: Any) -> Settings:
    return TABLE.parse({"device": {"id": "a"}, "model": {"bundle": "b"}, "local_mqtt": section})


class Sensor:
    """A client of the local broker that asks and waits for answers."""

    def __init__(self, broker: Mosquitto, *answers: str, five: bool = True) -> None:
        self.five = five
        self.answers: queue.Queue[Any] = queue.Queue()
        version = MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=version)
        subscribed = threading.Event()
        self.client.on_message = lambda _, __, message: self.answers.put(message)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.connect(broker.host, broker.port)
        self.client.loop_start()
        self.client.subscribe([(topic, 1) for topic in answers])
        assert subscribed.wait(PATIENCE_S)

    def ask(self, body: bytes, topic: str = "driftpost/infer", **properties: Any) -> None:
        given: Properties | None = None
        retain = properties.pop("retain", False)
        if self.five:
            given = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            for name, value in properties.items():
                setattr(given, name, value)
        self.client.publish(topic, body, qos=1, properties=given, retain=retain).wait_for_publish(PATIENCE_S)

    def answer(self) -> Any:
        return self.answers.get(timeout=PATIENCE_S)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@contextmanager
def topics(broker: Mosquitto, bundle: Bundle, **section: Any) -> Iterator[LocalTopics]:
    rules = TopicRules.from_settings(settings(host=broker.host, port=broker.port, **section), "guard-inputs")
    assert rules is not None
    guard = Guard(bundle, threaded=False)
    serving = Serving(bundle, guard)
    made = LocalTopics(rules, model=lambda: (bundle.name, bundle.version), infer=serving.infer)
    exit_event = threading.Event()
    thread = threading.Thread(target=made.run, args=(exit_event,), name="topics-under-test")
    thread.start()
    try:
        until(lambda: made.counts.connected, "connected")
        yield made
    finally:
        exit_event.set()
        thread.join(5)
        guard.close()
    assert not thread.is_alive(), "it stops in time"


def until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture(scope="module")
def broker() -> Iterator[Mosquitto]:
    with running_mosquitto() as started:
        yield started


@contextmanager
def sensor(broker: Mosquitto, *answers: str, five: bool = True) -> Iterator[Sensor]:
    made = Sensor(broker, *answers, five=five)
    try:
        yield made
    finally:
        made.close()


def body(rows: Any, identity: str = "r1") -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    return json.dumps({"id": identity, "inputs": [tensor]}).encode()


def packed(rows: Any, identity: str = "r1", **changes: Any) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": list(rows.shape), "data": rows.tobytes(), **changes}
    return bytes(msgpack.packb({"id": identity, "inputs": [tensor]}))


def test_a_request_is_answered_on_its_response_topic_with_its_correlation_data(broker, mlp_bundle) -> None:
    rows = tabular_rows(2)
    with topics(broker, mlp_bundle) as local, sensor(broker, "cam/7/answers") as cam:
        cam.ask(body(rows), ResponseTopic="cam/7/answers", CorrelationData=b"\x00\x01abc")
        message = cam.answer()
        assert message.topic == "cam/7/answers"
        assert message.properties.CorrelationData == b"\x00\x01abc"
        assert ("status", "200") in message.properties.UserProperty
        answer = json.loads(message.payload)
        assert answer["id"] == "r1"
        assert answer["parameters"]["verdict"] == "ok"
        assert answer["outputs"][0]["shape"] == [2, 10]
        assert local.counts.answered == 1
        assert local.facts()["topic"] == "driftpost/infer"


def test_a_client_of_version_3_1_1_is_answered_on_the_one_topic(broker, mlp_bundle) -> None:
    with topics(broker, mlp_bundle), sensor(broker, "driftpost/answer", five=False) as old:
        old.ask(body(tabular_rows(1), "old"))
        assert json.loads(old.answer().payload)["id"] == "old"
        rows = tabular_rows(3)
        old.ask(packed(rows, "p"))
        answer = msgpack.unpackb(old.answer().payload)
        assert answer["id"] == "p"
        (output,) = answer["outputs"]
        probabilities = np.frombuffer(output["data"], "<f4").reshape(output["shape"])
        assert probabilities.shape == (3, 10)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


def test_binary_tensors_ride_behind_the_json_as_over_http(broker, mlp_bundle) -> None:
    rows = tabular_rows(1)
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [1, FEATURES],
                    "parameters": {"binary_data_size": rows.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    with topics(broker, mlp_bundle), sensor(broker, "driftpost/answer") as cam:
        cam.ask(head + rows.tobytes(), UserProperty=[(HEADER_LENGTH, str(len(head)))])
        message = cam.answer()
        length = int(dict(message.properties.UserProperty)[HEADER_LENGTH])
        assert len(message.payload) == length + 40
        assert json.loads(message.payload[:length])["outputs"][0]["parameters"] == {"binary_data_size": 40}


@pytest.mark.parametrize(
    ("request_body", "status", "words"),
    [
        (b"", "400", "JSON"),
        (b"{", "400", "JSON"),
        (b'{"inputs": []}', "400", "at least one"),
        (body(np.zeros((1, 7), np.float32)), "400", "x"),
        (b"\x80", "400", "inputs"),
        (b"\xde\xff\xff", "400", "msgpack"),
        (packed(tabular_rows(1), shape=[2, FEATURES]), "400", "bytes"),
        (packed(tabular_rows(1), datatype="OBJECT"), "400", "datatype"),
        (packed(tabular_rows(0), shape=[0, 1 << 39, 1 << 39]), "400", "no array"),
        (b"[" * 5_000, "400", "JSON"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_word(broker, mlp_bundle, request_body, status, words) -> None:
    with topics(broker, mlp_bundle) as local, sensor(broker, "driftpost/answer") as cam:
        cam.ask(request_body, CorrelationData=b"x")
        message = cam.answer()
        if message.properties.ContentType == "application/msgpack":
            answer = msgpack.unpackb(message.payload)
        else:
            answer = json.loads(message.payload)
        assert words in answer["error"]
        assert ("status", status) in message.properties.UserProperty
        assert message.properties.CorrelationData == b"x"
        cam.ask(body(tabular_rows(1), "after"))
        assert json.loads(cam.answer().payload)["id"] == "after"
        assert (local.counts.refused, local.counts.answered) == (1, 1)


def test_a_response_topic_that_would_be_a_request_is_not_answered(broker, mlp_bundle) -> None:
    section = {"topic": "in/#", "answer_topic": "out"}
    with topics(broker, mlp_bundle, **section) as local, sensor(broker, "out", "in/x", "$SYS/x") as cam:
        for response in ("in/x", "$SYS/x", "a" * 300, "driftpost/v1/plant/guard/up"):
            cam.ask(body(tabular_rows(1)), "in/y", ResponseTopic=response)
        cam.ask(body(tabular_rows(1)), "in/y", ResponseTopic="out", CorrelationData=b"x" * 2_000)
        cam.ask(body(tabular_rows(1), "good"), "in/y")
        assert json.loads(cam.answer().payload)["id"] == "good"
        assert cam.answers.empty()
        assert local.counts.refused == 5


def test_a_request_that_is_too_large_never_arrives_or_is_refused(broker, mlp_bundle) -> None:
    large = body(tabular_rows(500))
    with topics(broker, mlp_bundle, max_message_kb=10) as local, sensor(broker, "driftpost/answer") as cam:
        cam.ask(large)
        cam.ask(body(tabular_rows(1), "small"))
        assert json.loads(cam.answer().payload)["id"] == "small"
        assert local.counts.answered == 1
        with pytest.raises(RequestRefused, match="larger than"):
            local._answered(large, None, packed=False)


def test_a_retained_request_is_not_asked_again_and_again(broker, mlp_bundle) -> None:
    with sensor(broker, "driftpost/answer") as cam:
        cam.ask(body(tabular_rows(1), "stale"), retain=True)
        try:
            with topics(broker, mlp_bundle) as local:
                until(lambda: local.counts.ignored == 1, "the retained request arrives")
                cam.ask(body(tabular_rows(1), "new"))
                assert json.loads(cam.answer().payload)["id"] == "new"
        finally:
            cam.ask(b"", retain=True)


def test_a_broker_that_was_away_is_connected_again(mlp_bundle: Bundle) -> None:
    with running_mosquitto() as own, topics(own, mlp_bundle) as local:
        own.kill()
        until(lambda: not local.counts.connected, "lost")
        assert local.counts.problem
        own.restart()
        until(lambda: local.counts.connected, "connected again")
        assert local.counts.problem == ""
        with sensor(own, "driftpost/answer") as cam:
            cam.ask(body(tabular_rows(1)))
            assert json.loads(cam.answer().payload)["id"] == "r1"


def test_a_password_that_is_refused_is_told(mlp_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "users").write_text("")
    (tmp_path / "users").chmod(0o600)
    with running_mosquitto(f"allow_anonymous false\npassword_file {tmp_path / 'users'}\n") as closed:
        rules = TopicRules.from_settings(settings(host=closed.host, port=closed.port), "x")
        assert rules is not None
        local = LocalTopics(rules, model=lambda: ("m", "1"), infer=lambda *_: None)  # type: ignore[arg-type, return-value]
        exit_event = threading.Event()
        thread = threading.Thread(target=local.run, args=(exit_event,), name="topics-under-test")
        thread.start()
        try:
            until(lambda: "uthori" in local.counts.problem, "told")
        finally:
            exit_event.set()
            thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "section",
    [
        {"topic": "a/#/b"},
        {"answer_topic": "driftpost/+"},
        {"topic": "x/#", "answer_topic": "x/answers"},
        {"topic": "x", "answer_topic": "x"},
        {"topic": ""},
        {"answer_topic": "$SYS/x"},
        {"answer_topic": "driftpost/v1/plant/guard/up"},
    ],
)
def test_topics_that_loop_or_make_no_sense_are_mistakes_in_the_configuration(section: dict[str, str]) -> None:
    with pytest.raises(ConfigurationInvalid, match="local_mqtt"):
        TopicRules.from_settings(settings(host="h", **section), "x")


def test_without_a_broker_there_are_no_topics() -> None:
    assert TopicRules.from_settings(settings(), "x") is None


@pytest.mark.parametrize(
    "plain",
    [
        b"\xc1",
        msgpack.packb([1]),
        msgpack.packb({"id": 3, "inputs": [{}]}),
        msgpack.packb({"inputs": [3]}),
        msgpack.packb({"inputs": [{"name": "x"}] * 2}),
        msgpack.packb({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1], "data": b""}]}),
        msgpack.packb(
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1 << 39, 1 << 39], "data": b""}]}
        ),
        msgpack.packb({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1] * 99, "data": b"1234"}]}),
        msgpack.packb(
            {"inputs": [{"name": "x", "datatype": "FP32", "shape": [0, 1 << 39, 1 << 39], "data": b""}]}
        ),
        msgpack.packb({"inputs": [{}] * 300}),
        b"\x91" * 10_000,
    ],
)
def test_hostile_msgpack_is_refused(plain: bytes) -> None:
    with pytest.raises(RequestRefused):
        decode_packed(plain)


def test_the_daemon_takes_inputs_from_its_folder_and_its_topics_beside_its_uplink(
    broker: Mosquitto, tmp_path: Path, bundles: Path
) -> None:
    sections = {
        "folder": {"path": tmp_path / "in", "poll_seconds": 0.05, "settle_seconds": 0},
        "local_mqtt": {"host": broker.host, "port": broker.port},
    }
    with running(tmp_path, bundles / "mlp.bundle", bundles / "team.pub", **sections) as agent:
        agent.wait(lambda: agent.status()["inputs"]["local_mqtt"]["connected"], "the topics are served")
        draft = tmp_path / "in" / ".a.npy"
        with draft.open("wb") as file:
            np.save(file, tabular_rows(4))
        draft.rename(tmp_path / "in" / "a.npy")
        with sensor(broker, "driftpost/answer") as cam:
            cam.ask(body(tabular_rows(2)))
            assert json.loads(cam.answer().payload)["parameters"]["inference_id"] == "r1"
        agent.wait(lambda: agent.status()["inputs"]["folder"]["done"] == 1, "the file is done")
        document = agent.status()
        assert document["inferences"]["rows"] == 6
        assert document["health"]["state"] == "ok"
        assert document["inputs"]["local_mqtt"]["answered"] == 1
        assert agent.stop() < 5.0
