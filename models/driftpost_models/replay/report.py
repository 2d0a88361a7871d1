"""What `driftpost replay` tells a person and a program."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping

from driftpost_models.replay.commission import Commissioned
from driftpost_models.replay.labelled import Labelling
from driftpost_models.replay.replay import Replay
from driftpost_models.replay.watch import Finding
from driftpost_models.report import grouped
from driftpost_sketches.drift.alarm import evidence_in_words
from driftpost_sketches.drift.describe import CONSTANT
from driftpost_sketches.schema import StreamKind

_WIDTH = 100
_MAX_SHOWN = 60
"""Findings in the table; who has more needs another reference, not a longer table."""

MINUS = "\N{MINUS SIGN}"
_RELATIVE = frozenset({"scale", "noisy"})
_IN_SPREADS = frozenset({"shift", "shape"})


def json_lines(replay: Replay) -> Iterator[str]:
    """One line for each finding, then the summary."""
    for finding in replay.findings:
        yield _line({"type": "finding", **_finding(finding)})
    yield _line(
        {
            "type": "summary",
            "rows": replay.rows,
            "streams": len(replay.calibration.tracked_names),
            "findings": len(replay.findings),
            "budget": str(replay.budget),
            "notes": list(replay.notes),
            "stream_names": list(replay.calibration.tracked_names),
            "windows": replay.windows,
            "window_rows": replay.window_rows,
            "row_seconds": replay.row_seconds,
            "log_threshold": replay.log_threshold,
            "labels": None if replay.labelling is None else _labelling(replay.labelling),
            "commissioning": None if replay.commissioned is None else _commissioned(replay.commissioned),
        }
    )


def _commissioned(found: Commissioned) -> dict[str, object]:
    return {
        "rows": found.rows,
        "mode": found.mode.value,
        "learnt_rows": 0 if found.site is None else found.site.baseline.rows,
        "skew": list(found.skew),
    }


def _line(plain: Mapping[str, object]) -> str:
    return json.dumps(plain, ensure_ascii=False, allow_nan=False)


def _labelling(found: Labelling) -> dict[str, object]:
    rate, estimate, live = found.rate, found.estimate, found.live
    plain: dict[str, object] = {
        "reference_rows": found.record.labels.rows,
        "reference_error_rate": found.record.labels.error_rate,
        "rows": 0,
        "error_rate": None,
        "error_rate_now": None,
        "calibration_error": None,
        "brier": None,
        "estimated_accuracy": None,
    }
    if live is not None and live.rows and rate is not None:
        ece, brier = live.reliability.ece(rate.independent), live.reliability.brier()
        plain["rows"] = live.rows
        plain["error_rate"] = live.error_rate
        plain["error_rate_now"] = (
            {"rate": rate.rate, "low": rate.low, "high": rate.high, "rows": rate.rows} if rate.rows else None
        )
        plain["calibration_error"] = (
            None if ece is None else {"value": ece.value, "low": ece.low, "high": ece.high}
        )
        plain["brier"] = None if brier is None else brier.score
    if estimate is not None:
        plain["estimated_accuracy"] = {
            "value": estimate.accuracy,
            "low": estimate.low,
            "high": estimate.high,
            "by_threshold": estimate.threshold_accuracy,
            "by_threshold_low": estimate.threshold_low,
            "by_threshold_high": estimate.threshold_high,
            "rows": estimate.rows,
            "doubts": list(estimate.doubts),
        }
    return plain


def _label_lines(found: Labelling) -> list[str]:
    """Errors and estimated accuracy, for people."""
    lines = []
    rate, live = found.rate, found.live
    if live is not None and live.rows:
        lines.append(
            f"labels     {live.rows:,} live rows, {live.error_rate:.1%} answered wrongly "
            f"({found.record.labels.error_rate:.1%} on the reference's {found.record.labels.rows:,})"
        )
        if rate is not None and rate.rows:
            since = "" if rate.rows == live.rows else f" of the last {rate.rows:,}"
            lines.append(
                f"           error rate{since}: {rate.low:.1%} to {rate.high:.1%} (95 %, at any time; "
                f"one row in {rate.independent:.1f} counts as independent)"
            )
        ece = live.reliability.ece(1.0 if rate is None else rate.independent)
        if ece is not None:
            lines.append(f"           calibration error {ece.value:.1%} ({ece.low:.1%} to {ece.high:.1%})")
    if found.estimate is not None:
        lines += textwrap.wrap(
            f"without    {found.estimate.text} (the last {found.estimate.rows:,} rows)",
            _WIDTH,
            subsequent_indent=" " * 11,
        )
    return [*lines, ""] if lines else []


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "stream": finding.stream,
        "kind": finding.kind,
        "row": finding.row,
        "onset_row": finding.onset_row,
        "e_value": finding.e_value,
        "log_e": finding.log_e,
        "effect": finding.effect,
        "effect_natural": finding.effect_natural,
        "unit": finding.unit,
        "direction": finding.direction,
        "cleared_row": finding.cleared_row,
        "baseline": finding.baseline,
        "streams": [{"name": name, "share": share} for name, share in finding.streams],
        "text": finding.text,
    }


def _windows(replay: Replay) -> str:
    return "1 window" if replay.windows == 1 else f"{replay.windows:,} windows"


def text(replay: Replay) -> str:
    """A table of the findings with their sentences, and the notes."""
    calibration = replay.calibration
    kinds = [calibration.schema.streams[i].kind for i in calibration.schema.tracked_streams]
    categorical = kinds.count(StreamKind.CATEGORICAL)
    streams = f"{len(kinds)} stream{'' if len(kinds) == 1 else 's'}" + (
        f" ({categorical} of categories)" if categorical else ""
    )
    odds = evidence_in_words(replay.log_threshold)
    lines = [
        f"reference  {calibration.baseline.rows:,} rows, {streams}"
        if replay.commissioned is None
        else _learnt_line(replay, streams),
        f"live       {replay.rows:,} rows, {_windows(replay)} of {replay.window_rows:,}, "
        f"{_duration(replay.rows * replay.row_seconds)} at {replay.row_seconds:g} s a row",
        f"budget     {replay.budget}: an alarm takes {odds}",
        "",
    ]
    if replay.labelling is not None:
        lines += _label_lines(replay.labelling)
    if not replay.findings:
        lines.append("No findings: nothing in the live data speaks against the reference strongly enough.")
    else:
        lines += _table(replay)
    notes = grouped(replay.notes)
    if notes:
        lines += ["", "Notes"]
        for note in notes:
            lines += textwrap.wrap(note, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
    return "\n".join(lines)


def _learnt_line(replay: Replay, streams: str) -> str:
    found, reference = replay.commissioned, replay.calibration
    assert found is not None
    own = found.site is reference
    first = "" if own else f"{reference.baseline.rows:,} rows, {streams}; "
    learnt = 0 if found.site is None else found.site.baseline.rows
    return f"reference  {first}own normal learnt from {learnt:,} of the first {found.rows:,} live rows"


def _table(replay: Replay) -> list[str]:
    shown = replay.findings[:_MAX_SHOWN]
    width = max(len("stream"), *(min(len(finding.stream), 30) for finding in shown))
    lines = [
        f"{'row':>10}  {'since':>10}  {'over at':>10}  {'stream':<{width}}  {'kind':<14}  {'size':<12}  "
        "evidence"
    ]
    for finding in shown:
        over = "stands" if finding.cleared_row is None else f"{finding.cleared_row:,}"
        evidence = evidence_in_words(finding.log_e).removeprefix("evidence ")
        lines.append(
            f"{finding.row:>10,}  {finding.onset_row:>10,}  {over:>10}  {finding.stream[:30]:<{width}}  "
            f"{finding.kind:<14}  {_size(finding):<12}  {evidence}"
        )
        sentence = finding.text.rpartition(";")[0] or finding.text
        sentence += " (against its own normal)" if finding.baseline == "site" else ""
        lines += textwrap.wrap(sentence, _WIDTH, initial_indent=" " * 12, subsequent_indent=" " * 12)
    if len(replay.findings) > len(shown):
        lines.append(f"... and {len(replay.findings) - len(shown):,} more (--json shows all)")
    return lines


def _size(finding: Finding) -> str:
    if finding.kind in _IN_SPREADS:
        if abs(finding.effect) >= CONSTANT:
            # As the sentence has it: the reference hardly moved, so how far says nothing.
            return f"{'>' if finding.effect > 0 else '<' + MINUS}{CONSTANT:.0f} sd"
        return _plain(f"{finding.effect:+.2f} sd")
    if finding.kind in _RELATIVE:
        return f"x{1.0 + finding.effect:.2f}"
    if finding.kind == "concept":
        return _plain(f"{finding.effect_natural:+.0%} wrong")
    return _plain(f"{finding.effect:+.0%} rows")


def _plain(size: str) -> str:
    """A size with a true minus sign, as wide as a plus."""
    return size.replace("-", MINUS)


def _duration(seconds: float) -> str:
    for name, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:g} seconds"
