"""What the aggregator asks of this device: carried out once for each id, and answered.

Nothing here is signed, so nothing here may change what the device runs: labels are compared with answers that
stay on the device, and an account of windows is sent once more.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable

from driftpost_agent.label_checks import LabelChecks
from driftpost_agent.store import Store
from driftpost_sync.clock import Clock
from driftpost_sync.errors import MalformedMessage, SyncError
from driftpost_sync.messages import AnswerBody, GivenLabels, Request

log = logging.getLogger(__name__)


class Requests:
    """Carries out requests; for the link's thread.

    Args:
        store: remembers what was answered.
        clock: judges whether a request has come too late, while its wall time is good.
        labels: of the model that is served, None where it takes no labels.
        ledger: queues the account of windows.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        labels: Callable[[], LabelChecks | None],
        ledger: Callable[[], object],
    ) -> None:
        self._store = store
        self._clock = clock
        self._labels = labels
        self._ledger = ledger

    def take(self, request: Request) -> None:
        """Carry out a request, unless it was answered before.

        What the store can not take now is asked again by the aggregator.
        """
        try:
            if not self._store.answered(request.id):
                self._carry_out(request)
        except (sqlite3.Error, SyncError) as error:
            log.warning("a request waits until it is asked again: %s", error, extra={"asked": request.name})

    def _carry_out(self, request: Request) -> None:
        now = self._clock.wall_ms()
        if now is not None and now > request.expires:
            self._store.record_answer(AnswerBody(request.id, "expired", text="it came after its end"))
        elif request.name == "labels":
            self._take_labels(request)
        elif request.name == "ledger":
            with self._store.transaction():
                self._ledger()
                self._store.record_answer(AnswerBody(request.id, "done"))
        else:
            self._refuse(request, f"{request.name!r} is not known to this version")

    def _take_labels(self, request: Request) -> None:
        labels = self._labels()
        if labels is None:
            self._refuse(request, "the model that is served was built without labels")
            return
        try:
            given = GivenLabels.from_bytes(request.arguments)
        except MalformedMessage as error:
            self._refuse(request, str(error))
            return
        labels.given(request.id, given.given)

    def _refuse(self, request: Request, why: str) -> None:
        log.warning("refused a request: %s", why, extra={"asked": request.name, "id": request.id})
        self._store.record_answer(AnswerBody(request.id, "refused", text=why[:200]))
