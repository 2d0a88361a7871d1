"""The `[mqtt]` section, the same on a device and at the aggregator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from driftpost_sync.errors import SettingsError, SettingsProblem
from driftpost_sync.messages import MAX_MESSAGE_BYTES
from driftpost_sync.settings import Setting, Settings

Protocol = Literal["auto", "5", "3.1.1"]

MQTT_SETTINGS: tuple[Setting, ...] = (
    Setting("mqtt.host", str, "127.0.0.1", meaning="name or address of the broker"),
    Setting("mqtt.port", int, 1883, meaning="its port; 8883 is usual with TLS", minimum=1, maximum=65535),
    Setting(
        "mqtt.protocol",
        str,
        "auto",
        meaning="MQTT version; auto tries 5 and falls back to 3.1.1",
        choices=("auto", "5", "3.1.1"),
    ),
    Setting("mqtt.username", str, meaning="name to log in with"),
    Setting("mqtt.password_file", Path, meaning="file whose first line is the password"),
    Setting("mqtt.ca", Path, meaning="certificates (PEM) that the broker's must be signed by; turns TLS on"),
    Setting("mqtt.cert", Path, meaning="this client's certificate (PEM), with mqtt.key; turns TLS on"),
    Setting("mqtt.key", Path, meaning="private key (PEM) of mqtt.cert"),
    Setting("mqtt.tls", bool, False, meaning="use TLS with the system's certificate authorities"),
    Setting("mqtt.keepalive_s", int, 60, "s", "silence after which a ping is sent", minimum=5, maximum=3600),
    Setting(
        "mqtt.connect_timeout_s", float, 5.0, "s", "longest wait for a connection", minimum=0.1, maximum=60
    ),
    Setting(
        "mqtt.reconnect_min_s",
        float,
        1.0,
        "s",
        "shortest back-off between connects",
        minimum=0.05,
        maximum=60,
    ),
    Setting(
        "mqtt.reconnect_max_s",
        float,
        120.0,
        "s",
        "longest back-off between connects",
        minimum=0.05,
        maximum=3600,
    ),
    Setting(
        "mqtt.ack_timeout_s",
        float,
        15.0,
        "s",
        "wait for the aggregator's acknowledgement before sending again; grows while it stays silent",
        minimum=0.1,
        maximum=3600,
    ),
    Setting(
        "mqtt.message_bytes",
        int,
        32 * 1024,
        "bytes",
        "largest message that is put together; one body larger than this travels alone",
        minimum=1024,
        maximum=MAX_MESSAGE_BYTES,
    ),
    Setting(
        "mqtt.inflight_bytes",
        int,
        256 * 1024,
        "bytes",
        "sent and not yet acknowledged, at most",
        minimum=MAX_MESSAGE_BYTES,
        maximum=64 * 1024 * 1024,
    ),
    Setting(
        "mqtt.backlog_bytes_per_s",
        int,
        64 * 1024,
        "bytes/s",
        "pace at which what was recorded offline is sent, so that a fleet coming back does not flood",
        minimum=1024,
        maximum=1 << 30,
    ),
)


@dataclass(frozen=True)
class MqttSettings:
    """The section's values; see `MQTT_SETTINGS` for each. Times in seconds, sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = 1883
    protocol: Protocol = "auto"
    username: str | None = None
    password_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    tls: bool = False
    keepalive_s: int = 60
    connect_timeout_s: float = 5.0
    reconnect_min_s: float = 1.0
    reconnect_max_s: float = 120.0
    ack_timeout_s: float = 15.0
    message_bytes: int = 32 * 1024
    inflight_bytes: int = 256 * 1024
    backlog_bytes_per_s: int = 64 * 1024

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.tls or self.ca is not None or self.cert is not None

    @classmethod
    def from_settings(cls, settings: Settings) -> MqttSettings:
        """The section out of a whole configuration.

        Raises:
            SettingsError: settings that do not go together.
        """
        section = cls(
            host=settings.text("mqtt.host"),
            port=settings.integer("mqtt.port"),
            protocol=cast("Protocol", settings.text("mqtt.protocol")),
            username=settings.optional("mqtt.username", str),
            password_file=settings.optional("mqtt.password_file", Path),
            ca=settings.optional("mqtt.ca", Path),
            cert=settings.optional("mqtt.cert", Path),
            key=settings.optional("mqtt.key", Path),
            tls=settings.flag("mqtt.tls"),
            keepalive_s=settings.integer("mqtt.keepalive_s"),
            connect_timeout_s=settings.number("mqtt.connect_timeout_s"),
            reconnect_min_s=settings.number("mqtt.reconnect_min_s"),
            reconnect_max_s=settings.number("mqtt.reconnect_max_s"),
            ack_timeout_s=settings.number("mqtt.ack_timeout_s"),
            message_bytes=settings.integer("mqtt.message_bytes"),
            inflight_bytes=settings.integer("mqtt.inflight_bytes"),
            backlog_bytes_per_s=settings.integer("mqtt.backlog_bytes_per_s"),
        )
        problems: list[SettingsProblem] = []
        if (section.cert is None) != (section.key is None):
            problems.append(SettingsProblem("mqtt.cert", "mqtt.cert and mqtt.key go together; give both"))
        if section.password_file is not None and section.username is None:
            problems.append(SettingsProblem("mqtt.password_file", "needs mqtt.username beside it"))
        if section.reconnect_max_s < section.reconnect_min_s:
            problems.append(SettingsProblem("mqtt.reconnect_max_s", "is below mqtt.reconnect_min_s"))
        if problems:
            raise SettingsError(settings.source, tuple(problems))
        return section
