"""Prints the summary."""

from __future__ import annotations

from statistics import median

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scenario import DEVICES, DRIFTED_ATTRIBUTE, FROZEN_DEVICE, WINDOW_SECONDS, cohort
from summary import Facts, accuracy, checks, windows_after


def print_summary(facts: Facts, console: Console) -> None:
    """Print what happened, and which promises were kept."""
    console.print()
    for block in (incidents_text, accuracy_text, devices_table, cost_text, checks_text):
        console.print(block(facts), soft_wrap=True, highlight=False)
        console.print()


def incidents_text(facts: Facts) -> Text:
    """Every incident, with how long it took."""
    if not facts.incidents:
        return Text("no incident", style="bold")
    lines = []
    for one in facts.incidents:
        state = "" if one.state == "open" else f" ({one.state} since)"
        windows = windows_after(facts.drift_ms, one)
        lines.append(
            Text.assemble(
                (f"{one.scope} {one.scope_key}", "bold"),
                f": {one.kind}, {one.detail}; opened {windows} windows of {WINDOW_SECONDS:g} s after the "
                f"onset{state}\n    {one.cause}",
            )
        )
    return Text("\n").join(lines)


def accuracy_text(facts: Facts) -> str:
    """Accuracy in both phases, for each fate."""
    groups = {
        "=".join(DRIFTED_ATTRIBUTE): cohort(),
        FROZEN_DEVICE: frozenset({FROZEN_DEVICE}),
        "the others": frozenset(device.name for device in DEVICES) - cohort() - {FROZEN_DEVICE},
    }
    told = "; ".join(
        f"{name} {accuracy(facts, 'quiet', devices):.1%} -> {accuracy(facts, 'drift', devices):.1%}"
        for name, devices in groups.items()
    )
    return f"accuracy before -> after: {told}"


def devices_table(facts: Facts) -> Table:
    """Rows and bytes of every device."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("device", "fed", "recorded", "stored", "windows", "bytes sent", "bytes a window"):
        table.add_column(name, justify="left" if name == "device" else "right")
    for name, one in facts.accounts.items():
        table.add_row(
            name,
            str(one.fed),
            str(one.recorded),
            str(one.stored),
            str(one.windows),
            f"{one.sent_bytes:,}",
            f"{one.sent_bytes / max(one.windows, 1):,.0f}",
        )
    return table


def cost_text(facts: Facts) -> str:
    """What the guard costs: CPU side by side, and the agents' own meters."""
    lines = [
        f"guard around the {one.runtime} model: {one.bare_us:.1f} us of CPU a call without it, "
        f"{one.guarded_us:.1f} us with it"
        for one in facts.overheads
    ]
    guard = median(one.guard_us for one in facts.accounts.values())
    model = median(one.model_us for one in facts.accounts.values())
    lines.append(
        f"in the agents, by their own meters (time, not CPU, sharing two cores with all of this): "
        f"{guard:.0f} us in the guard, {model:.0f} us in the model's process"
    )
    return "\n".join(lines)


def checks_text(facts: Facts) -> Text:
    """Every promise and whether it was kept; the last line is the verdict."""
    judged = checks(facts)
    lines = [
        Text.assemble(
            ("kept   ", "green") if check.kept else ("BROKEN ", "bold red"),
            f"{check.promise}: {check.detail}",
        )
        for check in judged
    ]
    kept = all(check.kept for check in judged)
    verdict = "every promise was kept" if kept else "a promise was broken"
    return Text("\n").join([*lines, Text(verdict, style="bold green" if kept else "bold red")])
