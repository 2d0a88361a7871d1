"""Which requests of the aggregator were answered: each is carried out once, however often it comes."""

from __future__ import annotations

from driftpost_agent.store_connection import StoreConnection
from driftpost_sync.messages import AnswerBody

# Ids remembered, newest first. The aggregator asks again for as long as it has no answer, and stops when it
# has one: what is older than so many requests does not come any more.
KEEP_ANSWERED = 2_000


class AnswerLog(StoreConnection):
    """Answers on their way to the aggregator, and the ids of those that were given."""

    def answered(self, request: str) -> bool:
        """Whether a request of this id has its answer."""
        with self.lock:
            found = self._db.execute("select 1 from answered_requests where request = ?", (request,))
            return found.fetchone() is not None

    def record_answer(self, answer: AnswerBody) -> None:
        """Queue an answer and remember its request, both or none; the second answer to one is left out.

        What came too late is not remembered: the same may be asked again, with time.
        """
        with self.transaction() as db:
            if answer.outcome != "expired":
                inserted = db.execute(
                    "insert or ignore into answered_requests (request) values (?)", (answer.request,)
                )
                if not inserted.rowcount:
                    return
            self.outbox.put(
                "answer", answer.to_bytes(), mono=self._clock.mono_ms(), wall=self._clock.wall_ms()
            )
            db.execute(
                "delete from answered_requests where id <= (select max(id) from answered_requests) - ?",
                (KEEP_ANSWERED,),
            )
