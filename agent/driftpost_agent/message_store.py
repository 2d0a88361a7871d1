"""What the outbox holds, described, counted and accounted for, each answer in a transaction of its own."""

from __future__ import annotations

from driftpost_agent.store_connection import StoreConnection
from driftpost_sync.messages import BoardBody, DescribeBody, LedgerBody
from driftpost_sync.outbox import Pending


class MessageStore(StoreConnection):
    """Descriptions and accounts on their way to the aggregator."""

    def describe(self, body: DescribeBody, *, again: bool = False) -> bool:
        """Queue the description of a bundle once for this store, or `again` because the aggregator asks.

        It asks with every window that it can't read, so one that is still on its way answers all of them.
        """
        with self.transaction() as db:
            self.outbox.settle()
            known = db.execute(
                "select exists (select 1 from messages where status = 0 and kind = 'describe'"
                " and incarnation = d.incarnation and seq = d.seq and id not in (select id from quarantine))"
                " from described as d where bundle = ?",
                (body.bundle,),
            ).fetchone()
            if known is not None and (known[0] or not again):
                return False
            seq = self.outbox.put(
                "describe", body.to_bytes(), mono=self._clock.mono_ms(), wall=self._clock.wall_ms()
            )
            db.execute(
                "insert or replace into described (bundle, incarnation, seq) values (?, ?, ?)",
                (body.bundle, self.incarnation, seq),
            )
        return True

    def queue_board(self, body: BoardBody) -> None:
        """Queue how the board fares, in the place of what never left of it."""
        with self.transaction() as db:
            db.execute("delete from messages where status = 0 and kind = 'board' and sent = 0")
            self.outbox.put("board", body.to_bytes(), mono=body.mono, wall=body.wall)

    def outbox_total(self) -> LedgerBody:
        """The account of everything this store ever recorded."""
        with self._settled() as outbox:
            return outbox.total()

    def outbox_pending(self) -> Pending:
        """How much waits for the aggregator."""
        with self._settled() as outbox:
            return outbox.pending()

    def outbox_ledger(self) -> LedgerBody:
        """The account of this incarnation as it is now."""
        with self._settled() as outbox:
            return outbox.ledger()

    def queue_ledger(self) -> LedgerBody:
        """Queue the account of this incarnation, and of earlier ones that still have something pending."""
        with self.transaction():
            current = self.outbox.ledger()
            for account in self.outbox.ledgers():
                if account.incarnation == current.incarnation or account.pending.windows:
                    self.outbox.put_account(account, mono=self._clock.mono_ms(), wall=self._clock.wall_ms())
        return current

    def windows_sent(self) -> int:
        """Windows that left this device at least once, acknowledged or not."""
        with self._settled() as outbox:
            waiting = self._db.execute(
                "select coalesce(sum(windows), 0) from messages where state = 'pending' and sent = 1"
            ).fetchone()
            return outbox.total().acked.windows + int(waiting[0])
