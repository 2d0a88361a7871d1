"""How the board itself is: heat, throttling, supply voltage, disk, memory, load; read from /sys and /proc.

What a board does not have is left out. Nothing here starts a program: `vcgencmd` is not there in a container,
and the kernel tells the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Names, units and meanings of what is read, in the order in which it is shown.
SENSORS: dict[str, tuple[str, str]] = {
    "temperature": ("degC", "hottest thermal zone"),
    "throttled": ("", "1 while the processor is slowed down to protect itself"),
    "undervoltage": ("", "1 while the supply voltage is too low"),
    "clock_share": ("", "clock of the fastest CPU against the highest it can have"),
    "load": ("", "processes that want to run, for each CPU (one minute's mean)"),
    "memory_free": ("MiB", "memory that programs can still get"),
    "disk_free": ("MiB", "free space where the store is"),
}

# Degrees outside of which a zone's sensor is not connected: some boards say -40 or 0xFF then.
_PLAUSIBLE_C = (-30.0, 150.0)
# Bits of the Raspberry Pi firmware's `get_throttled` that speak of now.
_PI_UNDERVOLTAGE = 0x1
_PI_SLOWED = 0xE  # frequency capped, throttled, soft temperature limit


def read_board(folder: Path, root: Path = Path("/")) -> dict[str, float]:
    """Read every sensor that there is.

    Args:
        folder: where the store is, for the free space.
        root: what stands in for `/`, for tests.

    Returns:
        Values by the names in `SENSORS`; what can't be read is missing.
    """
    readers: dict[str, Callable[[], float | None]] = {
        "temperature": lambda: max(_temperatures(root), default=None),
        "throttled": lambda: _throttled(root),
        "undervoltage": lambda: _undervoltage(root),
        "clock_share": lambda: max(_clock_shares(root), default=None),
        "load": lambda: _load(root),
        "memory_free": lambda: _memory_free(root),
        "disk_free": lambda: _disk_free(folder),
    }
    found = {name: reader() for name, reader in readers.items()}
    return {name: float(value) for name, value in found.items() if value is not None}


def _number(path: Path, base: int = 10) -> int | None:
    try:
        with path.open("rb") as file:
            return int(file.read(64), base)
    except (OSError, ValueError):
        return None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(4096).decode("ascii", "replace").strip()
    except OSError:
        return ""


def _glob(root: Path, pattern: str) -> Iterator[Path]:
    try:
        yield from sorted(root.glob(pattern))
    except OSError:
        return


def _temperatures(root: Path) -> Iterator[float]:
    for zone in _glob(root, "sys/class/thermal/thermal_zone*/temp"):
        value = _number(zone)
        if value is not None and _PLAUSIBLE_C[0] <= value / 1000 <= _PLAUSIBLE_C[1]:
            yield value / 1000


def _pi_flags(root: Path) -> int | None:
    for path in _glob(root, "sys/devices/platform/soc*/*firmware*/get_throttled"):
        return _number(path, 16)
    return None


def _throttled(root: Path) -> float | None:
    flags = _pi_flags(root)
    if flags is not None:
        return float(bool(flags & _PI_SLOWED))
    told = None
    # Elsewhere the kernel's own governor holds the processor back through a cooling device.
    for device in _glob(root, "sys/class/thermal/cooling_device*"):
        if "cpu" in _text(device / "type").lower() or "processor" in _text(device / "type").lower():
            state = _number(device / "cur_state")
            if state is not None:
                told = max(told or 0.0, float(state > 0))
    return told


def _undervoltage(root: Path) -> float | None:
    for name in _glob(root, "sys/class/hwmon/hwmon*/name"):
        if _text(name) == "rpi_volt":
            alarm = _number(name.parent / "in0_lcrit_alarm")
            if alarm is not None:
                return float(alarm != 0)
    flags = _pi_flags(root)
    return None if flags is None else float(bool(flags & _PI_UNDERVOLTAGE))


def _clock_shares(root: Path) -> Iterator[float]:
    for folder in _glob(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq"):
        now, most = _number(folder / "scaling_cur_freq"), _number(folder / "cpuinfo_max_freq")
        if now is not None and most:
            yield now / most


def _load(root: Path) -> float | None:
    try:
        return float(_text(root / "proc/loadavg").split()[0]) / (os.cpu_count() or 1)
    except (ValueError, IndexError):
        return None


def _memory_free(root: Path) -> float | None:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            try:
                return int(line.split()[1]) / 1024
            except (ValueError, IndexError):
                return None
    return None


def _disk_free(folder: Path) -> float | None:
    try:
        space = os.statvfs(folder)
    except OSError:
        return None
    return space.f_bavail * space.f_frsize / 2**20
