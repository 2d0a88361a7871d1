"""What came of delayed labels, with the state of the test on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from driftpost_agent.answer_log import AnswerLog
from driftpost_agent.finding_log import FindingLog
from driftpost_sync.messages import AnswerBody, FindingBody, LabelsBody


class LabelStore(FindingLog, AnswerLog):
    """Records labels in one transaction with what follows from them."""

    def record_labels(
        self,
        body: LabelsBody,
        *,
        findings: Sequence[FindingBody],
        state: bytes,
        standing: str,
        answers: Sequence[AnswerBody] = (),
    ) -> None:
        """Record what came of some labels with the test's new state, in one transaction.

        Args:
            body: the labels' sketch; it stays at home where windows leave with noise, unless findings leave.
            findings: raised or cleared by them.
            state: of the bundle's test on labels, after them; empty without one.
            standing: id of the finding that stands, "" for none.
            answers: to requests that brought these labels.
        """
        packed = body.to_bytes()
        with self.transaction() as db:
            # Exact counts of rows, for which no budget pays.
            sends = self.privacy is None or self.privacy.send_findings
            if sends:
                self.outbox.put("labels", packed, mono=body.mono_end, wall=body.wall_end)
            for answer in answers:
                self.record_answer(answer if sends else replace(answer, counts={}))
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

    def keep_answers(self, bundle: str, data: bytes) -> None:
        """Keep what a bundle's answers were, in place of any before."""
        with self.transaction() as db:
            db.execute("delete from kept_answers")
            db.execute("insert into kept_answers (bundle, data) values (?, ?)", (bundle, data))

    def take_answers(self, bundle: str) -> bytes | None:
        """What was kept of a bundle's answers; given once, so that no label can count twice after a kill."""
        with self.transaction() as db:
            found = db.execute("select data from kept_answers where bundle = ?", (bundle,)).fetchone()
            if found is not None:
                db.execute("delete from kept_answers")
        return None if found is None else bytes(found[0])

    def clear_labels_finding(self, findings: Sequence[FindingBody], bundle: str) -> None:
        """Record the finding on labels as cleared, and forget the test that raised it."""
        with self.transaction() as db:
            for finding in findings:
                self.record_finding(finding)
            db.execute("delete from label_states where bundle = ?", (bundle,))
