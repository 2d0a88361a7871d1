"""What the agent takes of its board against its budgets: measured, enforced, shown.

Who measures and who acts is passed in, so that this is arithmetic on readings. `Budgets.look` is called by
the supervisor every few seconds.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftpost_agent.allowance import HOUR_MS, DailyAllowance
from driftpost_sync.settings import Settings

log = logging.getLogger(__name__)

MIB = 2**20
# The CPU share is the mean over this long, ms: a burst of requests is no reason to pace anything.
CPU_MS = 60_000
# What is over for this long is told, ms: memory comes back after a burst, a pruned disk at the next look.
PATIENCE_MS = 60_000
# Acting on memory or disk once more would not help before this has passed, ms.
ACT_EVERY_MS = 60_000
# Below this share of its budget the disk has recovered, and the outbox may grow again.
RECOVERED = 0.8
# Rows are sketched at most this many times more rarely than `windows.flush_seconds` says.
MAX_STRETCH = 8
USAGE_FILE = "usage.json"
MAX_USAGE_BYTES = 16_384


@dataclass(frozen=True)
class Reading:
    """What was measured at one moment; None where the system does not tell.

    Attributes:
        memory: resident bytes of agent and model.
        disk: bytes of the store's folder.
        written: bytes this process caused to be written since its start.
        sent: bytes handed to the broker since its start.
        largest_message: the largest message sent, bytes.
        cpu_ms: CPU time of this process since its start.
    """

    memory: int
    disk: int
    written: int | None
    sent: int
    largest_message: int
    cpu_ms: float


@dataclass(frozen=True)
class Actions:
    """What may be done about a budget that is exceeded.

    Attributes:
        give_back: hand back memory that is not needed.
        shrink: bring the store down by as many bytes as it is told, as far as it can; 0 lets it grow again.
        hold_windows: keep closed windows in memory (True), or write them (False).
        pace_uplink: keep windows in the outbox (True), or send them (False).
        stretch: sketch rows this many times more rarely.
    """

    give_back: Callable[[], None]
    shrink: Callable[[int], None]
    hold_windows: Callable[[bool], None]
    pace_uplink: Callable[[bool], None]
    stretch: Callable[[int], None]


@dataclass
class _State:
    """How one budget fares."""

    setting: str
    unit: str
    budget: float
    used: float = 0.0
    since: int | None = None
    doing: str = ""


class Budgets:
    """The six budgets of one agent.

    Args:
        settings: agent.toml.
        folder: of the store; a file in it remembers the day's bytes over restarts.
        actions: what can be done.
        now: monotonic ms.
    """

    def __init__(self, settings: Settings, folder: Path, actions: Actions, now: int) -> None:
        self._actions = actions
        self._file = folder / USAGE_FILE
        self.flash = DailyAllowance(round(settings.number("budget.flash_mb_per_day") * MIB), now)
        self.uplink = DailyAllowance(round(settings.number("budget.uplink_mb_per_day") * MIB), now)
        self._states = {
            name: _State(setting, unit, budget)
            for name, setting, unit, budget in (
                ("memory", "budget.memory_mb", "bytes", settings.number("budget.memory_mb") * MIB),
                ("disk", "budget.disk_mb", "bytes", settings.number("budget.disk_mb") * MIB),
                ("flash", "budget.flash_mb_per_day", "bytes a day", float(self.flash.budget or 0)),
                ("message", "mqtt.message_bytes", "bytes", float(settings.integer("mqtt.message_bytes"))),
                ("uplink", "budget.uplink_mb_per_day", "bytes a day", float(self.uplink.budget or 0)),
                ("cpu", "budget.cpu_percent", "% of one core", settings.number("budget.cpu_percent")),
            )
        }
        self._last: Reading | None = None
        self._cpu: deque[tuple[int, float]] = deque()
        self._acted: dict[str, int] = {}
        self._stretched = 1
        self._shrunk = False
        self._kept_at = now
        self._restore(now)

    def look(self, reading: Reading, now: int) -> None:
        """Take a reading and act on it."""
        last = self._last
        if reading.written is not None:
            self.flash.spend(reading.written - ((last and last.written) or 0), now)
        self.uplink.spend(reading.sent - (last.sent if last else 0), now)
        self._last = reading
        share = self._cpu_share(reading.cpu_ms, now)
        for name, used in (
            ("memory", reading.memory),
            ("disk", reading.disk),
            ("flash", self.flash.used(now)),
            ("message", reading.largest_message),
            ("uplink", self.uplink.used(now)),
            ("cpu", share),
        ):
            state = self._states[name]
            state.used = used
            # A message is cut to size before it is sent: one body that is larger still travels alone.
            over = used > state.budget and name != "message"
            state.since = None if not over else now if state.since is None else state.since
        self._act(now)
        if now - self._kept_at >= HOUR_MS:
            self.keep(now)

    def _act(self, now: int) -> None:
        memory, disk = self._states["memory"], self._states["disk"]
        memory.doing = disk.doing = ""
        if memory.since is not None:
            memory.doing = "caches are given back"
            if self._due("memory", now):
                self._actions.give_back()
        if self._shrunk and disk.used < RECOVERED * disk.budget:
            self._shrunk = False
            self._actions.shrink(0)
        if disk.since is not None:
            self._shrunk = True
            disk.doing = "history is removed, then waiting windows are coarsened"
            if self._due("disk", now):
                self._actions.shrink(round(disk.used - disk.budget))
        for name, allowance, act, doing in (
            (
                "flash",
                self.flash,
                self._actions.hold_windows,
                "windows wait in memory and merge there",
            ),
            ("uplink", self.uplink, self._actions.pace_uplink, "windows wait in the outbox, findings go"),
        ):
            held = not allowance.may(now)
            act(held)
            self._states[name].doing = doing if held else ""
        cpu = self._states["cpu"]
        over = cpu.used / cpu.budget
        if over > 1 and self._stretched < MAX_STRETCH and self._due("cpu", now):
            self._stretched = min(MAX_STRETCH, 2 * self._stretched)
        elif over < 0.5 and self._stretched > 1 and self._due("cpu", now):
            self._stretched //= 2
        self._actions.stretch(self._stretched)
        cpu.doing = f"rows are sketched {self._stretched} times more rarely" if self._stretched > 1 else ""

    def _due(self, name: str, now: int) -> bool:
        if now - self._acted.get(name, -ACT_EVERY_MS) < ACT_EVERY_MS:
            return False
        self._acted[name] = now
        return True

    def _cpu_share(self, cpu_ms: float, now: int) -> float:
        self._cpu.append((now, cpu_ms))
        while len(self._cpu) > 2 and now - self._cpu[1][0] >= CPU_MS:
            self._cpu.popleft()
        begun, before = self._cpu[0]
        return 100 * (cpu_ms - before) / (now - begun) if now > begun else 0.0

    def problems(self, now: int) -> tuple[str, ...]:
        """What is over its budget and has been for a while, in words."""
        found = []
        for name, state in self._states.items():
            # What a daily allowance has stopped is told while it is stopped.
            lasting = state.since is not None and now - state.since >= PATIENCE_MS
            if lasting or (name in {"flash", "uplink"} and state.doing):
                doing = f"; {state.doing}" if state.doing else ""
                found.append(
                    f"{name}: {_amount(state.used, state.unit)} of {_amount(state.budget, state.unit)} "
                    f"({state.setting}){doing}"
                )
        return tuple(found)

    def facts(self) -> dict[str, dict[str, Any]]:
        """Used, budget and share of each, for the status document."""
        return {
            name: {
                "setting": state.setting,
                "unit": state.unit,
                "used": round(state.used, 2),
                "budget": round(state.budget, 2),
                "share": round(state.used / state.budget, 4) if state.budget else 0.0,
                "doing": state.doing,
            }
            for name, state in self._states.items()
        }

    def keep(self, now: int) -> None:
        """Write down the day's bytes, once an hour and at the end."""
        self._kept_at = now
        text = json.dumps({"flash": self.flash.to_plain(now), "uplink": self.uplink.to_plain(now)})
        draft = self._file.with_suffix(".new")
        try:
            draft.write_text(text, encoding="ascii")
            draft.replace(self._file)
        except OSError as error:
            log.warning("the day's bytes can't be written down: %s", error)

    def _restore(self, now: int) -> None:
        try:
            if self._file.stat().st_size > MAX_USAGE_BYTES:
                return
            plain = json.loads(self._file.read_text(encoding="ascii"))
        except (OSError, ValueError, RecursionError):
            return  # a first start, or a file that a power cut has torn: counted from nothing
        if isinstance(plain, dict):
            for name, allowance in (("flash", self.flash), ("uplink", self.uplink)):
                slots = plain.get(name)
                if isinstance(slots, list):
                    allowance.restore(slots, now)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; those that vanish meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_size
        except OSError:
            continue
    return total


def _amount(value: float, unit: str) -> str:
    if unit.startswith("bytes"):
        return f"{value / MIB:.1f} MiB{unit.removeprefix('bytes')}"
    return f"{value:.0f} {unit}"
