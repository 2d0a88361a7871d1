from __future__ import annotations

import socket
import threading
import time

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from driftpost_sync.connection import Subscribed
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.host_link import MAX_ANSWERS, MAX_QUEUED, HostLink
from driftpost_sync.messages import Ack, HostPresence
from driftpost_sync.mqtt_settings import MqttSettings
from driftpost_sync.topics import Identity, host_state
from mosquitto import needs_mosquitto
from wire import CLOCK, World, wait_until

pytestmark = needs_mosquitto


def make_host(world: World, **changes) -> HostLink:
    return HostLink(
        world.settings(**changes.pop("settings", {})),
        world.fleet,
        client_id=changes.pop("client_id", f"{world.fleet}-host"),
        clock=CLOCK,
        wall_ms=lambda: time.time_ns() // 1_000_000,
        exit_event=threading.Event(),
        **changes,
    )


@pytest.fixture
def flood(world):
    """A client that publishes as fast as it can on a device's topic."""
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect(world.broker.host, world.broker.port)
    client.loop_start()
    yield lambda count, size=10: [
        client.publish(Identity(world.fleet, "device-1").up, str(index).encode().ljust(size), qos=1)
        for index in range(count)
    ]
    client.disconnect()
    client.loop_stop()
    client.__del__()


def test_a_busy_aggregator_holds_the_broker_back_and_loses_nothing(world, flood):
    host = make_host(world)
    host.start()
    wait_until(lambda: host.status().connected, "connected")
    infos = flood(MAX_QUEUED + 300)
    infos[-1].wait_for_publish(10)
    wait_until(lambda: host.status().queued == MAX_QUEUED, "full")
    time.sleep(0.2)
    assert host.status().received == MAX_QUEUED
    seen = []
    while len(seen) < MAX_QUEUED + 300:
        taken = host.take(100, 5.0)
        assert taken, "nothing came any more"
        assert len(taken) <= 100
        seen += [delivery.payload for delivery in taken]
        host.done(taken)
    assert sorted(set(seen)) == sorted(str(index).encode().ljust(10) for index in range(MAX_QUEUED + 300))
    wait_until(lambda: host.status().queued == 0, "all done")
    assert host.stop()


def test_what_was_not_done_comes_again_to_the_next_life(world, flood):
    host = make_host(world)
    host.start()
    wait_until(lambda: host.status().connected, "connected")
    flood(20)[-1].wait_for_publish(10)
    wait_until(lambda: host.status().received == 20, "received")
    first = host.take(5, 1.0)
    host.done(first)
    wait_until(lambda: host.status().queued == 15, "five are done")
    assert host.stop()
    again = make_host(world)
    again.start()
    wait_until(lambda: again.status().received == 15, "delivered again")
    assert {one.payload for one in again.take(20, 1.0)} == {str(n).encode().ljust(10) for n in range(5, 20)}
    assert again.stop()


def test_what_the_ingest_has_in_hand_while_the_broker_dies_may_be_given_back(own_world):
    host = make_host(own_world)
    host.start()
    wait_until(lambda: host.status().connected, "connected")
    device = own_world.device()
    device.record(1)
    (delivery,) = host.take(1, 5.0)
    own_world.broker.kill()
    wait_until(lambda: not host.status().connected, "noticed")
    own_world.broker.restart()
    wait_until(lambda: host.status().connected, "connected again")
    host.done([delivery])
    device.link.wake()
    assert host.take(10, 5.0), "the device sends again"
    assert host.stop()


def test_two_workers_share_the_work_and_one_may_die(world):
    one = world.aggregator(client_id=f"{world.fleet}-1", group="workers")
    two = world.aggregator(client_id=f"{world.fleet}-2", group="workers")
    wait_until(lambda: one.link.status().connected and two.link.status().connected, "both connected")
    devices = [world.device(f"device-{n}", settings={"message_bytes": 1024}) for n in range(4)]
    for device in devices:
        device.record(100)
    wait_until(lambda: len(one.committed) > 20 and len(two.committed) > 20, "both work")
    one.close()
    for device in devices:
        device.record(20)
    wait_until(lambda: all(device.pending() == 0 for device in devices), "all acknowledged", 30)
    assert len(set(one.committed) | set(two.committed)) == 480


def test_the_goodbye_of_one_worker_does_not_speak_for_the_others(world):
    one = world.aggregator(client_id=f"{world.fleet}-1", group="workers")
    two = world.aggregator(client_id=f"{world.fleet}-2", group="workers")
    device = world.device()
    wait_until(lambda: device.link.status().host_online is True, "online")
    two.link._birth_ms = None
    one.close()
    wait_until(lambda: device.link.status().host_online is True, "online again")
    device.record(5)
    wait_until(lambda: device.pending() == 0, "acknowledged")
    assert two.committed


def test_hostile_messages_reach_the_ingest_as_they_are_and_nothing_breaks(world):
    aggregator = world.aggregator()
    wait_until(lambda: aggregator.link.status().connected, "connected")
    device = world.device()
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect(world.broker.host, world.broker.port)
    client.loop_start()
    hostile = [b"", b"\xff" * 1000, b"\x91" * 60_000, b"\x00" * 300_000, b"\x81\xa1v\x09"]
    for payload in hostile:
        client.publish(device.identity.up, payload, qos=1).wait_for_publish(5)
    client.publish(f"driftpost/v1/{world.fleet}/-bad-/up", b"x", qos=1).wait_for_publish(5)
    client.publish(host_state(world.fleet), b"nonsense", qos=1, retain=True).wait_for_publish(5)
    client.disconnect()
    client.loop_stop()
    client.__del__()
    # The one of 300 kB is beyond the packet size we grant: the broker keeps it from us.
    wait_until(lambda: len(aggregator.malformed) == len(hostile) - 1 + 1, "refused one by one")
    device.record(3)
    wait_until(lambda: device.pending() == 0, "acknowledged")
    wait_until(lambda: device.link.status().host_online is True, "the state was set right")


def test_answers_that_find_no_room_are_refused_and_counted(world):
    host = make_host(world, settings={"port": 1})
    ack = Ack(1, ((1, 1),))
    assert all(host.answer("device-1", ack) for _ in range(MAX_ANSWERS))
    assert not host.answer("device-1", ack)
    with pytest.raises(MalformedMessage):
        host.answer("no/such", ack)
    with pytest.raises(MalformedMessage, match="no device reads more than"):
        host.answer("device-1", Ack(1, tuple((1 << 40, 1 << 41) for _ in range(5000))))
    host.start()
    assert host.stop()
    assert host.status().answers_dropped == 1


def test_answers_given_while_the_broker_is_away_are_sent_later(own_world):
    own_world.broker.kill()
    host = make_host(own_world)
    host.start()
    device = own_world.device()
    host.answer("device-1", Ack(device.box.incarnation, wanted=("ledger",)))
    own_world.broker.restart()
    wait_until(lambda: device.link.status().connected, "connected")
    host.answer("device-1", Ack(device.box.incarnation, wanted=("describe",)))
    wait_until(lambda: "describe" in device.wanted, "asked")
    assert host.stop()


def test_a_worker_that_vanishes_leaves_word(world):
    words = []
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _c, _d, message: words.append(HostPresence.from_bytes(message.payload).online)
    client.connect(world.broker.host, world.broker.port)
    client.subscribe(host_state(world.fleet), 1)
    client.loop_start()
    host = make_host(world, settings={"protocol": "3.1.1"})
    host.start()
    wait_until(lambda: words == [True], "announced")
    host._announce = lambda online: None
    host._exit.set()
    host._line._connection._client.socket().shutdown(socket.SHUT_RDWR)
    wait_until(lambda: words == [True, False], "the will was published")
    host.stop()
    client.disconnect()
    client.loop_stop()
    client.__del__()


def test_a_broker_that_refuses_the_subscription_is_reported(world):
    host = make_host(world)
    host.start()
    wait_until(lambda: host.status().connected, "connected")
    # Mosquitto grants what it will never deliver, so the refusal is put in its mouth.
    line_step = host._line.step
    answers = iter([[Subscribed((f"driftpost/v1/{world.fleet}/+/up",))]])
    host._line.step = lambda timeout_s, **options: next(answers, None) or line_step(timeout_s, **options)
    wait_until(lambda: "does not let the aggregator read" in host.status().last_error, "reported")
    wait_until(lambda: host.status().connects == 2, "tried again")
    assert host.stop()


def test_without_a_broker_it_ends_in_time():
    host = HostLink(
        MqttSettings(port=1, reconnect_min_s=0.05, reconnect_max_s=0.1),
        "test",
        client_id="host",
        clock=CLOCK,
        wall_ms=lambda: 0,
        exit_event=threading.Event(),
    )
    host.start()
    wait_until(lambda: host.status().last_error != "", "an error")
    started = time.monotonic()
    assert host.take(1, 0.1) == []
    assert host.stop()
    assert time.monotonic() - started < 2.5


def test_before_its_first_round_a_link_does_not_look_as_if_it_had_stood_still_since_the_boot(world):
    link = make_host(world)
    assert CLOCK.mono_ms() - link.status().round_mono < 10_000
    assert link.stop()
