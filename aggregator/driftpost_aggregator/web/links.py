"""Addresses of our own pages."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote, urlencode


def segment(text: str) -> str:
    """Text as one segment of a path."""
    return quote(text, safe="")


def address(path: str, **parameters: str | int | Sequence[str] | None) -> str:
    """A path with those parameters that have a value."""
    given = {name: value for name, value in parameters.items() if value not in (None, "", (), [])}
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


def stream_address(bundle: str, stream: str, scope: str = "fleet", key: str = "") -> str:
    """Page of one stream, as seen from a scope."""
    path = f"/streams/{segment(bundle)}/{segment(stream)}"
    return path if scope == "fleet" else address(path, scope=scope, key=key)
