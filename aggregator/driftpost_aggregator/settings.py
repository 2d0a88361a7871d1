"""Every setting of aggregator.toml, and the few that are more than a single value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from driftpost_aggregator.alerts.channels import ALERT_SETTINGS, channels
from driftpost_aggregator.delivery.targets import TARGETS, targets
from driftpost_aggregator.errors import ConfigurationError
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.errors import SketchError
from driftpost_sync.mqtt_settings import MQTT_SETTINGS
from driftpost_sync.settings import REQUIRED, Setting, Settings, SettingsTable

SCOPES = ("device", "group", "cohort", "fleet")
KINDS = (
    "covariate_shift",
    "output_shift",
    "label_shift",
    "concept_shift",
    "sensor_fault",
    "data_quality",
    "model_fault",
    "device_fault",
    "poisoning",
)

TABLE = SettingsTable(
    "aggregator.toml",
    (
        Setting("fleet.name", str, REQUIRED, meaning="fleet to listen to, as it stands in the topics"),
        Setting(
            "fleet.budget",
            str,
            "1 per fleet-month",
            meaning="false alarms that the tests on merged windows, silent devices and labels of one bundle "
            "may raise",
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
        Setting(
            "retention.raw_days",
            int,
            7,
            "days",
            "windows as they came, and rollups of rollups.bucket_s, are kept; then only longer ones",
            minimum=1,
            maximum=3_650,
        ),
        Setting(
            "retention.hours_days",
            int,
            60,
            "days",
            "rollups by the hour are kept",
            minimum=1,
            maximum=3_650,
        ),
        Setting(
            "retention.days_days",
            int,
            1_830,
            "days",
            "rollups by the day are kept",
            minimum=1,
            maximum=36_500,
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
        Setting(
            "labels.expire_s",
            float,
            604_800.0,
            "s",
            "how long pushed labels wait for a device that is not there",
            minimum=60,
            maximum=31_536_000,
        ),
        Setting("retrain.enabled", bool, True, meaning="whether incidents may ask for retraining"),
        Setting(
            "retrain.scopes",
            list[str],
            ["cohort", "fleet"],
            meaning="scopes that may ask: device, group, cohort, fleet; a group may be a lie in concert",
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
            "retrain.min_loss",
            float,
            0.0,
            meaning="smallest loss of accuracy, a share: by labels, else by a trusted estimate, else assumed",
            minimum=0,
            maximum=1,
        ),
        Setting(
            "retrain.assumed_loss",
            float,
            0.02,
            meaning="loss of accuracy, a share, assumed where neither labels nor an estimate tell of it",
            minimum=0,
            maximum=1,
        ),
        Setting(
            "retrain.cost",
            float,
            1.0,
            meaning="cost of one retraining, in any unit; requests are ranked by gain x devices / cost",
            minimum=1e-9,
            maximum=1e12,
        ),
        Setting(
            "retrain.costs",
            dict[str, float],
            {},
            meaning="cost by model's name, where it differs",
            minimum=1e-9,
            maximum=1e12,
        ),
        Setting(
            "retrain.answer_s",
            float,
            86_400.0,
            "s",
            "a request that the pipeline has not taken up within this time is escalated to people",
            minimum=60,
            maximum=31_536_000,
        ),
        Setting(
            "retrain.finish_s",
            float,
            604_800.0,
            "s",
            "one that was taken up and is neither done nor failed after this time is escalated",
            minimum=60,
            maximum=31_536_000,
        ),
        Setting(
            "retrain.signed_reports",
            bool,
            False,
            meaning="take the pipeline's reports only if they are signed with a target's secret",
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
        TARGETS,
        *ALERT_SETTINGS,
    ),
)


def load(path: Path, overrides: dict[str, object] | None = None) -> Settings:
    """Read and check an aggregator.toml.

    Raises:
        SettingsError: it breaks the table; every problem listed.
        ConfigurationError: its values do not go together.
    """
    if not path.exists():
        raise ConfigurationError(
            str(path),
            "there is no such file; write one with `driftpost aggregator init`, "
            "or give the right path with --config",
        )
    settings = TABLE.load(path, overrides)
    fleet_budget(settings)
    RetrainPolicy.from_settings(settings)
    targets(settings)
    channels(settings)
    database_url(settings)
    return settings


def fleet_budget(settings: Settings) -> Budget:
    """The false-alarm budget of the tests on what a bundle's devices send together.

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
    min_loss: float = 0.0
    assumed_loss: float = 0.02
    cost: float = 1.0
    costs: Mapping[str, float] = field(default_factory=dict)
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
            min_loss=settings.number("retrain.min_loss"),
            assumed_loss=settings.number("retrain.assumed_loss"),
            cost=settings.number("retrain.cost"),
            costs=settings.number_map("retrain.costs"),
            cooldown_s=settings.number("retrain.cooldown_s"),
            per_week=settings.integer("retrain.per_week"),
        )
