import queue
import socket
import ssl
import threading

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from deploy.shipped_broker import FLEET
from driftpost_sync import topics

WAIT_S = 10.0
NOT_AUTHORIZED = ReasonCode(PacketTypes.PUBACK, "Not authorized")


class Client:
    """One MQTT 5 connection under the name in a certificate; every step waits for the broker's answer."""

    def __init__(self, broker, name, client_id=""):
        self.received = queue.Queue()
        self._connected = threading.Event()
        self._subscribed = threading.Event()
        self._published = {}
        self.closed = threading.Event()
        self._mqtt = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
        self._mqtt.tls_set(
            ca_certs=str(broker.authority / "ca.crt"),
            certfile=str(broker.authority / f"{name}.crt"),
            keyfile=str(broker.authority / f"{name}.key"),
        )
        self._mqtt.on_connect = lambda *_: self._connected.set()
        self._mqtt.on_disconnect = lambda *_: self.closed.set()
        self._mqtt.on_subscribe = lambda *_: self._subscribed.set()
        self._mqtt.on_message = lambda _c, _u, message: self.received.put((message.topic, message.payload))
        self._mqtt.on_publish = self._on_publish
        self._answers = queue.Queue()
        self._mqtt.connect("localhost", broker.port)
        self._mqtt.loop_start()
        assert self._connected.wait(WAIT_S)

    def _on_publish(self, _client, _userdata, mid, reason, _properties):
        self._answers.put((mid, reason))

    def subscribe(self, topic_filter):
        self._subscribed.clear()
        self._mqtt.subscribe(topic_filter, qos=1)
        assert self._subscribed.wait(WAIT_S)

    def publish(self, topic, payload=b"x", retain=False):
        """The broker's answer to a message with QoS 1."""
        sent = self._mqtt.publish(topic, payload, qos=1, retain=retain)
        mid, reason = self._answers.get(timeout=WAIT_S)
        assert mid == sent.mid
        return reason

    def next(self):
        return self.received.get(timeout=WAIT_S)

    def close(self):
        self._mqtt.disconnect()
        self._mqtt.loop_stop()


@pytest.fixture
def connect(broker):
    opened = []

    def open_client(name, client_id=""):
        opened.append(Client(broker, name, client_id))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()


def _device(name):
    return topics.Identity(FLEET, name)


@pytest.fixture
def aggregator(connect):
    client = connect("_aggregator")
    client.subscribe(topics.every_up(FLEET))
    client.subscribe(topics.every_state(FLEET))
    return client


def test_a_device_can_publish_as_itself_and_the_aggregator_hears_it(connect, aggregator):
    me = _device("cam-1")
    device = connect("cam-1")
    assert not device.publish(me.up, b"window").is_failure
    assert aggregator.next() == (me.up, b"window")
    assert not device.publish(me.state, b"birth").is_failure
    assert aggregator.next() == (me.state, b"birth")


@pytest.mark.parametrize(
    "topic",
    [
        _device("cam-2").up,
        _device("cam-2").state,
        _device("cam-1").down,
        _device("cam-2").down,
        topics.host_state(FLEET),
        topics.Identity("other", "cam-1").up,
        f"{topics.ROOT}/{FLEET}/cam-1/up/more",
        "elsewhere",
    ],
)
def test_a_device_can_publish_nowhere_else(connect, aggregator, topic):
    device = connect("cam-1")
    assert device.publish(topic) == NOT_AUTHORIZED
    # Delivery keeps the order: had the refused message gone through, it would arrive first.
    device.publish(_device("cam-1").up, b"after it")
    assert aggregator.next() == (_device("cam-1").up, b"after it")


def test_a_device_reads_its_own_answers_and_no_others(connect, aggregator):
    device = connect("cam-1")
    device.subscribe("#")
    device.subscribe(_device("cam-2").down)
    device.subscribe(_device("cam-1").down)
    connect("cam-2").publish(_device("cam-2").up, b"another's window")
    aggregator.publish(_device("cam-2").down, b"for another")
    aggregator.publish(_device("cam-1").down, b"for me")
    assert device.next() == (_device("cam-1").down, b"for me")


def test_a_device_sees_whether_the_aggregator_is_there(connect, aggregator):
    device = connect("cam-1")
    device.subscribe(topics.host_state(FLEET))
    assert not aggregator.publish(topics.host_state(FLEET), b"online").is_failure
    assert device.next() == (topics.host_state(FLEET), b"online")


def test_the_aggregator_can_not_speak_as_a_device(aggregator):
    assert aggregator.publish(_device("cam-1").up) == NOT_AUTHORIZED
    assert aggregator.publish(_device("cam-1").state) == NOT_AUTHORIZED


def test_a_shared_subscription_of_the_aggregator_hears_the_devices(connect):
    worker = connect("_aggregator")
    worker.subscribe(topics.shared("workers", topics.every_up(FLEET)))
    connect("cam-2").publish(_device("cam-2").up, b"window")
    assert worker.next() == (_device("cam-2").up, b"window")


def test_a_device_can_not_end_anothers_session_by_taking_its_client_identifier(connect, aggregator):
    one = connect("cam-1", client_id=_device("cam-1").client_id)
    thief = connect("cam-2", client_id=_device("cam-1").client_id)
    assert not thief.publish(_device("cam-2").up, b"here").is_failure
    assert not one.publish(_device("cam-1").up, b"still here").is_failure
    assert not one.closed.is_set()


def _hello(broker, context):
    """Handshake, say an MQTT 3.1.1 CONNECT and return what the broker answers."""
    # Protocol "MQTT" level 4, clean session, keep-alive 60 s, client identifier "stranger".
    connect_packet = b"\x10\x14\x00\x04MQTT\x04\x02\x00\x3c\x00\x08stranger"
    with socket.create_connection(("127.0.0.1", broker.port), timeout=WAIT_S) as plain:
        if context is None:
            plain.sendall(connect_packet)
            return plain.recv(4)
        with context.wrap_socket(plain, server_hostname="localhost") as secure:
            secure.sendall(connect_packet)
            return secure.recv(4)


def _context(broker):
    return ssl.create_default_context(cafile=str(broker.authority / "ca.crt"))


def test_a_known_client_is_greeted(broker):
    context = _context(broker)
    context.load_cert_chain(broker.authority / "cam-1.crt", broker.authority / "cam-1.key")
    assert _hello(broker, context) == bytes.fromhex("20020000")


def test_a_client_without_a_certificate_is_refused(broker):
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _hello(broker, _context(broker))


def test_a_certificate_of_another_authority_is_refused(broker, certificates, tmp_path):
    for arguments in (("ca", str(tmp_path)), ("client", str(tmp_path), "cam-1")):
        assert certificates(*arguments).returncode == 0
    context = _context(broker)
    context.load_cert_chain(tmp_path / "cam-1.crt", tmp_path / "cam-1.key")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _hello(broker, context)


def test_a_client_without_tls_is_refused(broker):
    try:
        answer = _hello(broker, None)
    except ConnectionError:
        answer = b""
    assert answer[:1] != b"\x20"
