import io
from dataclasses import replace

import pytest
from rich.console import Console

from progress import DeviceLine, Progress, Snapshot

LINE = DeviceLine("meter-1", "B", "onnx", "", 240, 0.975, 12, 11, 10, 0)
SNAPSHOT = Snapshot("quiet stretch", 20.0, "http://127.0.0.1:8088", [LINE, replace(LINE, name="meter-2")])


def console(terminal, kind="xterm"):
    # rich asks the environment what the terminal can do; the test's own must not decide.
    return Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=120,
        color_system=None,
        _environ={"TERM": kind},
    )


def shown(console):
    return console.file.getvalue()


def test_a_log_gets_a_line_now_and_then_and_every_incident_once():
    out = console(terminal=False)
    with Progress(out) as progress:
        for second in range(4):
            progress.show(SNAPSHOT, float(second))
        found = replace(SNAPSHOT, incidents={"i-1 open": "cohort camera=B"}, request="delivered")
        progress.show(found, 4.5)
        progress.show(found, 4.6)
        later = replace(found, incidents={"i-1 open": "cohort camera=B, 5.1 sd"})
        progress.show(later, 6.0)
    lines = shown(out).splitlines()
    assert lines == [
        "quiet stretch: 480 inferences; windows 24 recorded, 22 sent, 20 acknowledged; 0 findings",
        "  incident: cohort camera=B",
        "  retrain request: delivered",
        "quiet stretch: 480 inferences; windows 24 recorded, 22 sent, 20 acknowledged; 0 findings",
    ]


def test_a_new_phase_is_told_at_once():
    out = console(terminal=False)
    with Progress(out) as progress:
        progress.show(SNAPSHOT, 0.0)
        progress.show(replace(SNAPSHOT, phase="drift"), 0.1)
    assert [line.split(":")[0] for line in shown(out).splitlines()] == ["quiet stretch", "drift"]


@pytest.mark.parametrize("text", ["meter-1", "98%", "http://127.0.0.1:8088", "20 s left", "none", "acked"])
def test_a_terminal_gets_a_live_table(text):
    out = console(terminal=True)
    with Progress(out) as progress:
        progress.show(SNAPSHOT, 0.0)
    assert text in shown(out)


def test_a_terminal_that_can_not_move_its_cursor_gets_plain_lines():
    out = console(terminal=True, kind="dumb")
    with Progress(out) as progress:
        progress.show(SNAPSHOT, 0.0)
    assert shown(out).startswith("quiet stretch: 480 inferences")


def test_an_address_in_brackets_is_printed_as_it_is():
    out = console(terminal=False)
    Progress(out).say("state in /tmp/x [kept]")
    assert shown(out) == "state in /tmp/x [kept]\n"
