"""Log lines: one event a line, readable by people and by a journal."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from driftpost_agent.logs import set_up


@pytest.fixture(autouse=True)
def _root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def line(*, journal: bool = False, level: str = "info") -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    set_up(level, journal=journal, stream=stream)
    return logging.getLogger("driftpost_agent.test"), stream


def test_facts_follow_the_message_as_pairs() -> None:
    log, stream = line()
    log.info("window closed", extra={"rows": 40, "text": 'two "words"'})
    assert stream.getvalue().endswith(
        'Z info driftpost_agent.test: window closed rows=40 text="two \\"words\\""\n'
    )


def test_for_the_journal_the_priority_stands_in_front() -> None:
    log, stream = line(journal=True)
    log.error("disk full")
    assert stream.getvalue() == "<3>error driftpost_agent.test: disk full\n"


def test_nothing_that_is_logged_can_forge_a_second_line() -> None:
    log, stream = line()
    log.warning("name %s", "a\nforged", extra={"client": "b\nforged"})
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        log.exception("failed")
    assert len(stream.getvalue().splitlines()) == 2


def test_less_severe_lines_are_left_out() -> None:
    log, stream = line(level="warning")
    log.info("hello")
    assert stream.getvalue() == ""
