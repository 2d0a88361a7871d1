from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from click.testing import CliRunner

from driftpost_sync import broker as broker_module
from driftpost_sync.broker import EmbeddedBroker, broker
from driftpost_sync.errors import BrokerUnavailable
from mosquitto import free_port
from wire import World, wait_until

pytest.importorskip("amqtt", reason="the extra 'broker' is not installed")


_COMMAND = "from driftpost_sync.broker import broker; broker()"


@pytest.fixture
def embedded() -> Iterator[EmbeddedBroker]:
    running = EmbeddedBroker()
    running.start()
    yield running
    assert running.stop(), "the broker did not end in time"


@pytest.fixture
def small_world(embedded: EmbeddedBroker) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(embedded, stack)


def test_the_link_falls_back_to_3_1_1_and_delivers_everything_once(small_world):
    aggregator = small_world.aggregator()
    device = small_world.device()
    device.record(300)
    wait_until(lambda: len(aggregator.committed) == 300, "all committed")
    wait_until(lambda: device.pending() == 0, "all acknowledged")
    assert device.link.status().protocol == "3.1.1"
    assert aggregator.link.status().protocol == "3.1.1"
    assert aggregator.presence["device-1"].attributes == {"site": "a"}


def test_presence_is_retained_for_an_aggregator_that_comes_later(small_world):
    device = small_world.device()
    wait_until(lambda: device.link.status().connected, "device connected")
    aggregator = small_world.aggregator()
    wait_until(lambda: "device-1" in aggregator.presence, "presence read")
    assert aggregator.presence["device-1"].online


def test_the_will_of_a_device_that_vanishes_is_delivered(small_world):
    aggregator = small_world.aggregator()
    device = small_world.device()
    wait_until(lambda: "device-1" in aggregator.presence, "presence read")
    # A cut cable: the socket goes without a goodbye.
    sock = device.link._line._connection._client.socket()
    device.exit.set()
    sock.shutdown(socket.SHUT_RDWR)
    device.link._goodbye = lambda: None
    wait_until(lambda: not aggregator.presence["device-1"].online, "will delivered")


def test_it_survives_clients_that_speak_no_mqtt(embedded, small_world):
    for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x10\xff\xff\xff\xff\xff", b"\x10\x02\x00\x00"):
        with socket.create_connection((embedded.host, embedded.port), timeout=2) as client:
            client.sendall(garbage)
    aggregator = small_world.aggregator()
    small_world.device().record(3)
    wait_until(lambda: len(aggregator.committed) == 3, "all committed")


def test_credentials_are_asked_for_where_they_are_set(tmp_path):
    running = EmbeddedBroker(username="device", password="right")
    running.start()
    try:
        right, wrong = tmp_path / "right", tmp_path / "wrong"
        right.write_text("right\n")
        wrong.write_text("wrong\n")
        with ExitStack() as stack:
            world = World(running, stack)
            good = world.device("good", settings={"username": "device", "password_file": right})
            bad = world.device("bad", settings={"username": "device", "password_file": wrong})
            wait_until(lambda: good.link.status().connected, "the right password connects")
            wait_until(lambda: bad.link.status().last_error != "", "the wrong one is refused")
            assert not bad.link.status().connected
    finally:
        running.stop()


def test_an_address_open_to_others_needs_credentials():
    with pytest.raises(BrokerUnavailable, match="anyone could connect"):
        EmbeddedBroker("0.0.0.0", 1883)


def test_a_port_in_use_is_a_clear_error(embedded):
    second = EmbeddedBroker(port=embedded.port)
    with pytest.raises(BrokerUnavailable, match=f"cannot listen on 127.0.0.1:{embedded.port}"):
        second.start()


def test_without_the_extra_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr(broker_module.importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(broker, ["run", "--port", "0"])
    assert isinstance(result.exception, BrokerUnavailable)
    assert "pip install 'driftpost[broker]'" in str(result.exception)


def test_the_command_warns_what_it_is_for_and_ends_on_sigterm():
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _COMMAND, "run", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        assert process.stdout is not None
        assert f"127.0.0.1:{port}" in process.stdout.readline()
        assert "demos and trials" in process.stdout.readline()
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            pass
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
        assert process.returncode == 0
        assert errors == ""
    finally:
        process.kill()
        process.communicate()
