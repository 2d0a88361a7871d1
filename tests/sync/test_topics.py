from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftpost_sync import topics
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.topics import Identity

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)


@given(NAMES, NAMES)
def test_every_topic_of_a_device_parses_back(fleet, device):
    identity = Identity(fleet, device)
    for channel in ("up", "down", "state"):
        address = topics.parse(getattr(identity, channel))
        assert (address.fleet, address.device, address.channel) == (fleet, device, channel)
        assert not address.is_aggregator


def test_the_aggregators_own_state_parses():
    address = topics.parse(topics.host_state("f"))
    assert address.is_aggregator
    assert topics.host_state("f") == "driftpost/v1/f/_aggregator/state"


@pytest.mark.parametrize(
    "name", ["", "_x", "-x", ".x", "a/b", "a+b", "#", "a b", "ä", "a\n", "a" * 64, "$x", "a\0"]
)
def test_a_name_that_could_be_misread_in_a_topic_is_refused(name):
    with pytest.raises(MalformedMessage):
        Identity("fleet", name)
    with pytest.raises(MalformedMessage):
        Identity(name, "device")
    with pytest.raises(MalformedMessage):
        topics.every_up(name)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "driftpost",
        "driftpost/v2/f/d/up",
        "other/v1/f/d/up",
        "driftpost/v1/f/d",
        "driftpost/v1/f/d/up/x",
        "driftpost/v1/f/d/sideways",
        "driftpost/v1/f/_aggregator/up",
        "driftpost/v1/f/_other/state",
        "driftpost/v1//d/up",
        "driftpost/v1/f/+/up",
        "driftpost/v1/_aggregator/d/up",
        "x" * 65535,
    ],
)
def test_a_foreign_topic_is_refused(topic):
    with pytest.raises(MalformedMessage):
        topics.parse(topic)


def test_client_ids_of_different_devices_differ():
    assert Identity("a.b", "c").client_id != Identity("a", "b.c").client_id


def test_filters_cover_every_device_of_one_fleet():
    assert topics.every_up("f") == "driftpost/v1/f/+/up"
    assert topics.every_state("f") == "driftpost/v1/f/+/state"
    assert topics.shared("workers", topics.every_up("f")) == "$share/workers/driftpost/v1/f/+/up"
