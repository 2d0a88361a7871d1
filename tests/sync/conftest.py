"""Brokers, and worlds of devices and aggregators on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mosquitto import Mosquitto, running_mosquitto
from wire import World


@pytest.fixture(scope="session")
def shared_mosquitto() -> Iterator[Mosquitto]:
    """For tests that leave the broker as it is; each uses a fleet of its own."""
    with running_mosquitto() as broker:
        yield broker


@pytest.fixture
def world(shared_mosquitto: Mosquitto, request: pytest.FixtureRequest) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(shared_mosquitto, stack, fleet=f"fleet-{abs(hash(request.node.nodeid)):x}")


@pytest.fixture
def own_mosquitto() -> Iterator[Mosquitto]:
    """A broker that the test may kill."""
    with running_mosquitto() as broker:
        yield broker


@pytest.fixture
def own_world(own_mosquitto: Mosquitto) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(own_mosquitto, stack)
