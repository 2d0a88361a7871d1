"""Labels as people send them: JSON, JSON lines or CSV, each line judged by itself. Pure.

A line that makes no sense is told with its reason and does not keep the others from being taken.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

from driftpost_aggregator.errors import LabelsUnreadable
from driftpost_sync.codec import MAX_TIME_MS
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.messages.given_labels import (
    MAX_CLASS,
    MAX_LABEL_CHARS,
    MAX_LABEL_ROWS,
    GivenLabel,
    Label,
)
from driftpost_sync.topics import check_name

# Inferences labelled in one call: a day of one device at one every four seconds, or an hour of a site.
MAX_LABELS = 20_000
JSON = "application/json"
LINES = "application/x-ndjson"
CSV = "text/csv"
FORMATS = (JSON, LINES, CSV)
_KEYS = frozenset({"device", "inference", "time", "label"})
# Unix time in seconds of the year 2286: what is larger is milliseconds.
_MAX_SECONDS = 10_000_000_000


@dataclass(frozen=True)
class Given:
    """A label for one device.

    Attributes:
        line: where it stands, from 1.
        device: that gave the answer.
        label: inference and label.
    """

    line: int
    device: str
    label: GivenLabel


@dataclass(frozen=True)
class Refused:
    """A line that can not be taken.

    Attributes:
        line: where it stands, from 1.
        reason: why, the same words for the same mistake.
    """

    line: int
    reason: str


def read_labels(
    body: bytes, kind: str, *, device: str | None = None, most: int = MAX_LABELS
) -> list[Given | Refused]:
    """Labels, in their order.

    Args:
        body: of a request, or a file.
        kind: one of FORMATS.
        device: of lines that name none.
        most: how many at most.

    Raises:
        LabelsUnreadable: it is not of that kind at all, or holds too many.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelsUnreadable(f"is not UTF-8 (byte {error.start})") from error
    if kind == JSON:
        entries = _document(text)
    elif kind == LINES:
        entries = _lines(text)
    elif kind == CSV:
        entries = _rows(text)
    else:
        raise LabelsUnreadable(f"is {kind or 'of no type'}; send one of {', '.join(FORMATS)}")
    found: list[Given | Refused] = []
    for line, entry in entries:
        if len(found) >= most:
            raise LabelsUnreadable(f"holds more than {most} labels; send it in parts")
        found.append(entry if isinstance(entry, Refused) else _given(line, entry, device))
    return found


def _document(text: str) -> Iterator[tuple[int, object]]:
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabelsUnreadable("is not well-formed JSON") from error
    entries = plain.get("labels") if isinstance(plain, dict) else None
    if not isinstance(entries, list) or set(plain) != {"labels"}:
        raise LabelsUnreadable('is not {"labels": [...]}')
    return iter(enumerate(entries, 1))


def _lines(text: str) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, Refused(number, "is not well-formed JSON")


def _rows(text: str) -> Iterator[tuple[int, object]]:
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        header = [name.strip().casefold() for name in next(reader, [])]
        unknown = sorted(set(header) - _KEYS)
        if unknown or "label" not in header or len(set(header)) != len(header):
            what = f"an unknown column {unknown[0][:40]!r}" if unknown else "no single column 'label'"
            raise LabelsUnreadable(f"has {what}; its first line names device, inference or time, and label")
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                yield reader.line_num, Refused(reader.line_num, f"has not {len(header)} fields")
                continue
            yield (
                reader.line_num,
                {name: value.strip() for name, value in zip(header, row, strict=True) if value},
            )
    except csv.Error as error:
        raise LabelsUnreadable(f"is not CSV (line {reader.line_num}: {error})") from error


def _given(line: int, entry: object, device: str | None) -> Given | Refused:
    try:
        return _checked(line, entry, device)
    except ValueError as error:
        return Refused(line, str(error))


def _checked(line: int, entry: object, device: str | None) -> Given:
    if not isinstance(entry, dict):
        raise ValueError("is no object")
    if set(entry) - _KEYS:
        raise ValueError("has a field that is none of device, inference, time, label")
    name = entry.get("device", device)
    try:
        owner = check_name(name if isinstance(name, str) else "", "device")
    except MalformedMessage as error:
        raise ValueError("names no device") from error
    if ("inference" in entry) == ("time" in entry):
        raise ValueError("names not one of inference and time")
    inference: str | int = (
        _moment(entry["time"]) if "time" in entry else _text(entry["inference"], "inference")
    )
    label = entry.get("label")
    several = label if isinstance(label, list) else [label]
    if not 0 < len(several) <= MAX_LABEL_ROWS:
        raise ValueError(f"has not 1 to {MAX_LABEL_ROWS} labels")
    return Given(line, owner, GivenLabel(inference, tuple(_label(one) for one in several)))


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_LABEL_CHARS or not value.isprintable():
        raise ValueError(f"{what} is no text of 1 to {MAX_LABEL_CHARS} characters")
    return value


def _label(value: object) -> Label:
    if isinstance(value, str):
        # CSV knows no numbers, and nobody names a class by digits that are another class's number.
        return (
            int(value) if value.isascii() and value.isdigit() and len(value) < 10 else _text(value, "label")
        )
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_CLASS:
        raise ValueError("label is no class by number or name")
    return value


def _moment(value: object) -> int:
    """Unix ms of a time: ISO 8601 with an offset (or UTC), Unix seconds, or Unix milliseconds."""
    at_ms: float | None = None
    if isinstance(value, str):
        at_ms = _written(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        at_ms = _counted_from_1970(value)
    # What no message carries would be refused by the device, and its whole part with it.
    if at_ms is None or not 0 <= at_ms <= MAX_TIME_MS:
        raise ValueError("time is neither ISO 8601 nor Unix time")
    return round(at_ms)


def _written(text: str) -> float | None:
    try:
        return _counted_from_1970(float(text))
    except ValueError:
        pass
    try:
        # Python 3.10 does not know "Z".
        moment = datetime.fromisoformat(text.replace("Z", "+00:00").replace("z", "+00:00"))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.timestamp() * 1000


def _counted_from_1970(number: float) -> float | None:
    # Compared before anything is computed: JSON knows whole numbers that no float holds.
    if not 0 <= number <= MAX_TIME_MS:
        return None
    return number if number > _MAX_SECONDS else number * 1000


def counted(reasons: Iterable[str]) -> dict[str, int]:
    """How often each reason stands, most frequent first.

    >>> counted(["b", "a", "b"])
    {'b': 2, 'a': 1}
    """
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
