from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from sqlalchemy.exc import OperationalError

from driftpost_aggregator import intake as intake_module
from driftpost_aggregator.batch import Incoming, Reply
from driftpost_aggregator.intake import Intake
from driftpost_sync.host_link import Delivery
from driftpost_sync.messages import Ack, Command

LIMIT = 10
ACK = Ack(1, ((1, 1),), (), ())


class Link:
    """A link with one message after another, which counts what is not given back."""

    def __init__(self) -> None:
        self.held = 0
        self.answered: list[str] = []

    def take(self, limit: int, timeout_s: float) -> list[Delivery]:
        self.held += 1
        return [Delivery("driftpost/v1/meters/m1/up", b"", False, 0, 1, 1, 1, 1)]

    def done(self, deliveries: Sequence[Delivery]) -> None:
        self.held -= len(deliveries)

    def answer(self, device: str, message: Ack | Command) -> bool:
        self.answered.append(device)
        return True


class Ingest:
    """Fails with each of some errors in turn, then takes everything."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def take(self, batch: Sequence[Incoming]) -> list[Reply]:
        if self.errors:
            raise self.errors.pop(0)
        return [Reply("m1", ACK) for _ in batch]


def database_down() -> OperationalError:
    return OperationalError("INSERT", {}, Exception("disk full"))


def test_what_is_committed_goes_back_to_the_link_and_is_acknowledged() -> None:
    link = Link()
    Intake(link, Ingest(), LIMIT, threading.Event()).round()
    assert (link.held, link.answered) == (0, ["m1"])


@pytest.mark.parametrize("before", [[], [database_down()]], ids=["at once", "after a retry"])
def test_deliveries_go_back_unacknowledged_whatever_fails(
    before: list[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "RETRY_S", 0.0)
    link = Link()
    ingest = Ingest(*before, ValueError("not foreseen"))
    intake = Intake(link, ingest, LIMIT, threading.Event())
    with pytest.raises(ValueError, match="not foreseen"):
        intake.round()
    assert (link.held, link.answered) == (0, [])
    intake.round()
    assert (link.held, link.answered) == (0, ["m1"])


def test_a_database_that_takes_nothing_is_asked_again_with_the_same_deliveries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intake_module, "RETRY_S", 0.0)
    link = Link()
    Intake(link, Ingest(database_down(), database_down()), LIMIT, threading.Event()).round()
    assert (link.held, link.answered) == (0, ["m1"])


def test_deliveries_stay_with_the_broker_where_the_end_comes_before_the_commit() -> None:
    link, ended = Link(), threading.Event()
    ended.set()
    Intake(link, Ingest(database_down()), LIMIT, ended).round()
    assert (link.held, link.answered) == (1, [])
