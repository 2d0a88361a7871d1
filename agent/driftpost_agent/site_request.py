"""A person's word on the site baseline, left in a small file for the running agent to take up.

As with the pointer to the active bundle, whoever may write beside the store may decide; no port is opened
for it.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

log = logging.getLogger(__name__)

NAME = "site-request.json"
ACCEPT, AGAIN = "accept", "again"
# Bytes; the request is one short field.
MAX_BYTES = 4096


def leave(folder: Path, decision: str) -> Path:
    """Leave a decision; a later one replaces an earlier one that nobody took up.

    Raises:
        OSError: the folder can't be written.
    """
    path = folder / NAME
    beside = path.with_name(NAME + ".new")
    beside.write_text(json.dumps({"decision": decision}) + "\n", encoding="utf-8")
    beside.replace(path)
    return path


def waiting(folder: Path) -> str | None:
    """The decision that waits, None when there is none; what can't be read is removed."""
    path = folder / NAME
    try:
        with path.open("rb") as file:
            decision = json.loads(file.read(MAX_BYTES))["decision"]
        if decision not in (ACCEPT, AGAIN):
            raise ValueError(f"{decision!r:.40}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("a request about the site baseline can't be read and is removed: %s", error)
        done(folder)
        return None
    return str(decision)


def done(folder: Path) -> None:
    """Remove the request."""
    try:
        (folder / NAME).unlink(missing_ok=True)
    except OSError as error:
        log.error("a request about the site baseline can't be removed: %s", error)
