"""Prints the summary."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scenario import DEVICES, DRIFTED_ATTRIBUTE, FROZEN_DEVICE, WINDOW_SECONDS, cohort
from summary import Facts, accuracy, checks, cohort_incidents, device_incidents, passed, windows_after


def print_summary(facts: Facts, console: Console) -> None:
    """Print what happened, and which promises were kept."""
    console.print()
    if facts.drift:
        _print_incidents(facts, console)
    _print_accuracy(facts, console)
    _print_devices(facts, console)
    _print_overhead(facts, console)
    for check in checks(facts):
        mark = Text("kept  ", style="green") if check.kept else Text("BROKEN", style="bold red")
        console.print(Text.assemble(mark, f" {check.promise}: {check.detail}"), soft_wrap=True)
    verdict = "every promise was kept" if passed(facts) else "a promise was broken"
    console.print(Text(verdict, style="bold green" if passed(facts) else "bold red"))


def _print_incidents(facts: Facts, console: Console) -> None:
    for one in (*cohort_incidents(facts), *device_incidents(facts)):
        console.print(
            Text.assemble(
                (f"{one.scope} {one.scope_key}", "bold"),
                f": {one.kind} ({one.detail}) on {', '.join(sorted(one.devices))}, opened "
                f"{windows_after(facts.drift_ms, one)} windows of {WINDOW_SECONDS:g} s after the onset\n"
                f"  {one.cause}",
            ),
            soft_wrap=True,
        )


def _print_accuracy(facts: Facts, console: Console) -> None:
    key, value = DRIFTED_ATTRIBUTE
    healthy = frozenset(one.name for one in DEVICES) - cohort() - {FROZEN_DEVICE}
    groups = {
        f"{key}={value}": cohort(),
        FROZEN_DEVICE: frozenset({FROZEN_DEVICE}),
        "the others": healthy,
    }
    told = "; ".join(
        f"{name} {accuracy(facts, 'quiet', devices):.1%} -> {accuracy(facts, 'drift', devices):.1%}"
        for name, devices in groups.items()
    )
    console.print(f"accuracy before -> after: {told}", highlight=False, soft_wrap=True)


def _print_devices(facts: Facts, console: Console) -> None:
    table = Table(pad_edge=False)
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
    console.print(table)


def _print_overhead(facts: Facts, console: Console) -> None:
    for one in facts.overheads:
        added = one.guarded_us - one.bare_us
        console.print(
            f"guard around the {one.runtime} model: {one.bare_us:.1f} us of CPU a call without it, "
            f"{one.guarded_us:.1f} us with it ({added:+.1f} us)",
            highlight=False,
            soft_wrap=True,
        )
