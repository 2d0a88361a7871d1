"""From the link into the database: takes deliveries, commits them, and always gives them back.

The link hands out a bounded number of deliveries and waits until they are given back, so one that is kept
forever is one less that can ever be taken.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Protocol

from sqlalchemy.exc import DBAPIError

from driftpost_aggregator.batch import Incoming, Reply
from driftpost_sync.host_link import Delivery
from driftpost_sync.messages import Ack

log = logging.getLogger(__name__)

# Longest wait for a message before the ingest shows progress again, seconds.
TAKE_S = 0.5
# Waits between attempts at a batch that the database would not take, seconds.
RETRY_S = 1.0


class Link(Protocol):
    """The part of `HostLink` that is used here."""

    def take(self, limit: int, timeout_s: float) -> list[Delivery]:
        """What has arrived."""

    def done(self, deliveries: Sequence[Delivery]) -> None:
        """Give it back."""

    def answer(self, device: str, message: Ack) -> bool:
        """Send a message to a device."""


class Taker(Protocol):
    """The part of `Ingest` that is used here."""

    def take(self, batch: Sequence[Incoming]) -> list[Reply]:
        """Commit a batch and say what to acknowledge."""


class Intake:
    """The ingest loop's work; for one thread.

    Args:
        link: where messages come from.
        ingest: commits them.
        limit: messages committed together at most.
        exit_event: ends the waiting for a database that takes nothing.
    """

    def __init__(self, link: Link, ingest: Taker, limit: int, exit_event: threading.Event) -> None:
        self._link = link
        self._ingest = ingest
        self._limit = limit
        self._exit = exit_event

    def round(self) -> float:
        """Take what has arrived, commit it, acknowledge it.

        While the database takes nothing, the deliveries are held: the broker then holds back what comes next.
        After any other failure they go back unacknowledged, and the devices send them again.

        Returns:
            Seconds to wait before the next round.
        """
        deliveries = self._link.take(self._limit, TAKE_S)
        if not deliveries:
            return 0.0
        batch = [Incoming(one.topic, one.payload, one.wall) for one in deliveries]
        try:
            replies = self._commit(batch)
        except Exception:
            self._link.done(deliveries)
            raise
        if replies is None:
            return 0.0  # nothing was committed: what is not given back stays with the broker
        self._link.done(deliveries)
        for reply in replies:
            self._link.answer(reply.device, reply.ack)
        return 0.0

    def _commit(self, batch: Sequence[Incoming]) -> list[Reply] | None:
        """Commit a batch, as often as the database has to be asked; None if we are to end before."""
        while True:
            try:
                return self._ingest.take(batch)
            except DBAPIError as error:
                log.error("the database does not take messages now: %s", error)
                if self._exit.wait(RETRY_S):
                    return None
