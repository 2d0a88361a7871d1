"""Inputs from topics of a local broker: each message is one guarded call, answered on a topic.

A request is a body of the Open Inference Protocol, as JSON or with binary tensors after it, or the same in
msgpack. With MQTT 5 the answer goes to the request's response topic with its correlation data, else to one
fixed topic.

This broker is not the uplink's: a camera's messages and the fleet's have nothing to do with each other.
"""

from __future__ import annotations

import json
import logging
import math
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, Client, ConnectFlags, MQTTMessage, topic_matches_sub
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from driftpost_agent.errors import ConfigurationInvalid, RequestRefused
from driftpost_agent.inference_protocol import (
    HEADER_LENGTH,
    MAX_TENSORS,
    datatype_of,
    decode_request,
    dtype_of,
    encode_response,
    shape_of,
    verdict_parameters,
)
from driftpost_agent.verdict import GuardedResult
from driftpost_sync.backoff import Backoff
from driftpost_sync.connection import read_password, tls_context
from driftpost_sync.errors import SyncError
from driftpost_sync.mqtt_settings import MqttSettings
from driftpost_sync.settings import Settings
from driftpost_sync.topics import ROOT

log = logging.getLogger(__name__)

MSGPACK = "application/msgpack"
# Seconds that one turn of the loop waits for traffic, and so how long a stop takes.
TURN_S = 0.2
# Wait between connections, ms.
SHORTEST_MS, LONGEST_MS = 500, 30_000
# Messages that the broker may have under way to us (MQTT 5): what it holds back costs no memory here.
RECEIVE_MAXIMUM = 8
# Answers that wait for a slow broker; beyond them new ones are dropped and counted.
MAX_QUEUED = 100
MAX_TOPIC_CHARS = 256
MAX_CORRELATION_BYTES = 1024
KEEPALIVE_S = 60
# A request's topic and properties, beside its payload.
HEAD_BYTES = 4096

Infer = Callable[[Mapping[str, NDArray[Any]], str], GuardedResult]


@dataclass
class TopicCounts:
    """Since the start."""

    connected: bool = False
    answered: int = 0
    refused: int = 0
    ignored: int = 0
    unsent: int = 0
    problem: str = ""


@dataclass(frozen=True)
class TopicRules:
    """Which broker, which topics; sizes in bytes."""

    broker: MqttSettings
    topic: str
    answer_topic: str
    max_bytes: int
    client_id: str

    @classmethod
    def from_settings(cls, settings: Settings, client_id: str) -> TopicRules | None:
        """The section's values; None where no broker is named.

        Raises:
            ConfigurationInvalid: topics that can't be used.
        """
        host = settings.optional("local_mqtt.host", str)
        if host is None:
            return None
        topic, answers = settings.text("local_mqtt.topic"), settings.text("local_mqtt.answer_topic")
        if not _answer_topic(answers):
            raise ConfigurationInvalid(
                "local_mqtt.answer_topic",
                f"{answers!r} is no topic for answers",
                f"It has 1 to 256 characters, no + or #, and does not begin with $ or {ROOT}/.",
            )
        if not _filter(topic):
            raise ConfigurationInvalid(
                "local_mqtt.topic",
                f"{topic!r} is no topic filter",
                "It has 1 to 256 characters; a level is a name or a +, the last one may be a #.",
            )
        if topic_matches_sub(topic, answers):
            raise ConfigurationInvalid(
                "local_mqtt.answer_topic",
                f"answers on {answers!r} would be taken for requests on {topic!r}",
                "Give answers a topic that the filter does not match.",
            )
        broker = MqttSettings(
            host=host,
            port=settings.integer("local_mqtt.port"),
            username=settings.optional("local_mqtt.username", str),
            password_file=_path(settings, "password_file"),
            ca=_path(settings, "ca"),
            cert=_path(settings, "cert"),
            key=_path(settings, "key"),
        )
        limit = round(settings.number("local_mqtt.max_message_kb") * 1024)
        return cls(broker, topic, answers, limit, client_id)


def _path(settings: Settings, name: str) -> Any:
    return settings[f"local_mqtt.{name}"]


class LocalTopics:
    """Answers requests from a local broker in one thread of its own.

    Args:
        rules: see above.
        model: name and version, for answers.
        infer: one guarded call; raises RequestRefused.
        progress: called after each turn of the loop.
    """

    def __init__(
        self,
        rules: TopicRules,
        *,
        model: Callable[[], tuple[str, str]],
        infer: Infer,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._rules = rules
        self._model = model
        self._infer = infer
        self._progress = progress
        # MQTT 5 first; a broker that knows only 3.1.1 refuses it, and is then spoken to in that.
        self._five = True
        self.counts = TopicCounts()

    def facts(self) -> dict[str, Any]:
        """For the status document."""
        broker = f"{self._rules.broker.host}:{self._rules.broker.port}"
        return {"broker": broker, "topic": self._rules.topic, **asdict(self.counts)}

    def run(self, exit_event: threading.Event) -> None:
        """Serve until the exit event, connecting again whenever it is needed."""
        backoff = Backoff(SHORTEST_MS, LONGEST_MS, random.SystemRandom())
        while not exit_event.is_set():
            try:
                self._connection(exit_event, backoff)
            except (OSError, SyncError, ValueError) as error:
                self._trouble(str(error))
            self.counts.connected = False
            self._wait(exit_event, backoff.next_ms() / 1000)

    def _wait(self, exit_event: threading.Event, seconds: float) -> None:
        while seconds > 0 and not exit_event.wait(min(seconds, 1.0)):
            self._progress()
            seconds -= 1.0

    def _trouble(self, text: str) -> None:
        if text != self.counts.problem:
            log.warning("the local broker: %s", text)
        self.counts.problem = text

    def _connection(self, exit_event: threading.Event, backoff: Backoff) -> None:
        broker = self._rules.broker
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._rules.client_id,
            clean_session=None if self._five else True,
            protocol=MQTTProtocolVersion.MQTTv5 if self._five else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = broker.connect_timeout_s
        client.max_queued_messages_set(MAX_QUEUED)
        if broker.username is not None:
            client.username_pw_set(broker.username, read_password(broker.password_file))
        context = tls_context(broker) if broker.uses_tls else None
        if context is not None:
            client.tls_set_context(context)
        answers: list[ReasonCode] = []

        def connected(
            _: Client, __: Any, ___: ConnectFlags, code: ReasonCode, ____: Properties | None
        ) -> None:
            answers.append(code)
            if not code.is_failure:
                client.subscribe(self._rules.topic, qos=1)
                self.counts.connected, self.counts.problem = True, ""
                backoff.reset()

        client.on_connect = connected
        client.on_message = self._message
        properties: Properties | None = None
        if self._five:
            properties = _properties(PacketTypes.CONNECT)
            properties.ReceiveMaximum = RECEIVE_MAXIMUM
            properties.MaximumPacketSize = self._rules.max_bytes + HEAD_BYTES
        try:
            try:
                # What was asked while nobody listened is stale: a sensor's next reading is on its way.
                clean = True if self._five else MQTT_CLEAN_START_FIRST_ONLY
                client.connect(
                    broker.host, broker.port, KEEPALIVE_S, clean_start=clean, properties=properties
                )
            except OSError:
                if context is not None:
                    context.close_last()
                raise
            while not exit_event.is_set():
                if client.loop(TURN_S) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    break
                self._progress()
                if answers and answers[0].is_failure:
                    break
        finally:
            client.on_message = None
            client.disconnect()
        if exit_event.is_set():
            return
        if answers and answers[0].is_failure:
            if answers[0].value in _UNSUPPORTED and self._five:
                self._five = False
            self._trouble(f"refuses: {answers[0]}")
        elif not answers:
            # Some brokers of version 3.1.1 cut the connection instead of answering.
            self._five = not self._five
            self._trouble("does not answer as an MQTT broker would")
        else:
            self._trouble("the connection was lost")

    def _message(self, client: Client, _: Any, message: MQTTMessage) -> None:
        if message.retain:
            # It would be asked again after every connect, and says nothing of now.
            self.counts.ignored += 1
            return
        properties = message.properties
        topic = getattr(properties, "ResponseTopic", None) or self._rules.answer_topic
        correlation = bytes(getattr(properties, "CorrelationData", b"") or b"")
        if (
            not _answer_topic(topic)
            or topic_matches_sub(self._rules.topic, topic)
            or len(correlation) > MAX_CORRELATION_BYTES
        ):
            # An answer there would be a request of its own, or is none of ours to give.
            self.counts.refused += 1
            log.warning(
                "a request names a response topic that can't be used", extra={"topic": str(topic)[:200]}
            )
            return
        payload = bytes(message.payload)
        packed = _is_msgpack(properties, payload)
        header, status = None, 200
        try:
            header, body = self._answered(payload, properties, packed=packed)
            self.counts.answered += 1
        except RequestRefused as refusal:
            self.counts.refused += 1
            plain = {"error": refusal.problem, "status": refusal.status}
            status = refusal.status
            body = msgpack.packb(plain) if packed else json.dumps(plain).encode()
        self._reply(client, topic, body, correlation, header, packed=packed, status=status)

    def _answered(self, payload: bytes, properties: object, *, packed: bool) -> tuple[str | None, bytes]:
        if len(payload) > self._rules.max_bytes:
            raise RequestRefused(
                f"the request is larger than {self._rules.max_bytes} bytes (local_mqtt.max_message_kb)", 413
            )
        name, version = self._model()
        if packed:
            inputs, identity = decode_packed(payload)
            result = self._infer(inputs, identity)
            return None, encode_packed(result, identity, name, version)
        request = decode_request(payload, _user_property(properties, HEADER_LENGTH))
        result = self._infer(request.inputs, request.id)
        headers, body = encode_response(request, result, name, version)
        return headers.get(HEADER_LENGTH), body

    def _reply(
        self,
        client: Client,
        topic: str,
        body: bytes,
        correlation: bytes,
        header: str | None,
        *,
        packed: bool,
        status: int,
    ) -> None:
        properties: Properties | None = None
        if self._five:
            properties = _properties(PacketTypes.PUBLISH)
            if correlation:
                properties.CorrelationData = correlation
            properties.ContentType = MSGPACK if packed else "application/json"
            user = [("status", str(status))]
            if header is not None:
                user.append((HEADER_LENGTH, header))
            properties.UserProperty = user
        sent = client.publish(topic, body, qos=1, properties=properties)
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self.counts.unsent += 1


# Reason codes with which a broker declines version 5: by its own word, or by version 3.1.1's.
_UNSUPPORTED = frozenset({0x84, 0x01})


def decode_packed(payload: bytes) -> tuple[dict[str, NDArray[Any]], str]:
    """A request in msgpack: `{"id": text, "inputs": [{"name", "datatype", "shape", "data": bytes}]}`.

    Raises:
        RequestRefused: with what is wrong in it.
    """
    try:
        plain = msgpack.unpackb(
            payload,
            raw=False,
            strict_map_key=True,
            max_array_len=4096,
            max_map_len=64,
            max_str_len=4096,
            max_ext_len=0,
        )
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError, UnicodeDecodeError) as error:
        raise RequestRefused(f"the body is not valid msgpack: {str(error)[:200]}") from None
    if not isinstance(plain, dict):
        raise RequestRefused("the body must be a map")
    identity, tensors = plain.get("id", ""), plain.get("inputs")
    if not isinstance(identity, str):
        raise RequestRefused("'id' must be a text")
    if not isinstance(tensors, list) or not 0 < len(tensors) <= MAX_TENSORS:
        raise RequestRefused(f"the request needs 'inputs', a list of 1 to {MAX_TENSORS} tensors")
    inputs: dict[str, NDArray[Any]] = {}
    for tensor in tensors:
        if not isinstance(tensor, dict):
            raise RequestRefused("each of 'inputs' must be a map")
        name, data = tensor.get("name"), tensor.get("data")
        if not isinstance(name, str) or not name or name in inputs:
            raise RequestRefused("each tensor needs a 'name' of its own")
        dtype = dtype_of(name, tensor.get("datatype"))
        shape = shape_of(name, tensor)
        size = math.prod(shape) * dtype.itemsize
        if not isinstance(data, bytes) or len(data) != size:
            raise RequestRefused(f"input {name!r}: shape {list(shape)} needs {size} bytes of 'data'")
        inputs[name] = np.frombuffer(data, dtype).reshape(shape)
    return inputs, identity


def encode_packed(result: GuardedResult, identity: str, model: str, version: str) -> bytes:
    """An answer in msgpack, its fields as in JSON and its tensors little-endian bytes."""
    packed: bytes = msgpack.packb(
        {
            "model_name": model,
            "model_version": version,
            "id": identity,
            "parameters": verdict_parameters(result),
            "outputs": [
                {
                    "name": name,
                    "datatype": datatype_of(value.dtype),
                    "shape": list(value.shape),
                    "data": np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes(),
                }
                for name, value in result.outputs.items()
            ],
        }
    )
    return packed


def _is_msgpack(properties: object, payload: bytes) -> bool:
    content = getattr(properties, "ContentType", None)
    if content is not None:
        return str(content).lower().startswith(MSGPACK)
    # Version 3.1.1 can't say: a map of msgpack begins with 0x80 to 0x8f, 0xde or 0xdf, which no JSON does.
    return bool(payload) and (payload[0] & 0xF0 == 0x80 or payload[0] in (0xDE, 0xDF))


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call]  # paho annotates it only in part


def _user_property(properties: object, name: str) -> str | None:
    for key, value in getattr(properties, "UserProperty", None) or ():
        if str(key).lower() == name.lower():
            return str(value)
    return None


def _filter(text: str) -> bool:
    if not text:
        return False
    *before, last = text.split("/")
    levels = before if last == "#" else [*before, last]
    return _plain_topic("/".join("x" if level == "+" else level for level in [*levels, "x"]))


def _plain_topic(topic: object) -> bool:
    return (
        isinstance(topic, str)
        and 0 < len(topic) <= MAX_TOPIC_CHARS
        and not set("+#\0") & set(topic)
        and not topic.startswith("$")
    )


def _answer_topic(topic: str) -> bool:
    """Whether answers may go there. A sender must not make this agent speak where the fleet's messages go.

    A board's broker may well be bridged to the fleet's, or be the same one after all.
    """
    return _plain_topic(topic) and topic != ROOT and not topic.startswith(f"{ROOT}/")
