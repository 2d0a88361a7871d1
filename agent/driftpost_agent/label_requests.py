"""What `POST /labels` carries: delayed labels by inference."""

from __future__ import annotations

import json

from driftpost_agent.errors import RequestRefused
from driftpost_agent.label_checks import Label

MAX_LABELS = 10_000  # inferences in one request
MAX_ROWS = 4096  # labels of one batch
MAX_TEXT = 200  # characters of an id or a class name


def decode_labels(body: bytes) -> list[tuple[str, Label | list[Label]]]:
    """Pairs of inference and label from `{"labels": [{"id": "...", "label": 3}, ...]}`.

    Raises:
        RequestRefused: it is something else, or too much.
    """
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(f"the labels are not JSON: {str(error)[:80]}") from error
    entries = plain.get("labels") if isinstance(plain, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_LABELS:
        raise RequestRefused(f"send {{'labels': [...]}} with at most {MAX_LABELS} entries")
    return [_pair(entry, place) for place, entry in enumerate(entries)]


def _pair(entry: object, place: int) -> tuple[str, Label | list[Label]]:
    name = entry.get("id") if isinstance(entry, dict) else None
    label = entry.get("label") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not 0 < len(name) <= MAX_TEXT:
        raise RequestRefused(f"entry {place}: 'id' must be the inference's id, a text")
    if isinstance(label, list) and len(label) <= MAX_ROWS and all(_is_label(one) for one in label):
        return name, label
    if not _is_label(label):
        raise RequestRefused(f"entry {place}: 'label' must be a class by number or name, or a list of them")
    assert isinstance(label, (int, str))
    return name, label


def _is_label(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    return isinstance(value, int) and not isinstance(value, bool)
