from __future__ import annotations

import os
import random
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from certificates import write_authority, write_certificate
from driftpost_sync.clock import boot_id
from driftpost_sync.errors import LinkError
from driftpost_sync.link import Link
from driftpost_sync.messages import Ack, Command, HostPresence, Presence
from driftpost_sync.mqtt_settings import MqttSettings
from driftpost_sync.outbox import Outbox
from driftpost_sync.topics import Identity, host_state
from mosquitto import free_port, needs_mosquitto, running_mosquitto
from wire import CLOCK, World, wait_until

pytestmark = needs_mosquitto


@contextmanager
def stranger(world: World) -> Iterator[Client]:
    """A client that publishes whatever it likes."""
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect(world.broker.host, world.broker.port)
    client.loop_start()
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()
        client.__del__()


def settled(device) -> bool:
    return device.pending() == 0


def assert_balanced(device, windows: int) -> None:
    with device.outbox() as outbox:
        total = outbox.total()
    assert total.balanced
    assert total.recorded.windows == windows


def test_what_is_recorded_arrives_once_and_leaves_the_outbox(world):
    aggregator = world.aggregator()
    device = world.device()
    device.record(100)
    wait_until(lambda: settled(device), "all acknowledged")
    assert len(aggregator.committed) == 100
    assert aggregator.copies == 0
    assert_balanced(device, 100)
    status = device.link.status()
    assert (status.connected, status.protocol, status.trouble) == (True, "5", "")
    wait_until(lambda: device.link.status().acked_messages == 100, "shown in the status")
    assert device.link.status().in_flight_messages == 0
    assert aggregator.presence["device-1"] == Presence(
        True, device.box.incarnation, "0.1.0", attributes={"site": "a"}
    )


def test_3_1_1_alone_does_as_well(world):
    aggregator = world.aggregator(settings={"protocol": "3.1.1"})
    device = world.device(settings={"protocol": "3.1.1"})
    device.record(500)
    wait_until(lambda: settled(device), "all acknowledged")
    assert len(aggregator.committed) == 500
    assert device.link.status().protocol == "3.1.1"


def test_what_was_recorded_before_the_link_came_up_is_historical_and_newest_first(world):
    aggregator = world.aggregator()
    device = world.device(start=False, settings={"message_bytes": 1024})
    device.record(20)
    device.link.start()
    wait_until(lambda: settled(device), "the backlog is acknowledged")
    assert all(envelope.historical for envelope in aggregator.envelopes)
    order = [item.seq for envelope in aggregator.envelopes for item in envelope.items]
    assert order == list(range(20, 0, -1))
    device.record(1)
    wait_until(lambda: settled(device), "the live row is acknowledged")
    assert not aggregator.envelopes[-1].historical


def test_a_silent_aggregator_is_probed_and_nothing_is_lost_or_counted_twice(world):
    aggregator = world.aggregator()
    device = world.device(settings={"ack_timeout_s": 0.2})
    aggregator.silent = True
    device.record(50)
    wait_until(lambda: device.link.status().resent_messages > 0, "sent again")
    wait_until(lambda: "does not answer" in device.link.status().trouble, "the status says so")
    assert device.pending() == 50
    assert device.link.status().in_flight_messages <= 1
    aggregator.silent = False
    wait_until(lambda: settled(device), "all acknowledged")
    assert len(aggregator.committed) == 50
    assert device.link.status().trouble == ""


def test_what_is_recorded_while_the_aggregator_is_silent_stays_free_to_be_merged(world):
    aggregator = world.aggregator()
    device = world.device(settings={"ack_timeout_s": 0.2, "message_bytes": 1024})
    device.record(1)
    wait_until(lambda: settled(device), "the first is acknowledged")
    aggregator.silent = True
    device.record(20)
    wait_until(lambda: "does not answer" in device.link.status().trouble, "the status says so")
    device.record(200)
    probes = device.link.status().sent_messages
    wait_until(lambda: device.link.status().sent_messages > probes + 3, "probed again and again")
    ((free,),) = device.query("SELECT count(*) FROM messages WHERE state = 'pending' AND sent = 0")
    assert free >= 200, "probes repeat what had left before, so that the rest may still become coarser"
    aggregator.silent = False
    wait_until(lambda: settled(device), "all acknowledged")
    assert len(aggregator.committed) == 221
    device.record(1)
    wait_until(lambda: settled(device), "live again")
    assert_balanced(device, 222)


def test_lost_answers_make_duplicates_that_are_committed_once(world):
    aggregator = world.aggregator()
    device = world.device(settings={"ack_timeout_s": 0.2, "message_bytes": 1024})
    answer, lost = aggregator.link.answer, []

    def forgetful(name, message):
        if len(lost) < 5:
            lost.append(message)
            return True
        return answer(name, message)

    aggregator.link.answer = forgetful
    device.record(40)
    wait_until(lambda: settled(device), "all acknowledged")
    assert len(aggregator.committed) == 40
    assert aggregator.copies > 0
    assert_balanced(device, 40)


def test_a_broker_killed_in_mid_drain_loses_nothing(own_world):
    aggregator = own_world.aggregator()
    device = own_world.device(settings={"message_bytes": 1024})
    recorded = 0
    for _ in range(3):
        device.record(300)
        recorded += 300
        enough = recorded - 250
        wait_until(lambda enough=enough: len(aggregator.committed) > enough, "in mid-drain")
        own_world.broker.kill()
        device.record(20)
        recorded += 20
        wait_until(lambda: not device.link.status().connected, "noticed")
        own_world.broker.restart()
    wait_until(lambda: settled(device), "all acknowledged", 30)
    assert len(aggregator.committed) == recorded
    assert device.link.status().connects >= 4
    assert_balanced(device, recorded)


def test_an_aggregator_restarted_in_mid_drain_loses_nothing(world):
    device = world.device(settings={"message_bytes": 1024})
    committed = set()
    for _ in range(3):
        aggregator = world.aggregator()
        device.record(200)
        wait_until(lambda aggregator=aggregator: len(aggregator.committed) > 20, "in mid-drain")
        aggregator.close()
        committed |= set(aggregator.committed)
    last = world.aggregator()
    wait_until(lambda: settled(device), "all acknowledged", 30)
    assert len(committed | set(last.committed)) == 600
    assert_balanced(device, 600)


def test_a_device_that_dies_sends_the_rest_under_its_old_incarnation(world, tmp_path):
    aggregator = world.aggregator()
    aggregator.silent = True
    first = world.device(path=tmp_path / "a.db", seed=1)
    first.record(30)
    wait_until(lambda: len(aggregator.envelopes) > 0, "something was sent")
    first.die()
    aggregator.silent = False
    second = world.device(path=tmp_path / "a.db", seed=2)
    second.record(5)
    wait_until(lambda: settled(second), "all acknowledged")
    assert {key[1] for key in aggregator.committed} == {first.box.incarnation, second.box.incarnation}
    assert len(aggregator.committed) == 35
    old = [one for one in aggregator.envelopes if one.incarnation == first.box.incarnation]
    assert old[-1].historical
    assert old[-1].mono is not None, "the same boot: its times still compare"
    assert_balanced(second, 35)


def test_times_of_an_earlier_boot_are_not_offered_for_comparison(world, tmp_path):
    aggregator = world.aggregator()
    first = world.device(path=tmp_path / "a.db", start=False)
    first.record(1)
    first.db.execute("UPDATE incarnations SET boot = 'an earlier boot'")
    first.close()
    second = world.device(path=tmp_path / "a.db", seed=2)
    wait_until(lambda: settled(second), "all acknowledged")
    assert aggregator.envelopes[0].mono is None
    assert boot_id() != "an earlier boot"


def test_a_refused_message_is_quarantined_with_the_reason(world):
    aggregator = world.aggregator()
    aggregator.refuse = {2: "schema unknown"}
    device = world.device()
    device.record(3)
    wait_until(lambda: settled(device), "settled")
    assert len(aggregator.committed) == 2
    rows = device.query("SELECT seq, reason FROM messages JOIN quarantine USING (id)")
    assert rows == [(2, "refused by the aggregator: schema unknown")]
    # The store is settled a moment before the link has counted it.
    wait_until(lambda: device.link.status().refused_messages == 1, "counted")
    assert_balanced(device, 3)


def test_what_the_aggregator_wants_reaches_the_agent_and_a_birth_is_sent_again(world):
    aggregator = world.aggregator()
    device = world.device()
    wait_until(lambda: "device-1" in aggregator.presence, "born")
    del aggregator.presence["device-1"]
    device.link._birth_ms = None  # the last one is long ago
    aggregator.want = ("ledger", "describe:b1", "birth")
    device.record(1)
    wait_until(lambda: device.wanted == ["ledger", "describe:b1"], "asked")
    wait_until(lambda: "device-1" in aggregator.presence, "born again")


def test_a_command_reaches_the_agent(world):
    aggregator = world.aggregator()
    device = world.device()
    wait_until(lambda: "device-1" in aggregator.presence, "born")
    command = Command("c-1", "activate", {"bundle": "b"}, b"s" * 64)
    assert aggregator.link.answer("device-1", command)
    wait_until(lambda: device.commands == [command], "the command arrived")


def test_a_changed_presence_is_announced(world):
    aggregator = world.aggregator()
    device = world.device()
    wait_until(lambda: "device-1" in aggregator.presence, "born")
    device.presence = Presence(True, device.box.incarnation, "0.1.0", bundle="b2")
    device.link._birth_ms = None  # the last one is long ago
    device.link.announce()
    wait_until(lambda: aggregator.presence["device-1"].bundle == "b2", "announced")


def test_an_orderly_end_says_goodbye(world):
    aggregator = world.aggregator()
    device = world.device()
    wait_until(lambda: aggregator.presence.get("device-1") is not None, "born")
    device.close()
    wait_until(lambda: not aggregator.presence["device-1"].online, "gone")
    assert aggregator.presence["device-1"].incarnation == device.box.incarnation


def test_a_false_goodbye_in_its_name_is_corrected(world):
    aggregator = world.aggregator()
    device = world.device()
    wait_until(lambda: aggregator.presence.get("device-1") is not None, "born")
    device.link._birth_ms = None
    with stranger(world) as client:
        ended = Presence(False, device.box.incarnation, "0.1.0").to_bytes()
        client.publish(device.identity.state, ended, qos=1, retain=True).wait_for_publish(5)
    wait_until(lambda: aggregator.presence["device-1"].online, "corrected")


def test_hostile_messages_to_a_device_are_counted_and_change_nothing(world):
    aggregator = world.aggregator()
    device = world.device()
    aggregator.silent = True
    device.record(3)
    wait_until(lambda: device.link.status().connected, "connected")
    incarnation = device.box.incarnation
    hostile = [
        b"",
        b"\xff" * 5000,
        b"\x81\xa1v\x02",
        os.urandom(80_000),
        Ack(incarnation, ((1, 2),)).to_bytes()[:-1],
    ]
    harmless = [
        Ack(incarnation, ((4, 1 << 50),), ((999, "?"),), ("nonsense",)).to_bytes(),
        Ack(incarnation ^ 1, ((1, 3),)).to_bytes(),
        b"\x82\xa1v\x01\xa1t\xa5newer",
    ]
    with stranger(world) as client:
        for payload in hostile + harmless:
            client.publish(device.identity.down, payload, qos=1).wait_for_publish(5)
        client.publish(host_state(world.fleet), b"\x00", qos=1).wait_for_publish(5)
        client.publish(device.identity.state, b"\x00", qos=1).wait_for_publish(5)
    # The largest one is above our packet limit: the broker keeps it from us.
    wait_until(lambda: device.link.status().malformed == len(hostile) - 1 + 2, "counted")
    assert device.pending() == 3
    aggregator.silent = False
    wait_until(lambda: settled(device), "all acknowledged")


def test_an_aggregator_that_says_goodbye_is_waited_for(world):
    aggregator = world.aggregator()
    device = world.device()
    device.record(1)
    wait_until(lambda: settled(device), "acknowledged")
    aggregator.close()
    wait_until(lambda: device.link.status().host_online is False, "goodbye seen")
    device.record(10)
    wait_until(lambda: device.link.status().trouble == "the aggregator is offline", "says why")
    assert device.link.status().sent_messages == 1
    again = world.aggregator()
    wait_until(lambda: settled(device), "drained")
    assert len(again.committed) == 10


def test_without_any_aggregator_the_broker_says_that_nobody_listens(world):
    device = world.device()
    device.record(2)
    wait_until(lambda: device.link.status().trouble == "no aggregator is subscribed", "told")
    assert device.pending() == 2
    world.aggregator()
    wait_until(lambda: settled(device), "drained")


@pytest.mark.parametrize(
    ("setting", "quarantined"),
    [
        ("max_packet_size 3000", True),  # said in the CONNACK, as MQTT 5 has it
        ("message_size_limit 3000", False),  # Mosquitto's older setting: it only cuts the connection
    ],
)
def test_messages_too_large_for_the_broker_are_split_and_one_that_can_not_be_is_kept(setting, quarantined):
    with running_mosquitto(setting) as broker, ExitStack() as stack:
        world = World(broker, stack)
        aggregator = world.aggregator()
        device = world.device(start=False)
        device.record(40, size=400)
        device.record(1, size=5000)
        device.link.start()
        wait_until(lambda: len(aggregator.committed) == 40, "the others are committed")
        wait_until(lambda: device.pending() == (0 if quarantined else 1), "the large one is kept")
        reasons = [row[0] for row in device.query("SELECT reason FROM quarantine")]
        assert reasons == (["the broker takes at most 3000 bytes"] if quarantined else [])
        assert_balanced(device, 41)


def test_a_device_that_may_not_publish_keeps_everything_and_says_why(tmp_path):
    acl = tmp_path / "acl"
    acl.write_text("topic read driftpost/#\ntopic write driftpost/v1/+/+/state\n")
    with running_mosquitto(f"acl_file {acl}") as broker, ExitStack() as stack:
        device = World(broker, stack).device()
        device.record(3)
        wait_until(lambda: "access rules" in device.link.status().trouble, "says why")
        assert device.pending() == 3
        assert device.link.status().connected


def test_a_password_file_is_read_again_at_each_connect(tmp_path):
    users, password = tmp_path / "users", tmp_path / "password"
    users.write_text("")
    users.chmod(0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(users), "pi", "right"], check=True, capture_output=True)
    password.write_text("wrong\n")
    extra = f"allow_anonymous false\npassword_file {users}"
    with running_mosquitto(extra) as broker, ExitStack() as stack:
        device = World(broker, stack).device(settings={"username": "pi", "password_file": password})
        wait_until(lambda: "refused" in device.link.status().last_error, "refused")
        assert not device.link.status().connected
        password.write_text("right\n")
        wait_until(lambda: device.link.status().connected, "connected")


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_twin_with_the_same_identity_is_noticed(world, version):
    options = {"settings": {"protocol": version, "reconnect_max_s": 30.0}}
    first = world.device("same", seed=1, **options)
    wait_until(lambda: first.link.status().connected, "the first connects")
    second = world.device("same", seed=2, settings=dict(options["settings"]))
    # A broker need not say 0x8E: whoever takes the connection back sees the other's birth on its own topic.
    wait_until(lambda: first.link.status().twins + second.link.status().twins > 0, "one notices")
    noticed = max(first, second, key=lambda device: device.link.status().twins)
    assert "two devices with one name" in noticed.link.status().last_error
    time.sleep(0.3)
    assert first.link.status().connects + second.link.status().connects < 8, "they do not fight"


def test_tls_with_the_right_authority_works_and_with_a_wrong_one_says_so(tmp_path):
    authority = write_authority(tmp_path / "ca", "the fleet's authority")
    wrong = write_authority(tmp_path / "other", "another authority")
    server = write_certificate(tmp_path / "server", authority, "localhost", server=True)
    client = write_certificate(tmp_path / "client", authority, "pi", server=False)
    extra = (
        f"listener {{port}} 127.0.0.1\ncafile {authority.certificate}\ncertfile {server.certificate}\n"
        f"keyfile {server.key}\nrequire_certificate true\n"
    )
    with running_mosquitto(extra) as broker, ExitStack() as stack:
        broker.host = "localhost"
        world = World(broker, stack)
        good = {"ca": authority.certificate, "cert": client.certificate, "key": client.key}
        aggregator = world.aggregator(settings=good)
        device = world.device(settings=good)
        device.record(200)
        wait_until(lambda: settled(device), "acknowledged")
        assert len(aggregator.committed) == 200
        deceived = world.device("deceived", settings={**good, "ca": wrong.certificate})
        wait_until(lambda: "certificate refused" in deceived.link.status().last_error, "refused")
        nameless = world.device("nameless", settings={"ca": authority.certificate})
        wait_until(lambda: nameless.link.status().last_error != "", "refused without a certificate")
        assert not nameless.link.status().connected


def make_link(settings: MqttSettings, provider, exit_event=None) -> Link:
    return Link(
        settings,
        Identity("test", "device-1"),
        provider,
        lambda: Presence(True, 1 << 32, "0.1.0"),
        on_command=lambda command: None,
        on_request=lambda request: None,
        on_wanted=lambda wanted: None,
        clock=CLOCK,
        exit_event=exit_event or threading.Event(),
        random=random.Random(1),
    )


def test_files_that_are_missing_are_known_before_the_start(tmp_path):
    for changes, expected in (
        ({"username": "x", "password_file": tmp_path / "no"}, "mqtt.password_file .*no can not be read"),
        ({"ca": tmp_path / "no"}, "mqtt.ca .*no is no readable PEM"),
        ({"cert": tmp_path / "no", "key": tmp_path / "no"}, "mqtt.cert .*no and mqtt.key"),
    ):
        with pytest.raises(LinkError, match=expected):
            make_link(MqttSettings(**changes), None)


@contextmanager
def fake_broker(behave) -> Iterator[int]:
    """Accepts connections and treats each with `behave`."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        ended = threading.Event()
        clients: list[socket.socket] = []

        def accept() -> None:
            while not ended.is_set():
                try:
                    client, _ = server.accept()
                except TimeoutError:
                    continue
                clients.append(client)
                behave(client)

        thread = threading.Thread(target=accept, name="fake-broker")
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            thread.join()
            for client in clients:
                client.close()


CONNACK = b"\x20\x03\x00\x00\x00"
FAST = {"reconnect_min_s": 0.05, "reconnect_max_s": 0.1, "connect_timeout_s": 0.2}


@pytest.mark.parametrize(
    ("name", "behave", "expected"),
    [
        ("silent", lambda client: None, "does not answer"),
        ("hangs up", lambda client: client.close(), "hung up without an answer"),
        ("sends garbage", lambda client: client.sendall(b"\xff" * 100), ""),
        ("speaks HTTP", lambda client: client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), ""),
        ("malformed CONNACK", lambda client: client.sendall(b"\x20\x03\x00\x00\xff"), ""),
        ("empty CONNACK", lambda client: client.sendall(b"\x20\x00"), ""),
        ("message before CONNACK", lambda client: client.sendall(b"\x30\x03\x00\x01a"), ""),
        ("PUBACK for nothing", lambda client: client.sendall(CONNACK + b"\x40\x02\x00\x63"), ""),
        (
            "DISCONNECT",
            lambda client: client.sendall(b"\x20\x03\x00\x00\x00\xe0\x02\x9c\x00"),
            "nother server",
        ),
        ("twin", lambda client: client.sendall(b"\x20\x03\x00\x00\x00\xe0\x02\x8e\x00"), "taken over"),
        ("huge packet", lambda client: client.sendall(CONNACK + b"\x30\xff\xff\xff\x7f"), None),
    ],
)
def test_a_port_that_speaks_no_proper_mqtt_is_reported_and_left_in_time(name, behave, expected):
    with fake_broker(behave) as port:
        link = make_link(MqttSettings(port=port, **FAST), Empty().provider)
        link.start()
        if expected is None:
            wait_until(lambda: link.status().connects > 0, "connected")
        else:
            wait_until(lambda: link.status().last_error != "", "an error")
            wait_until(lambda: expected in link.status().last_error, "the right error")
        started = time.monotonic()
        assert link.stop()
        assert time.monotonic() - started < 2.5


def test_a_closed_port_and_an_unknown_name_are_reported_in_words():
    for settings, expected in (
        (MqttSettings(port=free_port(), **FAST), "Connection refused"),
        (MqttSettings(host="no-such-host.invalid", **FAST), "name not found"),
    ):
        link = make_link(settings, Empty().provider)
        link.start()
        wait_until(lambda link=link: link.status().last_error != "", "an error", 30)
        assert expected in link.status().last_error
        assert link.status().trouble == link.status().last_error
        assert link.stop(20)


class Empty:
    """An outbox provider over an empty store."""

    def __init__(self) -> None:
        self.box = Outbox(sqlite3.connect(":memory:"), 1 << 32, 1, "")
        self.box._db.close()
        self.box.next_batch = lambda *args, **options: None
        self.box.settle = lambda: None

    @contextmanager
    def provider(self) -> Iterator[Outbox]:
        yield self.box


def test_a_store_that_fails_is_left_alone_for_a_while_and_then_drained(world, monkeypatch):
    monkeypatch.setattr("driftpost_sync.link._STORE_PAUSE_MS", 100)
    aggregator = world.aggregator()
    device = world.device(start=False)
    device.record(3)
    working, broken = device.outbox, threading.Event()

    @contextmanager
    def failing():
        if broken.is_set():
            raise sqlite3.OperationalError("database or disk is full")
        with working() as outbox:
            yield outbox

    device.link._outbox = failing
    broken.set()
    device.link.start()
    time.sleep(0.2)
    broken.clear()
    wait_until(lambda: settled(device), "drained")
    broken.set()
    device.link.wake()
    wait_until(lambda: "disk is full" in device.link.status().trouble, "says why")
    broken.clear()
    device.record(2)
    wait_until(lambda: settled(device), "drained again")
    assert len(aggregator.committed) == 5
    assert device.link.status().trouble == ""


def test_a_callback_that_fails_does_not_end_the_link(world):
    aggregator = world.aggregator()
    device = world.device()
    wait_until(lambda: "device-1" in aggregator.presence, "born")
    device.link._on_command = lambda command: 1 / 0
    aggregator.link.answer("device-1", Command("c", "n"))
    wait_until(lambda: "internal error" in device.link.status().last_error, "reported")
    device.record(1)
    wait_until(lambda: settled(device), "acknowledged")


def test_the_loop_comes_round_while_nothing_happens(world):
    device = world.device()
    wait_until(lambda: device.link.status().connected, "connected")
    seen = device.link.status().round_mono
    wait_until(lambda: device.link.status().round_mono > seen, "another round", 3)


def test_stopping_before_starting_is_fine():
    link = make_link(MqttSettings(), Empty().provider)
    assert link.stop()


def test_the_hosts_presence_tells_the_time_it_was_said(world):
    seen = []
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: seen.append(HostPresence.from_bytes(message.payload))
    client.connect(world.broker.host, world.broker.port)
    client.subscribe(host_state(world.fleet), 1)
    client.loop_start()
    aggregator = world.aggregator()
    wait_until(lambda: bool(seen), "announced")
    assert seen[0].online
    assert abs(seen[0].wall - time.time() * 1000) < 10_000
    aggregator.close()
    wait_until(lambda: not seen[-1].online, "goodbye")
    client.disconnect()
    client.loop_stop()
    client.__del__()
