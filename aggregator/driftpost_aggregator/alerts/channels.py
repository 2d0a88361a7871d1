"""Where alerts go, and which: `[alerts]` and `[[alerts.channels]]` of the settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from driftpost_aggregator.alerts.quiet import QuietHours
from driftpost_aggregator.errors import ConfigurationError
from driftpost_sync.settings import REQUIRED, Setting, Settings, TableArray

KINDS = ("email", "slack", "webhook")
SECURITY = ("starttls", "tls", "none")
SCOPES = ("device", "group", "cohort", "fleet")
# Changes of an incident that people may want to hear of; what they do themselves they know.
CHANGES = ("opened", "widened", "reopened", "resolved", "retrain", "escalated")
_DEFAULT_CHANGES = ("opened", "widened", "reopened", "resolved", "escalated")
MAX_CHANNELS = 32
# An address of a mailbox, without what would need quotes in a header.
_ADDRESS = re.compile(r"""[^\s@<>()\[\],;:"\\]+@[\w-]+(\.[\w-]+)*""")
# Secrets for signing stand in a file of their own, as with targets.
_PORTS = {"starttls": 587, "tls": 465, "none": 25}

ALERT_SETTINGS = (
    Setting(
        "alerts.group_s",
        float,
        60.0,
        "s",
        "changes that come within this time of each other are one message",
        minimum=0,
        maximum=86_400,
    ),
    Setting("alerts.timezone", str, "UTC", meaning="time zone of the quiet hours, as Europe/Vienna"),
    TableArray(
        "alerts.channels",
        (
            Setting("name", str, REQUIRED, meaning="name in the log of messages; never reuse one"),
            Setting("kind", str, REQUIRED, meaning="how messages get there", choices=KINDS),
            Setting(
                "scopes",
                list[str],
                ["group", "cohort", "fleet"],
                meaning="scopes of the incidents it hears of",
            ),
            Setting("kinds", list[str], [], meaning="kinds of incidents it hears of; all where empty"),
            Setting("changes", list[str], list(_DEFAULT_CHANGES), meaning="changes that it hears of"),
            Setting(
                "min_severity",
                float,
                0.0,
                "reference sd",
                "smallest effect of the incidents it hears of",
                minimum=0,
                maximum=1_000,
            ),
            Setting(
                "quiet",
                str,
                meaning="quiet hours, as 22:00-07:00: what is not urgent waits until they are over",
            ),
            Setting("urgent_scopes", list[str], ["fleet"], meaning="scopes that ring in quiet hours too"),
            Setting(
                "url_file", Path, meaning="slack: file with the webhook's URL, which is a secret by itself"
            ),
            Setting("url", str, meaning="webhook: https URL"),
            Setting("secret_file", Path, meaning="webhook: file of whsec_ secrets that sign each message"),
            Setting("allow_private", bool, False, meaning="allow private and loopback addresses, and http"),
            Setting("host", str, meaning="email: the mail server"),
            Setting(
                "port", int, meaning="email: its port; 587, 465 or 25 by security", minimum=1, maximum=65535
            ),
            Setting(
                "security",
                str,
                "starttls",
                meaning="email: how the connection is encrypted",
                choices=SECURITY,
            ),
            Setting("ca", Path, meaning="email: certificates (PEM) that the server's must be signed by"),
            Setting("username", str, meaning="email: name to log in with"),
            Setting("password_file", Path, meaning="email: file whose first line is the password"),
            Setting("sender", str, meaning="email: address that messages come from"),
            Setting("recipients", list[str], [], meaning="email: addresses that they go to"),
            Setting("timeout_s", float, 20.0, "s", "for the whole exchange", minimum=0.1, maximum=60),
        ),
        "where people are told of incidents",
        maximum=MAX_CHANNELS,
    ),
)


@dataclass(frozen=True)
class Channel:
    """One way to tell people; see `[[alerts.channels]]` for each field."""

    name: str
    kind: str
    scopes: tuple[str, ...] = ("group", "cohort", "fleet")
    kinds: tuple[str, ...] = ()
    changes: tuple[str, ...] = _DEFAULT_CHANGES
    min_severity: float = 0.0
    quiet: QuietHours | None = None
    urgent_scopes: tuple[str, ...] = ("fleet",)
    url_file: Path | None = None
    url: str = ""
    secret_file: Path | None = None
    allow_private: bool = False
    host: str = ""
    port: int = 587
    security: str = "starttls"
    ca: Path | None = None
    username: str = ""
    password_file: Path | None = None
    sender: str = ""
    recipients: tuple[str, ...] = ()
    timeout_s: float = 20.0

    @property
    def place(self) -> str:
        """Where it leads, for people; nothing in it is secret."""
        if self.kind == "email":
            return ", ".join(self.recipients)
        return self.url.partition("?")[0] if self.kind == "webhook" else "Slack"


def channels(settings: Settings) -> tuple[Channel, ...]:
    """The channels, in the file's order.

    Raises:
        ConfigurationError: two have one name, or one lacks what its kind needs.
    """
    zone = _zone(settings.text("alerts.timezone"))
    result = tuple(_channel(entry, zone) for entry in settings.tables("alerts.channels"))
    names = [channel.name for channel in result]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError("alerts.channels", f"the name {twice[0]!r} stands twice")
    return result


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError("alerts.timezone", f"{name!r} is no time zone, as Europe/Vienna") from error


def _channel(entry: Settings, zone: ZoneInfo) -> Channel:
    name, kind, security = entry.text("name"), entry.text("kind"), entry.text("security")
    for setting, known in (("scopes", SCOPES), ("urgent_scopes", SCOPES), ("changes", CHANGES)):
        unknown = sorted(set(entry.texts(setting)) - set(known))
        if unknown:
            raise ConfigurationError(
                "alerts.channels", f"{name!r}: {setting}: {unknown[0]!r} is none of {', '.join(known)}"
            )
    quiet = entry.optional("quiet", str)
    try:
        hours = None if quiet is None else QuietHours.parse(quiet, zone)
    except ValueError as error:
        raise ConfigurationError("alerts.channels", f"{name!r}: quiet: {error}") from error
    channel = Channel(
        name=name,
        kind=kind,
        scopes=tuple(entry.texts("scopes")),
        kinds=tuple(entry.texts("kinds")),
        changes=tuple(entry.texts("changes")),
        min_severity=entry.number("min_severity"),
        quiet=hours,
        urgent_scopes=tuple(entry.texts("urgent_scopes")),
        url_file=entry.optional("url_file", Path),
        url=entry.optional("url", str) or "",
        secret_file=entry.optional("secret_file", Path),
        allow_private=entry.flag("allow_private"),
        host=entry.optional("host", str) or "",
        port=entry.optional("port", int) or _PORTS[security],
        security=security,
        ca=entry.optional("ca", Path),
        username=entry.optional("username", str) or "",
        password_file=entry.optional("password_file", Path),
        sender=entry.optional("sender", str) or "",
        recipients=tuple(entry.texts("recipients")),
        timeout_s=entry.number("timeout_s"),
    )
    missing = _missing(channel)
    if missing:
        raise ConfigurationError("alerts.channels", f"{name!r} is of kind {kind}: {missing}")
    return channel


def _missing(channel: Channel) -> str:
    """What a channel lacks, "" if nothing."""
    if channel.kind == "slack":
        return "" if channel.url_file is not None else "it needs url_file"
    if channel.kind == "webhook":
        return "" if channel.url and channel.secret_file is not None else "it needs url and secret_file"
    if not (channel.host and channel.sender and channel.recipients):
        return "it needs host, sender and recipients"
    for address in (channel.sender, *channel.recipients):
        if not address.isprintable() or _ADDRESS.fullmatch(address) is None:
            return f"{address!r} is no address"
    if channel.username and channel.security == "none":
        return "a password must not travel unencrypted; set security to starttls or tls"
    return "" if not channel.username or channel.password_file is not None else "it needs password_file"
