"""Where the next page of a list starts: opaque text made of the last row's key."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from driftpost_aggregator.web.errors import BadParameter

# Longest cursor we would write ourselves is a device's name of 255 bytes and two numbers; characters.
MAX_CURSOR = 2048

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Page(Generic[T_co]):
    """One page of a list.

    Attributes:
        items: The rows, in a sequence that its reader does not change.
        next: Cursor of the page after it, or None at the end.
    """

    items: Sequence[T_co]
    next: str | None


def encode(*key: str | int) -> str:
    """A cursor that stands after the row with this key."""
    raw = json.dumps(key, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def decode(cursor: str, *kinds: type[str] | type[int]) -> list[str | int]:
    """The key in a cursor.

    Raises:
        BadParameter: it is not one that `encode` wrote for a key of these types.
    """
    refusal = BadParameter(
        "cursor",
        "is not one of ours",
        "take it unchanged from `next` of the page before, with the same filters",
    )
    if len(cursor) > MAX_CURSOR:
        raise refusal
    try:
        key = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise refusal from error
    if not isinstance(key, list) or [type(part) for part in key] != list(kinds):
        raise refusal
    if any(isinstance(part, int) and abs(part) >= 1 << 63 for part in key):
        raise refusal
    return key
