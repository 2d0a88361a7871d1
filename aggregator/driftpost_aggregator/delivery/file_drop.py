"""A folder: each event is a file of its own, complete or not there at all."""

from __future__ import annotations

import os
from pathlib import Path

from driftpost_aggregator.delivery.schedule import Answer


def deliver(folder: Path, request: str, body: bytes) -> Answer:
    """Write `<request>.json`; a repetition writes the same bytes under the same name."""
    part = folder / f".{request}.part"
    try:
        with part.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / f"{request}.json")
        # The name must survive a power cut, too, before we say that it was delivered.
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        return Answer(None, f"{folder} can not be written: {error.strerror or error}")
    return Answer(200, "")
