"""Where messages go: the topic tree, and names that are safe in it.

    driftpost/v1/{fleet}/{device}/up        device -> aggregator, QoS 1
    driftpost/v1/{fleet}/{device}/down      aggregator -> device: acknowledgements and commands, QoS 1
    driftpost/v1/{fleet}/{device}/state     retained presence of the device: birth and will, QoS 1
    driftpost/v1/{fleet}/_aggregator/retrain  retrain requests, where the owner asks for them there, QoS 1
    driftpost/v1/{fleet}/_aggregator/state  retained presence of the aggregator: birth and will, QoS 1

A broker can confine a device to its own branch by user name (`pattern readwrite driftpost/v1/F/%u/#`), which
is why no name may hold a separator, a wildcard or anything that a pattern could misread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from driftpost_sync.errors import MalformedMessage

ROOT = "driftpost/v1"
AGGREGATOR = "_aggregator"
# 63 like a DNS label; together with the fixed parts a topic stays far below MQTT's 65,535 bytes.
MAX_NAME_CHARS = 63
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)

Channel = Literal["up", "down", "state"]
_CHANNELS: dict[str, Channel] = {"up": "up", "down": "down", "state": "state"}


def check_name(name: str, what: str) -> str:
    """Return `name` if it can stand in a topic as a fleet's or a device's name.

    Raises:
        MalformedMessage: it is empty, longer than 63 characters, or holds anything but ASCII letters,
            digits, `.`, `_` and `-` (the first one a letter or a digit).
    """
    if not _NAME.fullmatch(name):
        raise MalformedMessage(
            f"{name[:80]!r} is no valid name: 1 to {MAX_NAME_CHARS} letters, digits, '.', '_' or '-', "
            "starting with a letter or digit",
            what,
        )
    return name


@dataclass(frozen=True)
class Identity:
    """Who a device is: its fleet and its name in it.

    Raises:
        MalformedMessage: a name that cannot stand in a topic.
    """

    fleet: str
    device: str

    def __post_init__(self) -> None:
        check_name(self.fleet, "fleet")
        check_name(self.device, "device")

    @property
    def up(self) -> str:
        """Topic on which the device publishes."""
        return f"{ROOT}/{self.fleet}/{self.device}/up"

    @property
    def down(self) -> str:
        """Topic on which the device is answered."""
        return f"{ROOT}/{self.fleet}/{self.device}/down"

    @property
    def state(self) -> str:
        """Topic of the device's retained presence."""
        return f"{ROOT}/{self.fleet}/{self.device}/state"

    @property
    def client_id(self) -> str:
        """MQTT client identifier; a twin with the same one is told apart by session take-over (0x8E)."""
        return f"driftpost:{self.fleet}:{self.device}"


@dataclass(frozen=True)
class Address:
    """A parsed topic. `device` is `_aggregator` for the host's own presence."""

    fleet: str
    device: str
    channel: Channel

    @property
    def is_aggregator(self) -> bool:
        """Whether this is the aggregator's own branch."""
        return self.device == AGGREGATOR


def host_state(fleet: str) -> str:
    """Topic of the aggregator's retained presence."""
    return f"{ROOT}/{check_name(fleet, 'fleet')}/{AGGREGATOR}/state"


def every_up(fleet: str) -> str:
    """Subscription filter for what all devices of a fleet send."""
    return f"{ROOT}/{check_name(fleet, 'fleet')}/+/up"


def every_state(fleet: str) -> str:
    """Subscription filter for the presence of all devices of a fleet, and the aggregator's own."""
    return f"{ROOT}/{check_name(fleet, 'fleet')}/+/state"


def shared(group: str, topic_filter: str) -> str:
    """The filter as a shared subscription: the broker spreads its messages over the group's members."""
    return f"$share/{check_name(group, 'group')}/{topic_filter}"


def parse(topic: str) -> Address:
    """Take a topic apart.

    Raises:
        MalformedMessage: it is not one of ours.
    """
    parts = topic.split("/")
    if len(parts) != 5 or f"{parts[0]}/{parts[1]}" != ROOT:
        raise MalformedMessage(f"{topic[:120]!r} is no topic of this protocol", "topic")
    fleet, device, channel = check_name(parts[2], "topic"), parts[3], _CHANNELS.get(parts[4])
    if channel is None:
        raise MalformedMessage(f"unknown channel {parts[4][:40]!r}", "topic")
    if device == AGGREGATOR:
        if channel != "state":
            raise MalformedMessage("the aggregator's branch has only a state", "topic")
    else:
        check_name(device, "topic")
    return Address(fleet, device, channel)
