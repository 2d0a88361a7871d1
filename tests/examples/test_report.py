import io
from dataclasses import replace

import pytest
from rich.console import Console

from examples.run_facts import COHORT, DEVICE, DRIFT_MS, RIGHT
from report import accuracy_text, checks_text, incidents_text, print_summary
from summary import Overhead


def printed(facts) -> str:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    print_summary(facts, console)
    return console.file.getvalue()


def test_the_summary_tells_incidents_accuracy_bytes_and_the_verdict():
    text = printed(replace(RIGHT, overheads=[Overhead("onnx", 20.0, 33.0)]))
    assert "cohort camera=B: covariate_shift, shift; opened 5 windows of 2 s after the onset" in text
    assert "camera=B 97.5% -> 50.0%" in text
    assert "30,000" in text
    assert "1,000" in text
    assert "20.0 us of CPU a call without it, 33.0 us with it" in text
    assert text.rstrip().endswith("every promise was kept")


def test_a_broken_promise_is_named_with_its_numbers():
    text = printed(replace(RIGHT, incidents=[DEVICE]))
    assert "BROKEN one incident of the cohort camera=B" in text
    assert text.rstrip().endswith("a promise was broken")


@pytest.mark.parametrize("incidents", [[], [COHORT, replace(DEVICE, state="resolved")]])
def test_every_incident_is_told_also_one_that_is_over(incidents):
    text = incidents_text(replace(RIGHT, incidents=incidents)).plain
    assert ("(resolved since)" in text) == bool(incidents)
    assert ("no incident" in text) == (not incidents)


def test_a_run_without_drift_is_told_too():
    calm = replace(
        RIGHT, drift=False, drift_ms=DRIFT_MS, incidents=[], findings=[], deliveries=[], requests={}
    )
    assert "no incident at all: none" in checks_text(calm).plain
    assert "->" in accuracy_text(calm)
    assert printed(calm).rstrip().endswith("every promise was kept")
