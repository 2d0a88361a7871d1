"""State of the detectors and of the site baseline, per bundle, in the transaction of what changed it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence

from driftpost_agent import site_store
from driftpost_agent.finding_log import FindingLog
from driftpost_agent.site_store import SiteChange
from driftpost_sync.messages import FindingBody


class DetectorStore(FindingLog):
    """Keeps what detectors know over restarts."""

    def keep_detector_state(self, bundle: str, state: bytes, standing: Mapping[str, str]) -> None:
        """Store the state of a bundle's detectors without a window."""
        with self.transaction() as db:
            put_state(db, bundle, state, standing, windows=0)

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
            put_state(db, bundle, detector_state, standing, windows=0)
            site_store.write(db, bundle, change)


def put_state(
    db: sqlite3.Connection, bundle: str, state: bytes, standing: Mapping[str, str], *, windows: int
) -> None:
    """Write the state after `windows` more windows, in the caller's transaction."""
    db.execute(
        "insert into detector_states (bundle, state, windows, standing) values (?, ?, ?, ?)"
        " on conflict (bundle) do update set state = excluded.state,"
        " windows = windows + excluded.windows, standing = excluded.standing",
        (bundle, state, windows, json.dumps(dict(standing))),
    )
