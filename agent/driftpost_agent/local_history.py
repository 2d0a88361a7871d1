"""What the store of a device still holds, read beside a running agent: windows, findings, accounts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from driftpost_agent.errors import StoreUnusable
from driftpost_sketches.errors import SketchError
from driftpost_sketches.window import Window
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.messages import WindowBody

# Rows that are read at a time: no cursor stays open while the agent writes, and no history is loaded whole.
SLICE = 256
# Milliseconds to wait for the agent's own transaction.
BUSY_TIMEOUT_MS = 5_000

Value = str | int | float | None


@dataclass(frozen=True)
class StoredWindow:
    """One window of the store.

    Attributes:
        incarnation, seq: its name.
        state: pending, acked or quarantined.
        body: times, bundle and schema.
        window: the sketches.
    """

    incarnation: int
    seq: int
    state: str
    body: WindowBody
    window: Window


class LocalHistory:
    """A store, open for reading; a context manager.

    Args:
        path: of the store's file.

    Raises:
        StoreUnusable: there is none, or it can't be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise StoreUnusable(
                path, "there is none yet", "Start the agent, or give the right file with --config."
            )
        try:
            self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
            self._db.execute(f"pragma busy_timeout = {BUSY_TIMEOUT_MS}")
            self._db.execute("select 1 from messages limit 1")
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        self.unreadable = 0

    def __enter__(self) -> LocalHistory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def count_windows(self, bundle: str | None = None) -> int:
        """Windows that are still here, of one bundle or of all."""
        if bundle is None:
            ((count,),) = self._rows("select count(*) from messages where kind = 'window'")
            return int(count)
        return sum(1 for _ in self.windows(bundle))

    def windows(self, bundle: str | None = None, *, newest_first: bool = False) -> Iterator[StoredWindow]:
        """Windows in the order of recording; what can't be read is counted in `unreadable` and passed over.

        Args:
            bundle: only those of this one.
            newest_first: the other way round.
        """
        order, beyond = ("desc", "<") if newest_first else ("asc", ">")
        last: int | None = None
        while True:
            where = "" if last is None else f" and id {beyond} {last}"
            rows = self._rows(
                "select id, incarnation, seq, state, body from messages"
                f" where kind = 'window'{where} order by id {order} limit {SLICE}"
            )
            for number, incarnation, seq, state, packed in rows:
                last = int(number)
                try:
                    body = WindowBody.from_bytes(packed)
                    if bundle is not None and body.bundle != bundle:
                        continue
                    window = Window.from_bytes(body.window)
                except (MalformedMessage, SketchError):
                    self.unreadable += 1
                    continue
                yield StoredWindow(int(incarnation), int(seq), str(state), body, window)
            if len(rows) < SLICE:
                return

    def latest_bundle(self) -> str | None:
        """Id of the bundle that the newest window is of."""
        newest = next(self.windows(newest_first=True), None)
        return None if newest is None else newest.body.bundle

    def findings(self) -> Iterator[dict[str, Value]]:
        """Every line of the finding log, the oldest first."""
        last = -1
        while True:
            rows = self._named(f"select * from finding_log where id > {last} order by id limit {SLICE}")
            yield from rows
            if len(rows) < SLICE:
                return
            last = int(rows[-1]["id"] or 0)

    def ledger(self) -> list[dict[str, Value]]:
        """The account of every incarnation, the oldest first; as many as there were starts, and few."""
        return self._named("select * from ledger")

    def standing_streams(self) -> set[str]:
        """Streams that a standing finding names."""
        found = self._rows("select streams from findings where state = 'raised'")
        return {part.rpartition(" ")[0] for (text,) in found for part in str(text).split(", ") if part}

    def _named(self, query: str) -> list[dict[str, Value]]:
        try:
            cursor = self._db.execute(query)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(query).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.Error) -> StoreUnusable:
        if "malformed" in str(error) or "not a database" in str(error):
            remedy = "Start the agent: it takes over what can be read, and keeps the damaged file."
        else:
            remedy = "Ask as the agent's user: sudo -u driftpost driftpost agent ..."
        return StoreUnusable(self.path, str(error), remedy)
