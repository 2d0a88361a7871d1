"""The device's one database: outbox, detector state, findings and activations in a single SQLite file.

A closed window is one transaction: its message, the findings drawn from it and the detectors' new state are
all there or none is. A process killed at any moment therefore neither loses a closed window nor records one
twice. In WAL mode with `synchronous=FULL` (the default) the same holds for a power cut; with NORMAL a power
cut may take back the last transactions, all of each, and the file stays sound either way.

One thread at a time uses the connection: everything here runs under `lock`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import SystemRandom
from typing import Any

from driftpost_agent import site_store
from driftpost_agent.private_windows import SPENT, PrivacyPolicy, PrivateWindows
from driftpost_agent.row_mark import RowMark
from driftpost_agent.site_store import SiteChange
from driftpost_agent.store_file import claim_file, connect, damaged, database_files, move_aside, unusable
from driftpost_sketches.window import Window
from driftpost_sync.clock import Clock, boot_id
from driftpost_sync.coarsen import coarsen
from driftpost_sync.messages import DescribeBody, FindingBody, LabelsBody, LedgerBody, WindowBody
from driftpost_sync.outbox import Outbox, Pending, RandomBits

# Bytes of messages that wait, unless told otherwise: three weeks of 41 streams at full resolution.
OUTBOX_BYTES = 16 << 20
# Windows between looks at how much waits: a look reads the head of every waiting row.
LOOK_EVERY = 8
# Pages without content that stay in the file: giving each back and taking it again would only wear the card.
KEEP_FREE_PAGES = 256
# Lines of the local finding log; the outbox keeps what is not yet acknowledged besides.
KEEP_FINDINGS = 10_000


@dataclass(frozen=True)
class Activation:
    """One line of the activation history; `number` grows from line to line."""

    bundle: str
    name: str
    version: str
    outcome: str
    detail: str
    wall: int | None
    number: int = 0


class Store:
    """Open with `Store.open`; use as a context manager or call `close`.

    Attributes:
        path: the file.
        lock: held around every use of the connection.
        outbox: messages on their way to the aggregator; use it inside `transaction()`.
        row_mark: rows that are taken in for this store are counted here.
        privacy: how windows may leave, None if as they are.
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
        self.path = path
        self.lock = threading.RLock()
        self.set_aside = set_aside
        self.privacy = privacy
        self.row_mark = row_mark
        self.outbox: Outbox
        self._db = connection
        self._claim = claim
        self._clock = clock
        self._closed = False
        self._outbox_bytes = outbox_bytes
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
                store.outbox = Outbox.open(
                    connection,
                    random or SystemRandom(),
                    mono=clock.mono_ms(),
                    wall=clock.wall_ms(),
                    boot=boot_id(),
                    lost_rows=_lost_rows(connection, mark),
                )
            mark.begin(store.incarnation)
        except (sqlite3.Error, OSError) as error:
            if connection is not None:
                connection.close()
            os.close(claim)
            raise unusable(path, error) from error
        return store

    @property
    def incarnation(self) -> int:
        """Number of this start, see ARCHITECTURE.md."""
        return self.outbox.incarnation

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the lock and a write transaction; commits at the end, rolls back on an exception.

        Nested uses join the outermost one.
        """
        with self.lock:
            if self._db.in_transaction:
                yield self._db
                return
            self._db.execute("begin immediate")
            try:
                yield self._db
            except BaseException:
                # A full disk makes SQLite roll back by itself; a second time would hide what was wrong.
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise
            self._db.execute("commit")

    @contextmanager
    def outbox_transaction(self) -> Iterator[Outbox]:
        """The outbox inside a transaction, as the link wants it."""
        with self.transaction():
            yield self.outbox

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
        """
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
                self._note_spent(body)
            for finding in findings:
                self.record_finding(finding)
            if detector_state is not None:
                _put_state(db, body.bundle, detector_state, standing or {}, windows=1)
            if site is not None:
                site_store.write(db, body.bundle, site)
            self._until_look -= 1
            if self._until_look <= 0:
                merged = coarsen(db, self.outbox, self._outbox_bytes, now=self._clock.mono_ms())
                self._until_look = 1 if merged else LOOK_EVERY

    def keep_detector_state(self, bundle: str, state: bytes, standing: Mapping[str, str]) -> None:
        """Store the state of a bundle's detectors without a window."""
        with self.transaction() as db:
            _put_state(db, bundle, state, standing, windows=0)

    def record_site(
        self,
        bundle: str,
        change: SiteChange,
        *,
        findings: Sequence[FindingBody],
        detector_state: bytes,
        standing: Mapping[str, str],
    ) -> None:
        """Record what the device learnt, or was told to take for normal, without a window.

        Args:
            bundle: the one that is guarded.
            change: what it learnt.
            findings: that a person's word cleared.
            detector_state: as for a window.
            standing: as for a window.
        """
        with self.transaction() as db:
            for finding in findings:
                self.record_finding(finding)
            _put_state(db, bundle, detector_state, standing, windows=0)
            site_store.write(db, bundle, change)

    def _note_spent(self, body: WindowBody) -> None:
        """Say once per bundle that its windows stay at home from now on."""
        name = f"{SPENT}-{body.bundle[:12]}"
        known = self._db.execute("select 1 from finding_log where finding = ?", (name,)).fetchone()
        if known is None:
            self.record_finding(
                FindingBody(
                    id=name,
                    bundle=body.bundle,
                    state="raised",
                    kind=SPENT,
                    streams=(),
                    log_e=0.0,
                    effect=0.0,
                    effect_natural=0.0,
                    unit="",
                    direction="none",
                    onset_mono=body.mono_end,
                    onset_wall=body.wall_end,
                    mono=body.mono_end,
                    wall=body.wall_end,
                    text="the privacy budget is spent: windows stay on the device from now on; raise "
                    "privacy.epsilon_total if that is acceptable",
                    source="device",
                )
            )

    def record_finding(self, finding: FindingBody) -> int | None:
        """Record a finding, and queue it if it may leave; returns its sequence number then."""
        with self.transaction() as db:
            seq = None
            if self._leaves(db, finding):
                seq = self.outbox.put("finding", finding.to_bytes(), mono=finding.mono, wall=finding.wall)
            db.execute(
                "insert into finding_log (finding, state, bundle, source, kind, streams, effect,"
                " effect_natural, unit, direction, log_e, incarnation, seq, mono, wall, onset_mono, text,"
                " baseline) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    finding.id,
                    finding.state,
                    finding.bundle,
                    finding.source,
                    finding.kind,
                    ", ".join(f"{name} {share:.0%}" for name, share in finding.streams),
                    finding.effect,
                    finding.effect_natural,
                    finding.unit,
                    finding.direction,
                    finding.log_e,
                    self.incarnation,
                    seq,
                    finding.mono,
                    finding.wall,
                    finding.onset_mono,
                    finding.text,
                    finding.baseline,
                ),
            )
        return seq

    def _leaves(self, db: sqlite3.Connection, finding: FindingBody) -> bool:
        if self.privacy is None:
            return True
        if not self.privacy.sends(finding):
            return False
        begun = db.execute(
            "select seq from finding_log where finding = ? and state = 'raised' order by id limit 1",
            (finding.id,),
        ).fetchone()
        # What was kept at home does not leave with its end either.
        return finding.state == "raised" or begun is None or begun[0] is not None

    def record_labels(
        self, body: LabelsBody, *, findings: Sequence[FindingBody], state: bytes, standing: str
    ) -> None:
        """Record what came of some labels with the test's new state, in one transaction.

        Args:
            body: the labels' sketch; it stays at home where windows leave with noise, unless findings leave.
            findings: raised or cleared by them.
            state: of the bundle's test on labels, after them; empty without one.
            standing: id of the finding that stands, "" for none.
        """
        packed = body.to_bytes()
        with self.transaction() as db:
            # Exact counts of rows, for which no budget pays.
            if self.privacy is None or self.privacy.send_findings:
                self.outbox.put("labels", packed, mono=body.mono_end, wall=body.wall_end)
            for finding in findings:
                self.record_finding(finding)
            db.execute(
                "insert into label_states (bundle, state, standing) values (?, ?, ?)"
                " on conflict (bundle) do update set state = excluded.state, standing = excluded.standing",
                (body.bundle, state, standing),
            )

    def label_state(self, bundle: str) -> tuple[bytes, str] | None:
        """State of a bundle's test on labels and the finding that stands, None if it never ran here."""
        with self.lock:
            found = self._db.execute(
                "select state, standing from label_states where bundle = ?", (bundle,)
            ).fetchone()
        return None if found is None or not found[0] else (bytes(found[0]), str(found[1]))

    def clear_labels_finding(self, findings: Sequence[FindingBody], bundle: str) -> None:
        """Record the finding on labels as cleared, and forget the test that raised it."""
        with self.transaction() as db:
            for finding in findings:
                self.record_finding(finding)
            db.execute("delete from label_states where bundle = ?", (bundle,))

    def record_findings(self, findings: Sequence[FindingBody]) -> None:
        """Record and queue findings that have no window to go with, all or none."""
        with self.transaction():
            for finding in findings:
                self.record_finding(finding)

    def detector_state(self, bundle: str) -> tuple[bytes, dict[str, str]] | None:
        """State of a bundle's detectors and the findings that stand, or None if it never ran here."""
        with self.lock:
            found = self._db.execute(
                "select state, standing from detector_states where bundle = ?", (bundle,)
            ).fetchone()
        return None if found is None else (bytes(found[0]), dict(json.loads(found[1])))

    def clear_standing(self, findings: Sequence[FindingBody], bundle: str) -> None:
        """Record findings as cleared because nobody watches on, and forget the detectors that raised them.

        Detectors that remembered would hold the change for reported if the bundle came back.
        """
        with self.transaction() as db:
            for finding in findings:
                self.record_finding(finding)
            db.execute("delete from detector_states where bundle = ?", (bundle,))

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

    @contextmanager
    def _settled(self) -> Iterator[Outbox]:
        """The outbox for reading, after acknowledgements that were not written yet.

        Those are written in one transaction: a kill between rows and counters would leave an account that
        never adds up again.
        """
        with self.lock:
            if self.outbox.unsettled:
                with self.transaction():
                    self.outbox.settle()
            yield self.outbox

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

    def record_activation(self, bundle: str, name: str, version: str, outcome: str, detail: str = "") -> None:
        """Add a line to the activation history."""
        with self.transaction() as db:
            db.execute(
                "insert into activations (bundle, name, version, outcome, detail, incarnation, mono, wall)"
                " values (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    bundle,
                    name,
                    version,
                    outcome,
                    detail,
                    self.incarnation,
                    self._clock.mono_ms(),
                    self._clock.wall_ms(),
                ),
            )

    def activations(self, limit: int = 20) -> list[Activation]:
        """The activation history, newest first."""
        with self.lock:
            found = self._db.execute(
                "select bundle, name, version, outcome, detail, wall, id from activations"
                " order by id desc limit ?",
                (limit,),
            ).fetchall()
        return [Activation(*row) for row in found]

    def findings(self, *, standing: bool = False, limit: int = 50) -> list[dict[str, Any]]:
        """Findings as the view `findings` shows them, newest first; `standing` leaves out cleared ones."""
        with self.lock:
            cursor = self._db.execute(
                "select * from findings where state = 'raised' or not ? limit ?", (int(standing), limit)
            )
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def finding_counts(self) -> tuple[int, int]:
        """How many findings were ever raised here, and how many stand now."""
        with self.lock:
            raised = self._db.execute("select count(*) from finding_log where state = 'raised'").fetchone()
            standing = self._db.execute("select count(*) from findings where state = 'raised'").fetchone()
        return int(raised[0]), int(standing[0])

    def standing_findings(self, bundle: str | None = None) -> list[FindingBody]:
        """Findings that stand, as far as clearing them needs.

        Args:
            bundle: those drawn from its windows; None for those of the source "runtime".
        """
        with self.lock:
            found = self._db.execute(
                "select finding, bundle, kind, onset_mono, mono, wall, text, source, baseline"
                " from finding_log as f"
                " where state = 'raised' and (source = 'runtime') = (? is null)"
                " and bundle = coalesce(?, bundle)"
                " and id = (select max(id) from finding_log as g where g.finding = f.finding)",
                (bundle, bundle),
            ).fetchall()
        return [
            FindingBody(
                id=row[0],
                bundle=row[1],
                state="raised",
                kind=row[2],
                streams=(),
                log_e=0.0,
                effect=0.0,
                effect_natural=0.0,
                unit="",
                direction="none",
                onset_mono=row[3],
                onset_wall=None,
                mono=row[4],
                wall=row[5],
                text=row[6],
                source=row[7],
                baseline=row[8],
            )
            for row in found
        ]

    def windows_sent(self) -> int:
        """Windows that left this device at least once, acknowledged or not."""
        with self._settled() as outbox:
            waiting = self._db.execute(
                "select coalesce(sum(windows), 0) from messages where state = 'pending' and sent = 1"
            ).fetchone()
            return outbox.total().acked.windows + int(waiting[0])

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


def _put_state(
    db: sqlite3.Connection, bundle: str, state: bytes, standing: Mapping[str, str], *, windows: int
) -> None:
    db.execute(
        "insert into detector_states (bundle, state, windows, standing) values (?, ?, ?, ?)"
        " on conflict (bundle) do update set state = excluded.state,"
        " windows = windows + excluded.windows, standing = excluded.standing",
        (bundle, state, windows, json.dumps(dict(standing))),
    )


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
