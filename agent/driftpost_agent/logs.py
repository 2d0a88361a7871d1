"""Log lines for a journal: one event a line, its facts as `key=value`."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TextIO

# Attributes every record has; what else a record carries was given with `extra` and is a fact worth showing.
_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "message",
    "asctime",
    "taskName",
}
# syslog's priorities, which journald reads from the start of a line and leaves out of it.
_PRIORITIES = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


class LineFormatter(logging.Formatter):
    """One line a record.

    Args:
        journal: whether journald reads it: it wants the priority in front and adds the time itself.
    """

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """The record as `time level logger: message key=value ...`; a traceback follows as one value."""
        facts = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        tail = "".join(f" {key}={_value(value)}" for key, value in facts.items())
        text = " ".join(record.getMessage().splitlines())
        body = f"{record.levelname.lower()} {record.name}: {text}{tail}"
        if self._journal:
            return f"<{_PRIORITIES.get(record.levelname, 6)}>{body}"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{stamp}.{int(record.msecs):03d}Z {body}"


def set_up(level: str, *, journal: bool, stream: TextIO | None = None) -> None:
    """Send all log lines of this process to `stream` (stderr)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(journal=journal))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _value(value: object) -> str:
    text = str(value)
    return text if text and not set(text) & set(' "=\n\t') else json.dumps(text, ensure_ascii=False)
