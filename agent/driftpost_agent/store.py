"""The device's one database: outbox, detector state, findings and activations in a single SQLite file.

A closed window is one transaction: its message, the findings drawn from it and the detectors' new state are
all there or none is. A process killed at any moment therefore neither loses a closed window nor records one
twice. In WAL mode with `synchronous=FULL` (the default) the same holds for a power cut; with NORMAL a power
cut may take back the last transactions, all of each, and the file stays sound either way.

One thread at a time uses the connection: everything here runs under `lock`. What the store keeps stands in
files of its own: `message_store`, `finding_log`, `label_store`, `detector_store`, `activation_log`.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from secrets import SystemRandom

from driftpost_agent import open_window, site_store
from driftpost_agent.activation_log import ActivationLog
from driftpost_agent.detector_store import DetectorStore, put_state
from driftpost_agent.disk_room import for_lack_of_room, give_up_reserve
from driftpost_agent.errors import StoreUnusable
from driftpost_agent.finding_log import KEEP_FINDINGS
from driftpost_agent.label_store import LabelStore
from driftpost_agent.message_store import MessageStore
from driftpost_agent.open_window import LeftWindow, OpenWindow, WaitingWindow
from driftpost_agent.private_windows import PrivacyPolicy, PrivateWindows, hold
from driftpost_agent.row_mark import RowMark, Slot
from driftpost_agent.salvage import Salvaged, salvage
from driftpost_agent.site_store import SiteChange
from driftpost_agent.store_file import (
    claim_file,
    connect,
    damaged,
    database_files,
    is_suspect,
    move_aside,
    suspect,
    unusable,
)
from driftpost_sketches.window import Window
from driftpost_sync.clock import Clock, boot_id
from driftpost_sync.coarsen import coarsen
from driftpost_sync.messages import FindingBody, WindowBody
from driftpost_sync.outbox import Outbox, RandomBits
from driftpost_sync.outbox_fill import STORED_BYTES

log = logging.getLogger(__name__)

# Bytes of messages that wait, unless told otherwise: three weeks of 41 streams at full resolution.
OUTBOX_BYTES = 16 << 20
# What is left to it where the disk's budget is spent: some sixty windows of a day each.
LEAST_OUTBOX_BYTES = 256 << 10
# Windows between looks at how much waits: a look reads the head of every waiting row.
LOOK_EVERY = 8
# Pages without content that stay in the file: giving each back and taking it again would only wear the card.
KEEP_FREE_PAGES = 256


class Store(LabelStore, DetectorStore, ActivationLog, MessageStore):
    """Open with `Store.open`; use as a context manager or call `close`.

    Attributes:
        path: the file.
        row_mark: rows that are taken in for this store are counted here.
        recovered_rows: rows of windows that were open when the last process was killed, recorded by this one.
        salvaged: what could be taken over from a damaged predecessor, if there was one.
        set_aside: where a damaged predecessor was moved when this store was opened, if there was one.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        claim: int,
        clock: Clock,
        *,
        row_mark: RowMark,
        set_aside: Path | None,
        outbox_bytes: int,
        privacy: PrivacyPolicy | None,
    ) -> None:
        super().__init__(connection, clock, privacy)
        self.path = path
        self.set_aside = set_aside
        self.row_mark = row_mark
        self.recovered_rows = 0
        self.salvaged: Salvaged | None = None
        self._claim = claim
        self._closed = False
        self._outbox_bytes = self._full_outbox_bytes = outbox_bytes
        self._limits: dict[str, int] = {}
        self._until_look = 1

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        clock: Clock,
        synchronous: str = "full",
        random: RandomBits | None = None,
        row_mark: RowMark | None = None,
        outbox_bytes: int = OUTBOX_BYTES,
        privacy: PrivacyPolicy | None = None,
    ) -> Store:
        """Open or create a store and begin a new incarnation in it.

        A file that is damaged, or no database at all, is moved aside and a new one begun: an agent that can't
        start guards nothing.

        Args:
            path: of the file; its folder is made.
            clock: for the times in it.
            synchronous: "full" or "normal", see above.
            random: for the incarnation's low bits.
            row_mark: what the last process left; the store's own in shared memory if None.
            outbox_bytes: windows that wait are merged into coarser ones when all that waits exceeds this.
            privacy: windows leave with noise, under this budget; None lets them go as they are.

        Raises:
            StoreUnusable: another process has it, or the folder can't be written.
        """
        path = Path(path)
        claim = claim_file(path)
        connection: sqlite3.Connection | None = None
        set_aside: Path | None = None
        try:
            if is_suspect(path):
                set_aside = move_aside(path)
            try:
                connection = connect(path, synchronous)
            except sqlite3.DatabaseError as error:
                if not damaged(error):
                    raise
                set_aside = move_aside(path)
                connection = connect(path, synchronous)
            mark = row_mark or RowMark.open(path)
            store = cls(
                path,
                connection,
                claim,
                clock,
                row_mark=mark,
                set_aside=set_aside,
                outbox_bytes=outbox_bytes,
                privacy=privacy,
            )
            with store.transaction():
                if set_aside is not None:
                    store.salvaged = salvage(set_aside, connection, mono=clock.mono_ms())
                    log.error("%s", store.salvaged.text)
                store._begin(random or SystemRandom())
                if set_aside is not None:
                    store._clear_what_stood("the database was damaged, and the detectors began anew")
            mark.begin(store.incarnation)
            mark.add(store.recovered_rows)
            open_window.forget(mark.folder)
        except (sqlite3.Error, OSError) as error:
            if connection is not None:
                connection.close()
            os.close(claim)
            again = for_lack_of_room(str(error)) and give_up_reserve(path.parent)
            if isinstance(error, sqlite3.DatabaseError) and damaged(error) and set_aside is None:
                # What the check at the start did not see: not again at every start.
                suspect(path)
                again = True
            if again:
                return cls.open(
                    path,
                    clock=clock,
                    synchronous=synchronous,
                    random=random,
                    row_mark=row_mark,
                    outbox_bytes=outbox_bytes,
                    privacy=privacy,
                )
            raise unusable(path, error) from error
        return store

    def _begin(self, random: RandomBits) -> None:
        """Start an incarnation, and record what the last one had open when it was killed."""
        last = self._db.execute(
            "select incarnation, closed from incarnations order by incarnation desc limit 1"
        ).fetchone()
        left: list[LeftWindow] = []
        # A damaged database does not know for certain what it had stored.
        if last is not None and self.salvaged is None:
            left = open_window.left_behind(self.row_mark.folder, int(last[0]), int(last[1]))
        lost = _lost_rows(self._db, self.row_mark) - sum(one.rows for one in left)
        if lost < 0:
            # More than was taken in since the last stored window: what is there can not be what it seems.
            log.warning("open windows in shared memory contradict the row mark and are not used")
            left, lost = [], _lost_rows(self._db, self.row_mark)
        self.outbox = Outbox.open(
            self._db,
            random,
            mono=self._clock.mono_ms(),
            wall=self._clock.wall_ms(),
            boot=boot_id(),
            lost_rows=lost,
        )
        for one in left:
            if self.privacy is not None:
                hold(self._db, self.privacy, one.body, self.incarnation)
                continue
            self.outbox.put(
                "window",
                one.body.to_bytes(),
                mono=one.body.mono_end,
                wall=one.body.wall_end,
                windows=one.windows,
                rows=one.rows,
            )
        self.recovered_rows = sum(one.rows for one in left)

    def _clear_what_stood(self, why: str) -> None:
        """Clear all findings on windows, because nobody watches on what they were about."""
        bundles = self._db.execute("select distinct bundle from finding_log").fetchall()
        now, wall = self._clock.mono_ms(), self._clock.wall_ms()
        for (bundle,) in bundles:
            over = [
                replace(finding, state="cleared", mono=now, wall=wall, text=why)
                for finding in self.standing_findings(str(bundle))
            ]
            self.record_findings(over)

    def keep_open(self, slot: Slot) -> OpenWindow | None:
        """Where the recorder that counts in `slot` keeps its open window."""
        if slot.word is None:
            return None
        return OpenWindow(self.row_mark.folder, slot.word, self.incarnation)

    def record_window(
        self,
        body: WindowBody,
        *,
        windows: int,
        rows: int,
        findings: Sequence[FindingBody] = (),
        detector_state: bytes | None = b"",
        standing: Mapping[str, str] | None = None,
        site: SiteChange | None = None,
        private: PrivateWindows | None = None,
        kept: Sequence[WaitingWindow] = (),
    ) -> None:
        """Record a closed window with everything that follows from it, in one transaction.

        Args:
            body: the window.
            windows: base windows in it.
            rows: inferences in it.
            findings: raised or cleared by it.
            detector_state: of its bundle, after it; None leaves what is stored, with its standing findings.
            standing: ids of the findings that are raised now, by what they are about, so that a restart can
                clear them under the same id.
            site: what the device learnt of its own normal by it.
            private: holds the window, and says what leaves instead of it.
            kept: where it was kept while it waited, in one or several parts; a kill after this must not
                bring them back.
        """
        if not kept:
            self._record_window(body, windows, rows, findings, detector_state, standing, site, private)
            return
        with self.lock:
            try:
                with self.transaction() as db:
                    self._record_window(
                        body, windows, rows, findings, detector_state, standing, site, private
                    )
                    which = (self.incarnation,)
                    db.execute("update incarnations set closed = closed + 1 where incarnation = ?", which)
                    (number,) = db.execute(
                        "select closed from incarnations where incarnation = ?", which
                    ).fetchone()
                    for one in kept:
                        one.storing(number)
            except BaseException:
                for one in kept:
                    one.storing(0)
                raise
        for one in kept:
            one.close()

    def _record_window(  # noqa: PLR0917 - record_window's own, in its order
        self,
        body: WindowBody,
        windows: int,
        rows: int,
        findings: Sequence[FindingBody],
        detector_state: bytes | None,
        standing: Mapping[str, str] | None,
        site: SiteChange | None,
        private: PrivateWindows | None,
    ) -> None:
        body.to_bytes()  # refuses what no message can hold before anything is written
        with self.transaction() as db:
            leaving = body if private is None else private.offer(db, body, self.incarnation)
            if private is not None and leaving is not None:
                sketch = Window.from_bytes(leaving.window)
                windows, rows = sketch.parts, sketch.rows
            if leaving is not None:
                self.outbox.put(
                    "window",
                    leaving.to_bytes(),
                    mono=leaving.mono_end,
                    wall=leaving.wall_end,
                    windows=windows,
                    rows=rows,
                )
            elif private is not None and private.exhausted(db):
                self.note_spent(body)
            for finding in findings:
                self.record_finding(finding)
            if detector_state is not None:
                put_state(db, body.bundle, detector_state, standing or {}, windows=1)
            if site is not None:
                site_store.write(db, body.bundle, site)
            self._until_look -= 1
            if self._until_look <= 0:
                merged = coarsen(db, self.outbox, self._outbox_bytes, now=self._clock.mono_ms())
                self._until_look = 1 if merged else LOOK_EVERY

    def prune(self, keep_bytes: int) -> int:
        """Remove the oldest acknowledged messages beyond `keep_bytes`, and old findings; returns how many
        messages."""
        with self.transaction() as db:
            db.execute(
                "delete from finding_log where id <= (select max(id) from finding_log) - ?", (KEEP_FINDINGS,)
            )
            removed = self.outbox.prune(keep_bytes)
        with self.lock:
            (free,) = self._db.execute("pragma freelist_count").fetchone()
            if free > 2 * KEEP_FREE_PAGES:
                # Not `execute`: it takes a single step of a statement without columns, which frees one page.
                self._db.executescript(f"pragma incremental_vacuum({free - KEEP_FREE_PAGES})")
        return removed

    def shrink(self, excess: int, because: str = "budget") -> None:
        """Give back about this many bytes: acknowledged history first, then the resolution of what waits.

        Nothing that waits is dropped.

        Args:
            excess: bytes; 0 or less lets the outbox have its full size again.
            because: who asks for it; the outbox is as small as the strictest wants it.
        """
        if excess <= 0:
            self._limits.pop(because, None)
            self._outbox_bytes = min([self._full_outbox_bytes, *self._limits.values()])
            return
        with self.lock:
            (history,) = self._db.execute(
                f"select coalesce(sum({STORED_BYTES}), 0) from messages where status = 1"
            ).fetchone()
        self.prune(max(0, history - excess))
        if history < excess:
            room = self.outbox_pending().bytes - (excess - history)
            self._limits[because] = max(LEAST_OUTBOX_BYTES, min(self._outbox_bytes, room))
            self._outbox_bytes = min([self._full_outbox_bytes, *self._limits.values()])
            self._until_look = 1

    def end_if_damaged(self) -> None:
        """End the agent when the file has proved damaged in use: the next start sets it aside.

        Raises:
            StoreUnusable: it has.
        """
        if self.damage:
            suspect(self.path)
            raise StoreUnusable(
                self.path,
                f"its file is damaged ({self.damage})",
                "Start the agent again, as systemd does: what can be read is taken over, the file is kept.",
            )

    def bytes_on_disk(self) -> int:
        """Size of the database with its log, in bytes."""
        return sum(file.stat().st_size for file in database_files(self.path) if file.exists())

    def close(self) -> None:
        """Fold the log back and give up the file; a second call does nothing."""
        with self.lock:
            if self._closed:
                return
            self._closed = True
            try:
                lost = _lost_rows(self._db, self.row_mark)
            except sqlite3.Error:
                lost = 1
            self._db.close()
            self.row_mark.close(forget=lost == 0)
            os.close(self._claim)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lost_rows(connection: sqlite3.Connection, mark: RowMark) -> int:
    """Rows the last process took in and did not get to store."""
    last = connection.execute(
        "select incarnation, recorded_rows from incarnations order by incarnation desc limit 1"
    ).fetchone()
    if last is None:
        return 0
    (held,) = connection.execute(
        "select coalesce(sum(rows), 0) from privacy_holds where incarnation = ?", (last[0],)
    ).fetchone()
    return max(0, mark.rows_of(int(last[0])) - int(last[1]) - int(held))
