"""Shows how the demo goes: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

REFRESHES_PER_SECOND = 4
PLAIN_EVERY_S = 5.0  # a log reads better with a line every few seconds than with hundreds


@dataclass(frozen=True)
class DeviceLine:
    """One device now.

    Attributes:
        name: The device.
        camera: Type of its camera.
        runtime: What runs its model.
        effect: What happens to its camera; empty if nothing does.
        fed: Inferences answered.
        accuracy: Share of right answers in this phase; NaN before the first.
        recorded: Windows recorded.
        sent: Windows handed to the broker.
        acknowledged: Windows that the aggregator has committed.
        findings: Findings that stand.
    """

    name: str
    camera: str
    runtime: str
    effect: str
    fed: int
    accuracy: float
    recorded: int
    sent: int
    acknowledged: int
    findings: int


@dataclass(frozen=True)
class Snapshot:
    """Everything that is shown.

    Attributes:
        phase: What happens now, in words.
        left_s: Seconds left of it, at most; None if that is unknown.
        dashboard: Address of the dashboard; empty before it is up.
        devices: One line each.
        incidents: What is told of each, by a key that changes only when there is news of it.
        request: What is known of the retrain request.
    """

    phase: str
    left_s: float | None = None
    dashboard: str = ""
    devices: Sequence[DeviceLine] = ()
    incidents: Mapping[str, str] = field(default_factory=dict)
    request: str = "none"


@dataclass
class _Said:
    """What was printed last, where there is no live table."""

    phase: str = ""
    at: float = -math.inf
    incidents: set[str] = field(default_factory=set)
    request: str = "none"


class Progress:
    """The demo's face.

    Args:
        console: Where it is shown; a table if it is a terminal, else lines.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = (
            Live(console=console, refresh_per_second=REFRESHES_PER_SECOND, transient=True)
            if console.is_terminal and not console.is_dumb_terminal
            else None
        )
        self._said = _Said()

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, snapshot: Snapshot, now_s: float) -> None:
        """Show the present state.

        Args:
            snapshot: What to show.
            now_s: Monotonic seconds; spaces the lines where there is no table.
        """
        if self._live is not None:
            self._live.update(table(snapshot))
            return
        for line in self._news(snapshot, now_s):
            self.say(line)

    def _news(self, snapshot: Snapshot, now_s: float) -> list[str]:
        said, lines = self._said, []
        if snapshot.phase != said.phase or now_s - said.at >= PLAIN_EVERY_S:
            said.phase, said.at = snapshot.phase, now_s
            lines.append(f"{snapshot.phase}: {totals(snapshot.devices)}")
        lines += [
            f"  incident: {one}" for key, one in snapshot.incidents.items() if key not in said.incidents
        ]
        said.incidents |= set(snapshot.incidents)
        if snapshot.request != said.request:
            said.request = snapshot.request
            lines.append(f"  retrain request: {snapshot.request}")
        return lines


def totals(devices: Sequence[DeviceLine]) -> str:
    """One line about all devices."""
    return (
        f"{sum(one.fed for one in devices)} inferences; windows "
        f"{sum(one.recorded for one in devices)} recorded, {sum(one.sent for one in devices)} sent, "
        f"{sum(one.acknowledged for one in devices)} acknowledged; "
        f"{sum(one.findings for one in devices)} findings"
    )


def table(snapshot: Snapshot) -> RenderableType:
    """The live table."""
    left = "" if snapshot.left_s is None else f"  ({max(0.0, snapshot.left_s):.0f} s left at most)"
    # Narrow enough for a terminal of 80 columns.
    devices = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("device", "camera", "runtime", "now"):
        devices.add_column(name)
    for name in ("fed", "right", "windows", "sent", "acked", "found"):
        devices.add_column(name, justify="right")
    for one in snapshot.devices:
        devices.add_row(
            one.name,
            one.camera,
            one.runtime,
            Text(one.effect or "normal", style="yellow" if one.effect else "green"),
            str(one.fed),
            "" if math.isnan(one.accuracy) else f"{one.accuracy:.0%}",
            str(one.recorded),
            str(one.sent),
            str(one.acknowledged),
            Text(str(one.findings), style="bold red" if one.findings else ""),
        )
    incidents = Text("\n".join(snapshot.incidents.values()) or "none")
    parts: list[RenderableType] = [Text(snapshot.phase + left, style="bold")]
    if snapshot.dashboard:
        parts.append(Text(f"dashboard: {snapshot.dashboard}"))
    parts += [
        devices,
        Text("incidents", style="bold"),
        incidents,
        Text(f"retrain request: {snapshot.request}"),
    ]
    return Group(*parts)
