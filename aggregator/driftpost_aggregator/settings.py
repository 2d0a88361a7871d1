"""Every setting of aggregator.toml, and the few that are more than a single value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from driftpost_aggregator.errors import ConfigurationError
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.errors import SketchError
from driftpost_sync.mqtt_settings import MQTT_SETTINGS
from driftpost_sync.settings import REQUIRED, Setting, Settings, SettingsTable, TableArray

SCOPES = ("device", "cohort", "fleet")
KINDS = (
    "covariate_shift",
    "output_shift",
    "label_shift",
    "concept_shift",
    "sensor_fault",
    "data_quality",
    "model_fault",
    "device_fault",
)

TABLE = SettingsTable(
    "aggregator.toml",
    (
        Setting("fleet.name", str, REQUIRED, meaning="fleet to listen to, as it stands in the topics"),
        Setting(
            "fleet.budget",
            str,
            "1 per fleet-month",
            meaning="false alarms that the tests on merged windows of cohorts and fleet may raise",
        ),
        Setting(
            "database.url",
            str,
            "sqlite:///driftpost.db",
            meaning="SQLAlchemy URL; sqlite:///path (relative to this file) or postgresql+psycopg://...",
        ),
        Setting(
            "database.password_file", Path, meaning="file whose first line is the database user's password"
        ),
        *MQTT_SETTINGS,
        Setting(
            "mqtt.client_id",
            str,
            meaning="client identifier; by default made of fleet and host name; differs between workers",
        ),
        Setting(
            "mqtt.share_group",
            str,
            meaning="several aggregators with one group share the fleet's messages ($share); not for amqtt",
        ),
        Setting(
            "ingest.batch_messages",
            int,
            256,
            "messages",
            "committed together at most",
            minimum=1,
            maximum=10_000,
        ),
        Setting(
            "ingest.quarantine_rows",
            int,
            10_000,
            "rows",
            "rejected messages kept for inspection, newest first",
            minimum=100,
            maximum=10_000_000,
        ),
        Setting(
            "rollups.bucket_s",
            int,
            300,
            "s",
            "length of a merged window of a device, cohort or fleet; not shorter than the devices' windows",
            minimum=1,
            maximum=86_400,
        ),
        Setting("triage.interval_s", float, 5.0, "s", "time between two rounds", minimum=0.1, maximum=3_600),
        Setting(
            "triage.settle_windows",
            float,
            3.0,
            "windows",
            "wait after new evidence before an incident's scope is fixed, so that devices of one cohort that "
            "alarm some windows apart become one incident; a window counts as an hour at most",
            minimum=0,
            maximum=1_000,
        ),
        Setting(
            "triage.reopen_s",
            float,
            86_400.0,
            "s",
            "the same cause within this time after it was resolved reopens its incident",
            minimum=0,
            maximum=31_536_000,
        ),
        Setting("web.host", str, "127.0.0.1", meaning="address that dashboard and API listen on"),
        Setting("web.port", int, 8088, meaning="their port; 0 takes a free one", minimum=0, maximum=65535),
        Setting(
            "web.public_url", str, meaning="where people reach the dashboard, for links in retrain requests"
        ),
        Setting(
            "web.token_file",
            Path,
            meaning="file with the secret that people (as password) and programs (as bearer token) must show",
        ),
        Setting(
            "web.allow_anonymous",
            bool,
            False,
            meaning="serve beyond this machine without a token, if a proxy authenticates people",
        ),
        Setting(
            "web.hosts",
            list[str],
            [],
            meaning="further names by which browsers may reach a dashboard that has no token, behind a proxy",
        ),
        Setting("retrain.enabled", bool, True, meaning="whether incidents may ask for retraining"),
        Setting(
            "retrain.scopes",
            list[str],
            ["cohort", "fleet"],
            meaning="scopes that may ask: device, cohort, fleet",
        ),
        Setting(
            "retrain.kinds",
            list[str],
            ["covariate_shift", "output_shift", "label_shift", "concept_shift"],
            meaning="kinds that may ask; a stuck sensor is not mended by retraining",
        ),
        Setting(
            "retrain.min_effect",
            float,
            0.2,
            "reference sd",
            "smallest effect of the leading stream",
            minimum=0,
            maximum=1_000,
        ),
        Setting("retrain.min_devices", int, 2, "devices", "affected at least", minimum=1),
        Setting(
            "retrain.min_share",
            float,
            0.5,
            meaning="share of the scope's devices that must be affected",
            minimum=0,
            maximum=1,
        ),
        Setting(
            "retrain.cooldown_s",
            float,
            86_400.0,
            "s",
            "between two requests for the same model and scope",
            minimum=0,
            maximum=31_536_000,
        ),
        Setting("retrain.per_week", int, 5, "requests", "in any seven days", minimum=0, maximum=10_000),
        TableArray(
            "retrain.targets",
            (
                Setting("name", str, REQUIRED, meaning="name in the delivery log; never reuse one"),
                Setting("url", str, REQUIRED, meaning="https URL of the webhook"),
                Setting(
                    "secret_file",
                    Path,
                    REQUIRED,
                    meaning="file of whsec_ secrets, one a line; each signs, so that keys can rotate",
                ),
                Setting(
                    "allow_private",
                    bool,
                    False,
                    meaning="allow private and loopback addresses, and http, on one's own network",
                ),
                Setting("timeout_s", float, 20.0, "s", "for the whole exchange", minimum=0.1, maximum=60),
            ),
            "a webhook (Standard Webhooks 1.0) that receives retrain requests",
            maximum=16,
        ),
    ),
)


def load(path: Path, overrides: dict[str, object] | None = None) -> Settings:
    """Read and check an aggregator.toml.

    Raises:
        SettingsError: it breaks the table; every problem listed.
        ConfigurationError: its values do not go together.
    """
    settings = TABLE.load(path, overrides)
    fleet_budget(settings)
    RetrainPolicy.from_settings(settings)
    targets(settings)
    database_url(settings)
    return settings


def fleet_budget(settings: Settings) -> Budget:
    """The false-alarm budget of the tests on merged windows.

    Raises:
        ConfigurationError: the words are no budget, or one for each device.
    """
    try:
        budget = Budget.parse(settings.text("fleet.budget"))
    except SketchError as error:
        raise ConfigurationError("fleet.budget", str(error)) from error
    if budget.scope != "fleet":
        raise ConfigurationError("fleet.budget", "is for the whole fleet; write '1 per fleet-month'")
    return budget


def database_url(settings: Settings) -> str:
    """The database's URL: SQLite path resolved against the configuration's folder, password filled in.

    Raises:
        ConfigurationError: the URL or the password file can not be read.
    """
    try:
        url = make_url(settings.text("database.url"))
    except ArgumentError as error:
        raise ConfigurationError("database.url", f"{error}; write sqlite:///path") from error
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        folder = settings.source.resolve().parent if isinstance(settings.source, Path) else Path.cwd()
        url = url.set(database=str(folder / str(url.database)))
    password_file = settings.optional("database.password_file", Path)
    if password_file is not None:
        url = url.set(password=_first_line("database.password_file", password_file))
    return url.render_as_string(hide_password=False)


def _first_line(setting: str, path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(setting, f"{path} can not be read: {error}") from error
    if not lines or not lines[0].strip():
        raise ConfigurationError(setting, f"{path} is empty")
    return lines[0].strip()


@dataclass(frozen=True)
class RetrainPolicy:
    """When an incident may ask for retraining; see `[retrain]` in the settings for each field's unit."""

    enabled: bool = True
    scopes: tuple[str, ...] = ("cohort", "fleet")
    kinds: tuple[str, ...] = ("covariate_shift", "output_shift", "label_shift", "concept_shift")
    min_effect: float = 0.2
    min_devices: int = 2
    min_share: float = 0.5
    cooldown_s: float = 86_400.0
    per_week: int = 5

    @classmethod
    def from_settings(cls, settings: Settings) -> RetrainPolicy:
        """Read the section.

        Raises:
            ConfigurationError: a scope or kind that does not exist.
        """
        scopes, kinds = settings.texts("retrain.scopes"), settings.texts("retrain.kinds")
        for name, given, known in (("retrain.scopes", scopes, SCOPES), ("retrain.kinds", kinds, KINDS)):
            unknown = sorted(set(given) - set(known))
            if unknown:
                raise ConfigurationError(name, f"unknown {unknown[0]!r}; choose from {', '.join(known)}")
        return cls(
            enabled=settings.flag("retrain.enabled"),
            scopes=scopes,
            kinds=kinds,
            min_effect=settings.number("retrain.min_effect"),
            min_devices=settings.integer("retrain.min_devices"),
            min_share=settings.number("retrain.min_share"),
            cooldown_s=settings.number("retrain.cooldown_s"),
            per_week=settings.integer("retrain.per_week"),
        )


@dataclass(frozen=True)
class Target:
    """One webhook that receives retrain requests; see `[[retrain.targets]]`."""

    name: str
    url: str
    secret_file: Path
    allow_private: bool = False
    timeout_s: float = 20.0


def targets(settings: Settings) -> tuple[Target, ...]:
    """The webhooks, in the file's order.

    Raises:
        ConfigurationError: two have one name.
    """
    result = tuple(
        Target(
            name=entry.text("name"),
            url=entry.text("url"),
            secret_file=entry.path("secret_file"),
            allow_private=entry.flag("allow_private"),
            timeout_s=entry.number("timeout_s"),
        )
        for entry in settings.tables("retrain.targets")
    )
    names = [target.name for target in result]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError("retrain.targets", f"the name {twice[0]!r} stands twice")
    return result
