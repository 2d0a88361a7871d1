"""Findings in the store: a log for people on the device, and a message each for the aggregator."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from driftpost_agent.private_windows import SPENT
from driftpost_agent.store_connection import StoreConnection
from driftpost_sync.messages import FindingBody, WindowBody

# Lines of the local finding log; the outbox keeps what is not yet acknowledged besides.
KEEP_FINDINGS = 10_000


class FindingLog(StoreConnection):
    """Records findings and tells which stand."""

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

    def record_findings(self, findings: Sequence[FindingBody]) -> None:
        """Record and queue findings that have no window to go with, all or none."""
        with self.transaction():
            for finding in findings:
                self.record_finding(finding)

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

    def note_spent(self, body: WindowBody) -> None:
        """Say once per bundle that its windows stay at home from now on; in the caller's transaction."""
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
