"""Delayed labels on the device: compared with remembered answers, tested, and sent as sketches."""

from __future__ import annotations

import logging
import sqlite3
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal, cast

import msgpack
import numpy as np

from driftpost_agent.answers import Answers
from driftpost_agent.errors import LabelRefused
from driftpost_agent.store import Store
from driftpost_models.bundle import Bundle
from driftpost_models.policy import Policy
from driftpost_models.probes.classification import Classification
from driftpost_sketches.drift.alarm import Alarm
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.errors import SketchError
from driftpost_sketches.labels.concept import STREAM, ConceptDetector
from driftpost_sketches.labels.label_sketch import LabelSketch
from driftpost_sync.clock import Clock
from driftpost_sync.messages import MAX_REASON_CHARS, AnswerBody, FindingBody, GivenLabel, LabelsBody

log = logging.getLogger(__name__)

# Share of the device's false-alarm budget that its labels use; the streams keep the rest.
LABEL_SHARE = 0.1
# Label sketches that wait for a store that can't be written; neighbours are merged beyond it.
MAX_WAITING = 8
# Findings kept for a guard without a store.
MAX_REMEMBERED = 64

Label = int | str


@dataclass
class _Recorded:
    """What goes to the store in one transaction."""

    body: LabelsBody
    findings: list[FindingBody]
    state: bytes
    answers: list[AnswerBody]


class LabelChecks:
    """Takes labels for one bundle's answers; all methods may be called from several threads.

    Args:
        bundle: a classifier's.
        scores: reads its answers.
        store: where sketches and findings go; None only remembers findings.
        policy: gives budget and smallest effect.
        window_seconds: labels are tested and sent at most this often.
        clock: monotonic and wall time.

    Attributes:
        answers: what is remembered.
        unknown: labels whose inference was not remembered.
        counted: labels that were compared with an answer.
        remembered: the latest findings.
    """

    def __init__(
        self,
        bundle: Bundle,
        scores: Classification,
        store: Store | None,
        *,
        policy: Policy,
        window_seconds: float,
        clock: Clock,
    ) -> None:
        self._bundle = bundle
        self._store = store
        self._clock = clock
        self._classes = scores.count
        self._names = {name.casefold(): number for number, name in enumerate(bundle.classes)}
        size = sum(
            int(np.prod([d or 1 for d in spec.shape])) * spec.dtype.itemsize for spec in bundle.outputs
        )
        self.answers = Answers(scores, size, clock)
        self._window_ms = round(window_seconds * 1000)
        record = bundle.performance
        self._detector: ConceptDetector | None = None
        if record is not None:
            threshold = Budget.parse(policy.budget).share(LABEL_SHARE).log_threshold(window_seconds)
            self._detector = ConceptDetector(
                record.labels, record.independent, threshold, policy.effect(STREAM), bundle.classes
            )
        self._lock = threading.Lock()
        self._pairs: list[tuple[int, int, int, float]] = []
        self._since = (clock.mono_ms(), clock.wall_ms())
        self._waiting: deque[_Recorded] = deque()
        # Answers to requests whose labels are not recorded yet.
        self._owed: list[AnswerBody] = []
        self._standing = ""
        self._findings = 0
        self.unknown = 0
        self._told_unknown = 0
        self.counted = 0
        self.remembered: deque[FindingBody] = deque(maxlen=MAX_REMEMBERED)
        self._restore()
        self._remember()

    def label(self, inference_id: str, labels: Label | Sequence[Label]) -> bool:
        """Compare an inference's answer with its true class.

        Args:
            inference_id: as `GuardedResult.inference_id` names it.
            labels: the true class, by number or name; of a batch, one for each row.

        Returns:
            Whether the answer was still remembered.

        Raises:
            LabelRefused: no such class, or not a label for each row.
        """
        several = list(labels) if isinstance(labels, Iterable) and not isinstance(labels, str) else [labels]
        numbers = [self._number(one) for one in several]
        rows = self.answers.find(inference_id)
        if rows is None:
            with self._lock:
                self.unknown += len(numbers)
            return False
        if len(rows) != len(numbers):
            raise LabelRefused(inference_id, f"{len(numbers)} labels for {len(rows)} rows")
        pairs = self.answers.take(rows, numbers)
        with self._lock:
            self._pairs += pairs
            self.counted += len(pairs)
        return True

    def given(self, request: str, given: Sequence[GivenLabel]) -> None:
        """Take the labels of a request; its answer is recorded in one transaction with what came of them.

        Args:
            request: its id; one that is on its way to the store already is not taken again.
            given: labels by inference or by time.
        """
        with self._lock:
            waiting = [*self._owed, *(answer for one in self._waiting for answer in one.answers)]
            if any(answer.request == request for answer in waiting):
                return
        counts = {"counted": 0, "twice": 0, "unknown": 0, "refused": 0}
        pairs: list[tuple[int, int, int, float]] = []
        said = ""
        for one in given:
            try:
                numbers = [self._number(label) for label in one.labels]
            except LabelRefused as error:
                counts["refused"] += len(one.labels)
                said = said or str(error)
                continue
            name = self.answers.named_at(one.inference) if isinstance(one.inference, int) else one.inference
            rows = None if name is None else self.answers.find(name)
            if rows is None:
                counts["unknown"] += len(numbers)
            elif len(rows) != len(numbers):
                counts["refused"] += len(numbers)
                said = said or f"{len(numbers)} labels for {len(rows)} rows"
            else:
                new = self.answers.take(rows, numbers)
                pairs += new
                counts["counted"] += len(new)
                counts["twice"] += len(numbers) - len(new)
        with self._lock:
            self._pairs += pairs
            self.counted += len(pairs)
            self.unknown += counts["unknown"]
            self._owed.append(AnswerBody(request, "done", counts, said[:MAX_REASON_CHARS]))
        # Not at once: the test's budget is one of windows, however many requests come in one.
        self.tick()

    def tick(self, *, now: bool = False) -> None:
        """Test and record the labels that have come, once a window has passed since the last time.

        Args:
            now: however long ago that was.
        """
        if self.answers.waiting:
            self.answers.read()
        mono, wall = self._clock.mono_ms(), self._clock.wall_ms()
        with self._lock:
            if mono - self._since[0] < self._window_ms and not now:
                return
            began, self._since = self._since, (mono, wall)
            pairs, self._pairs = self._pairs, []
            unknown, self._told_unknown = self.unknown - self._told_unknown, self.unknown
            if pairs or unknown or self._owed:
                self._take(pairs, unknown, began, (mono, wall))
            self._write()

    def close(self) -> None:
        """Leave what is remembered to the next start; after a kill there is nothing, and so nothing twice."""
        if self._store is None:
            return
        try:
            self._store.keep_answers(self._bundle.id, self.answers.to_bytes())
        except sqlite3.Error as error:
            log.warning("remembered answers are lost, the store can't be written: %s", error)

    def status(self) -> dict[str, Any]:
        """For the status document."""
        plain: dict[str, Any] = {
            "counted": self.counted,
            "unknown": self.unknown,
            "remembered_rows": self.answers.rows,
            "remembered_hours": round(self.answers.reach_s() / 3600, 2),
        }
        if self._detector is not None:
            with self._lock:
                rate = self._detector.rate()
            plain["reference_error_rate"] = float(self._detector.usual[0])
            if rate.rows:
                plain |= {"rows": rate.rows, "error_rate": rate.rate, "low": rate.low, "high": rate.high}
        return plain

    def _number(self, label: Label) -> int:
        if isinstance(label, str):
            found = self._names.get(label.casefold())
            if found is None:
                raise LabelRefused(label[:40], "is none of the model's classes")
            return found
        # Callers in Python may hand over anything: 1.5 and None are no classes either.
        if isinstance(label, bool) or not isinstance(label, Integral) or not 0 <= label < self._classes:
            raise LabelRefused(str(label)[:40], f"is none of the classes 0 to {self._classes - 1}")
        return int(label)

    def _take(
        self,
        pairs: list[tuple[int, int, int, float]],
        unknown: int,
        began: tuple[int, int | None],
        ended: tuple[int, int | None],
    ) -> None:
        # In the order of the answers, not of the labels: how errors cluster is a matter of the former.
        rows = np.array(sorted(pairs), dtype=np.float64).reshape(-1, 4)
        sketch = LabelSketch.of_classes(
            self._classes, rows[:, 1].astype(np.int64), rows[:, 2].astype(np.int64), rows[:, 3]
        )
        alarms = [] if self._detector is None else self._detector.step(sketch)
        findings = [self._finding(alarm, began, ended) for alarm in alarms]
        self.remembered.extend(findings)
        for finding in findings:
            log.warning("finding %s: %s", finding.state, finding.text, extra={"finding": finding.id})
        if self._store is None:
            return
        state = b"" if self._detector is None else self._detector.state_to_bytes()
        body = LabelsBody(self._bundle.id, began[0], ended[0], began[1], ended[1], sketch.to_bytes(), unknown)
        self._waiting.append(_Recorded(body, findings, state, self._owed))
        self._owed = []
        if len(self._waiting) > MAX_WAITING:
            self._merge_oldest()

    def _merge_oldest(self) -> None:
        older, newer = self._waiting.popleft(), self._waiting.popleft()
        first, second = older.body, newer.body
        sketch = LabelSketch.from_bytes(first.sketch).merge(LabelSketch.from_bytes(second.sketch))
        body = LabelsBody(
            second.bundle, first.mono_start, second.mono_end, first.wall_start, second.wall_end,
            sketch.to_bytes(), first.unknown + second.unknown,
        )  # fmt: skip
        answers = older.answers + newer.answers
        self._waiting.appendleft(_Recorded(body, older.findings + newer.findings, newer.state, answers))

    def _write(self) -> None:
        while self._waiting and self._store is not None:
            one = self._waiting[0]
            try:
                self._store.record_labels(
                    one.body,
                    findings=one.findings,
                    state=one.state,
                    standing=self._standing,
                    answers=one.answers,
                )
            except sqlite3.Error as error:
                log.error("labels wait in memory, the store can't be written: %s", error)
                return
            self._waiting.popleft()

    def _restore(self) -> None:
        kept = self._store.label_state(self._bundle.id) if self._store is not None else None
        if kept is None or self._detector is None:
            return
        try:
            self._detector.restore(kept[0])
        except SketchError as error:
            log.warning("the test on labels begins anew, its stored state can't be read: %s", error)
            self._let_go(kept[1], "the test on labels began anew, with another reference, budget or version")
            return
        self._standing = kept[1]

    def _remember(self) -> None:
        """Take up the answers that an orderly end has left."""
        kept = self._store.take_answers(self._bundle.id) if self._store is not None else None
        if kept is None:
            return
        try:
            self.answers.restore(kept)
        except (ValueError, TypeError, zlib.error, msgpack.UnpackException) as error:
            log.warning("remembered answers are lost: %s", error)

    def abandon(self, why: str) -> None:
        """Clear the finding that stands, because nobody watches the errors of this bundle any more."""
        self.tick(now=True)
        if self._store is not None and self._standing:
            self._let_go(self._standing, why)
            self._standing = ""

    def _let_go(self, standing: str, why: str) -> None:
        """Clear a finding that nobody watches any more, and forget the test that raised it."""
        assert self._store is not None
        mono, wall = self._clock.mono_ms(), self._clock.wall_ms()
        over = [
            replace(finding, state="cleared", mono=mono, wall=wall, text=why)
            for finding in self._store.standing_findings(self._bundle.id)
            if finding.id == standing
        ]
        self._store.clear_labels_finding(over, self._bundle.id)

    def _finding(
        self, alarm: Alarm, began: tuple[int, int | None], ended: tuple[int, int | None]
    ) -> FindingBody:
        if alarm.state == "raised" or not self._standing:
            self._findings += 1
            incarnation = self._store.incarnation if self._store else 0
            self._standing = f"{incarnation:x}-{ended[0]}-l{self._findings}"
        identity = self._standing
        if alarm.state == "cleared":
            self._standing = ""
        ago = alarm.onset_windows_ago * self._window_ms
        return FindingBody(
            id=identity,
            bundle=self._bundle.id,
            state=cast("Literal['raised', 'cleared']", alarm.state),
            kind=alarm.kind,
            streams=alarm.streams[:16],
            log_e=alarm.log_e,
            effect=alarm.effect,
            effect_natural=alarm.effect_natural,
            unit=alarm.unit,
            direction=alarm.direction,
            onset_mono=max(0, began[0] - ago),
            onset_wall=None if began[1] is None else max(0, began[1] - ago),
            mono=ended[0],
            wall=ended[1],
            text=alarm.text,
        )
