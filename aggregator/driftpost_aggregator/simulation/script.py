"""What a simulated fleet is made of and what happens to it, read from a TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from driftpost_aggregator.errors import ConfigurationError
from driftpost_sync.settings import REQUIRED, Setting, Settings, SettingsTable, TableArray

KINDS = ("shift", "spread", "stuck", "missing", "classes")
# A window that never comes; what begins there does not happen.
NEVER = 1 << 31

TABLE = SettingsTable(
    "fleet.toml",
    (
        Setting("rows", int, 300, "rows", "inferences in a window", minimum=1, maximum=1_000_000),
        Setting(
            "window_s",
            float,
            0.0,
            "s",
            "length of a window; 0 takes the bundle's",
            minimum=0,
            maximum=86_400,
        ),
        Setting("repeated", float, 0.0, meaning="share of messages sent twice", minimum=0, maximum=1),
        Setting("reordered", float, 0.0, meaning="share of windows sent late", minimum=0, maximum=1),
        Setting("clockless", float, 0.0, meaning="share of devices without wall time", minimum=0, maximum=1),
        TableArray(
            "attributes",
            (
                Setting("name", str, REQUIRED, meaning="of the attribute"),
                Setting("values", list[str], REQUIRED, meaning="drawn with equal probability"),
            ),
            "an attribute that every device has",
            maximum=16,
        ),
        TableArray(
            "disturbances",
            (
                Setting("kind", str, REQUIRED, meaning="what happens", choices=KINDS),
                Setting("stream", str, REQUIRED, meaning="to which stream"),
                Setting(
                    "amount",
                    float,
                    1.0,
                    meaning="shift in reference sd, factor of spread, share missing or put into one class",
                ),
                Setting("where", dict[str, str], {}, meaning="attributes of the devices it happens to"),
                Setting("share", float, 1.0, meaning="of these devices", minimum=0, maximum=1),
                Setting("begin", int, 0, "windows", "first window it happens in", minimum=0),
                Setting("end", int, NEVER, "windows", "first window it is over in", minimum=0),
                Setting(
                    "found_after",
                    int,
                    -1,
                    "windows",
                    "after which the device reports a finding; -1: never",
                    minimum=-1,
                ),
            ),
            "something that happens to some devices for some time",
            maximum=64,
        ),
    ),
)


@dataclass(frozen=True)
class Disturbance:
    """Something that happens to some devices for some time; see `TABLE` for each field."""

    kind: str
    stream: str
    amount: float
    where: Mapping[str, str] = field(hash=False)
    share: float
    begin: int
    end: int
    found_after: int


@dataclass(frozen=True)
class Script:
    """A fleet's making and its fate; see `TABLE` for each field."""

    rows: int = 300
    window_s: float = 0.0
    repeated: float = 0.0
    reordered: float = 0.0
    clockless: float = 0.0
    attributes: Mapping[str, tuple[str, ...]] | None = None
    disturbances: tuple[Disturbance, ...] = ()

    @property
    def choices(self) -> Mapping[str, tuple[str, ...]]:
        """Attributes and their values."""
        return DEFAULT_ATTRIBUTES if self.attributes is None else self.attributes


DEFAULT_ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "site": ("north", "south", "harbour", "mill", "depot", "market"),
    "camera": ("A", "B", "C"),
    "firmware": ("2.1.0", "2.2.4", "2.3.0"),
}


def load(path: Path) -> Script:
    """Read a script.

    Raises:
        SettingsError: it breaks the table; every problem listed.
        ConfigurationError: its values do not go together.
    """
    return from_settings(TABLE.load(path))


def from_settings(settings: Settings) -> Script:
    """The script in checked settings.

    Raises:
        ConfigurationError: an attribute without values, or a disturbance of an attribute that nobody has.
    """
    attributes = {entry.text("name"): entry.texts("values") for entry in settings.tables("attributes")}
    for name, values in attributes.items():
        if not values:
            raise ConfigurationError("attributes", f"{name} has no values")
    script = Script(
        rows=settings.integer("rows"),
        window_s=settings.number("window_s"),
        repeated=settings.number("repeated"),
        reordered=settings.number("reordered"),
        clockless=settings.number("clockless"),
        attributes=attributes or None,
        disturbances=tuple(
            Disturbance(
                kind=entry.text("kind"),
                stream=entry.text("stream"),
                amount=entry.number("amount"),
                where=entry.text_map("where"),
                share=entry.number("share"),
                begin=entry.integer("begin"),
                end=entry.integer("end"),
                found_after=entry.integer("found_after"),
            )
            for entry in settings.tables("disturbances")
        ),
    )
    for one in script.disturbances:
        for key, value in one.where.items():
            if value not in script.choices.get(key, ()):
                raise ConfigurationError("disturbances.where", f"no device has {key}={value}")
    return script
