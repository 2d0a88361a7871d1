"""Numbers, times and states in words that a person reads at a glance."""

from __future__ import annotations

import math
from datetime import datetime, timezone

_SMALL = 1e-4
_LARGE = 1e5
_SUFFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))

# A true minus sign is as wide as a plus, so columns of changes line up.
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
DASH = "\N{EN DASH}"


def whole(value: float | None) -> str:
    """A count with thousands separated: ``12,345``."""
    return DASH if value is None else f"{int(value):,}"


def compact(value: float | None) -> str:
    """A large count in little room: ``12.3k``."""
    if value is None:
        return DASH
    for size, suffix in _SUFFIXES:
        if abs(value) >= size:
            scaled = value / size
            return f"{scaled:.0f}{suffix}" if abs(scaled) >= 100 else f"{scaled:.3g}{suffix}"
    return f"{value:.0f}"


def number(value: float | None, digits: int = 3) -> str:
    """A measured value with as many digits as say something: ``0.123``, ``1,230``, ``1.2e-07``."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    size = abs(value)
    if size < _SMALL or size >= _LARGE * 10:
        return f"{value:.{digits - 1}e}"
    places = max(0, digits - 1 - math.floor(math.log10(size)))
    shown = f"{value:,.{places}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def signed(value: float | None, digits: int = 2) -> str:
    """A change, with its sign: ``+0.8``."""
    shown = number(value, digits)
    if value is None or not math.isfinite(value):
        return shown
    return shown.replace("-", MINUS, 1) if value < 0 else shown if value == 0 else f"+{shown}"


def sd(value: float | None) -> str:
    """A size in reference standard deviations: ``0.83 sd``; what can not be told from none is ``0 sd``."""
    if value is None or not math.isfinite(value):
        return DASH
    shown = f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    shown = shown.rstrip("0").rstrip(".")
    return f"{shown.replace('-', MINUS) if shown != '-0' else '0'} sd"


def shift(value: float | None) -> str:
    """A change in reference standard deviations, with its sign: ``+0.83 sd``."""
    shown = sd(value)
    return (
        f"+{shown}" if value is not None and math.isfinite(value) and value > 0 and shown != "0 sd" else shown
    )


def rounded(value: float | None, spread: float, *, sign: bool = False) -> str:
    """A value with the digits that matter beside a spread: two of the spread's own.

    >>> rounded(117.8236, 16.03)
    '118'
    """
    if value is None or not math.isfinite(value):
        return DASH
    if not (math.isfinite(spread) and spread > 0):
        return signed(value) if sign else number(value)
    places = 1 - math.floor(math.log10(spread))
    if not -6 <= places <= 6:
        return signed(value) if sign else number(value)
    kept = round(value, places)
    shown = f"{abs(kept):,.{max(0, places)}f}"
    if kept == 0:
        return "0" if sign else shown
    return f"{MINUS if kept < 0 else '+' if sign else ''}{shown}"


_SHORT_UNITS = {"us": "\N{MICRO SIGN}s", "C": "\N{DEGREE SIGN}C", "celsius": "\N{DEGREE SIGN}C"}


def unit(name: str) -> str:
    """A unit as people write it."""
    return _SHORT_UNITS.get(name, name)


def percent(part: float | None, of: float | None = 1.0) -> str:
    """A share: ``12.3 %``; never rounds up to 100 or down to 0 what is not."""
    if part is None or not of:
        return DASH
    share = 100 * part / of
    if not math.isfinite(share):
        return DASH
    if 0 < share < 0.1:
        return "<0.1 %"
    if 99.9 < share < 100:
        return ">99.9 %"
    shown = f"{share:.1f}"
    return f"{shown.removesuffix('.0')} %"


def size(count: float | None) -> str:
    """Bytes: ``1.5 kB``."""
    if count is None:
        return DASH
    if count < 1000:
        return f"{count:.0f} B"
    return f"{count / 1e6:.3g} MB" if count >= 1e6 else f"{count / 1e3:.3g} kB"


def duration(seconds: float | None) -> str:
    """A length of time by its two largest units: ``3 d 4 h``, ``12 min``, ``0.4 s``."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 0:
        return f"{MINUS}{duration(-seconds)}"
    if seconds < 1:
        return "0 s" if seconds == 0 else f"{seconds:.1g} s"
    left = int(seconds)
    for position, (length, unit) in enumerate(_UNITS):
        if left >= length:
            count, rest = divmod(left, length)
            if position + 1 < len(_UNITS) and count < 10:
                next_length, next_unit = _UNITS[position + 1]
                if rest >= next_length:
                    return f"{count} {unit} {rest // next_length} {next_unit}"
            return f"{count} {unit}"
    return "0 s"


def moment(ms: int | None) -> datetime | None:
    """Unix milliseconds as a time in UTC, or None where no calendar can say it."""
    if ms is None:
        return None
    try:
        return datetime.fromtimestamp(ms / 1000, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None


def stamp(ms: int | None) -> str:
    """``2026-03-01 14:05:09 UTC``."""
    when = moment(ms)
    return DASH if when is None else f"{when:%Y-%m-%d %H:%M:%S} UTC"


def iso(ms: int | None) -> str | None:
    """RFC 3339 with milliseconds, as the API speaks it."""
    when = moment(ms)
    return None if when is None else when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ago(ms: int | None, now_ms: int) -> str:
    """How long ago: ``5 min ago``, ``in 2 h`` for what lies ahead."""
    if ms is None:
        return "never"
    seconds = (now_ms - ms) / 1000
    if abs(seconds) < 1:
        return "now"
    return f"{duration(seconds)} ago" if seconds > 0 else f"in {duration(-seconds)}"


def short_id(identifier: str | None, length: int = 10) -> str:
    """The first characters of a long hash or id."""
    if not identifier:
        return DASH
    return identifier if len(identifier) <= length else identifier[:length] + "…"


_KINDS = {
    "sensor_fault": "sensor fault",
    "covariate_shift": "inputs drifted",
    "output_shift": "outputs drifted",
    "label_shift": "class mix changed",
    "concept_shift": "errors by labels",
    "concept": "errors by labels",
    "data_quality": "data quality",
    "model_fault": "model fault",
    "poisoning": "poisoning suspected",
}


def kind(name: str) -> str:
    """An incident's or finding's kind in words."""
    return _KINDS.get(name, name.replace("_", " "))


_SENSORS = {
    "temperature": "temperature, degC",
    "clock_share": "clock, of the highest",
    "load": "load, for each CPU",
    "memory_free": "free memory, MiB",
    "disk_free": "free disk, MiB",
}


def sensor(name: str) -> str:
    """A sensor of a device's board in words, with its unit."""
    return _SENSORS.get(name, name.replace("_", " "))


# Findings whose kind says more than a size would.
_PLAIN_DETAILS = {
    "board": "heat or supply voltage",
    "crash_loop": "crashes again and again",
    "over_budget": "takes more of its board than it may",
    "disk_short": "has little room left on its disk",
    "store_unwritable": "can not write what it records",
    "stuck": "repeats one value",
    "frozen": "repeats one picture or row",
    "missing": "is missing",
    "dead": "gives one answer to everything",
    "wrong_scale": "is fed on the wrong scale",
    "new_category": "has categories never seen before",
    "skew": "is installed differently from the training data",
}


def detail(name: str) -> str:
    """What happened to a stream, where that says more than a size; otherwise nothing."""
    return _PLAIN_DETAILS.get(name, "")


def scope(name: str, attributes: list[list[str]] | tuple[tuple[str, str], ...], key: str) -> str:
    """Where an incident is, as a phrase: ``the whole fleet``, ``site = north, camera = B``, ``device d1``."""
    if name == "fleet":
        return "whole fleet"
    if name == "cohort" and attributes:
        return ", ".join(f"{left} = {right}" for left, right in attributes)
    if name == "group":
        return f"{key} and others"
    return key or name
