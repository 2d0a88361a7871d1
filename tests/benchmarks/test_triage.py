"""The triage benchmark's own judgement, and one of its scripts in small."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from benchmarks.triage.run import is_about, play
from benchmarks.triage.scripts import SCRIPTS, Truth


@dataclass
class Row:
    """An incident's columns that are judged."""

    scope: str
    scope_key: str


@pytest.mark.parametrize(
    ("row", "devices", "truth", "right"),
    [
        (Row("cohort", "camera=B"), {"a"}, Truth("cohort", "camera=B"), True),
        (Row("cohort", "camera=A"), {"a"}, Truth("cohort", "camera=B"), False),
        (Row("device", "a"), {"a"}, Truth("cohort", "a"), False),
        (Row("group", "a"), set("abcdefghi"), Truth("group", members=frozenset("abcdefghij")), True),
        (Row("group", "a"), set("abcdefgh"), Truth("group", members=frozenset("abcdefghij")), False),
        (Row("group", "a"), set("abcdefghijklm"), Truth("group", members=frozenset("abcdefghij")), False),
    ],
)
def test_an_incident_is_right_by_its_scope_and_a_group_by_who_is_in_it(
    row: Row, devices: set[str], truth: Truth, right: bool
) -> None:
    assert is_about(row, devices, truth) is right


def test_a_script_plays_through_the_real_ingest_and_triage() -> None:
    result = play("one stuck sensor", 16, 3)
    assert (result["truths"], result["incidents"], result["wide"]) == (1, 1, 0)
    assert (result["precision"], result["recall"], result["kind"]) == (1.0, 1.0, 1.0)
    assert 2 < result["windows"] < 8


def test_every_script_that_the_benchmark_promises_is_there() -> None:
    words = " ".join(SCRIPTS)
    promised = ("no drift", "stuck", "scattered", "firmware", "camera at a site", "whole fleet")
    promised += ("label shift", "10 % liars", "new device type", "day and night", "without an attribute")
    for one in promised:
        assert one in words
    assert not any(math.isnan(value) for _, options in SCRIPTS.values() for value in options.values())
