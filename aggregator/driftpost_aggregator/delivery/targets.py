"""Who receives retrain requests: `[[retrain.targets]]` of the settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from driftpost_aggregator.errors import ConfigurationError
from driftpost_sync.settings import REQUIRED, Setting, Settings, TableArray

KINDS = ("webhook", "mqtt", "command", "file")
FORMATS = ("cloudevent", "github", "airflow", "kubeflow")
MAX_TARGETS = 16
DEFAULT_EVENT_TYPE = "driftpost-retrain"
# MQTT's own bound on a topic, bytes.
_MAX_TOPIC = 65_535

TARGETS = TableArray(
    "retrain.targets",
    (
        Setting("name", str, REQUIRED, meaning="name in the delivery log; never reuse one"),
        Setting("kind", str, "webhook", meaning="how requests get there", choices=KINDS),
        Setting("url", str, meaning="webhook: https URL"),
        Setting(
            "format",
            str,
            "cloudevent",
            meaning="webhook: the signed event itself, or the call that starts a run of a known system",
            choices=FORMATS,
        ),
        Setting(
            "secret_file",
            Path,
            meaning="webhook: file of whsec_ secrets, one a line; each signs, so that keys can rotate; "
            "needed by cloudevent, and by reports that are signed",
        ),
        Setting(
            "token_file",
            Path,
            meaning="webhook: file with the bearer token of the system that is called",
        ),
        Setting(
            "allow_private",
            bool,
            False,
            meaning="webhook: allow private and loopback addresses, and http, on one's own network",
        ),
        Setting("event_type", str, DEFAULT_EVENT_TYPE, meaning="github: type of the repository_dispatch"),
        Setting("pipeline_id", str, meaning="kubeflow: the pipeline to run"),
        Setting("pipeline_version_id", str, meaning="kubeflow: its version; the newest by default"),
        Setting("experiment_id", str, meaning="kubeflow: experiment of the run"),
        Setting(
            "topic",
            str,
            meaning="mqtt: topic on the fleet's broker; driftpost/v1/FLEET/_aggregator/retrain by default",
        ),
        Setting(
            "command",
            list[str],
            [],
            meaning="command: program and arguments, no shell; the event comes on its standard input",
        ),
        Setting("folder", Path, meaning="file: folder into which each event is written as a file of its own"),
        Setting("timeout_s", float, 20.0, "s", "for the whole exchange", minimum=0.1, maximum=60),
    ),
    "who receives retrain requests: a webhook (Standard Webhooks 1.0), a topic, a command or a folder",
    maximum=MAX_TARGETS,
)


@dataclass(frozen=True)
class Target:
    """One receiver; see `[[retrain.targets]]` for each field."""

    name: str
    url: str = ""
    secret_file: Path | None = None
    allow_private: bool = False
    timeout_s: float = 20.0
    kind: str = "webhook"
    format: str = "cloudevent"
    token_file: Path | None = None
    event_type: str = DEFAULT_EVENT_TYPE
    pipeline_id: str = ""
    pipeline_version_id: str = ""
    experiment_id: str = ""
    topic: str = ""
    command: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def place(self) -> str:
        """Where it leads, for people; nothing in it is secret."""
        if self.kind == "mqtt":
            return self.topic
        if self.kind == "command":
            return self.command[0]
        # What follows a question mark may be a key.
        return str(self.folder) if self.kind == "file" else self.url.partition("?")[0]


def targets(settings: Settings) -> tuple[Target, ...]:
    """The receivers, in the file's order.

    Raises:
        ConfigurationError: two have one name, or one lacks what its kind needs.
    """
    fleet = settings.text("fleet.name")
    result = tuple(_target(entry, fleet) for entry in settings.tables("retrain.targets"))
    names = [target.name for target in result]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigurationError("retrain.targets", f"the name {twice[0]!r} stands twice")
    for target in result:
        missing = _missing(target)
        if missing:
            raise ConfigurationError(
                "retrain.targets", f"{target.name!r} is a {target.kind}: it needs {missing}"
            )
    return result


def _target(entry: Settings, fleet: str) -> Target:
    return Target(
        name=entry.text("name"),
        kind=entry.text("kind"),
        url=entry.optional("url", str) or "",
        format=entry.text("format"),
        secret_file=entry.optional("secret_file", Path),
        token_file=entry.optional("token_file", Path),
        allow_private=entry.flag("allow_private"),
        event_type=entry.text("event_type"),
        pipeline_id=entry.optional("pipeline_id", str) or "",
        pipeline_version_id=entry.optional("pipeline_version_id", str) or "",
        experiment_id=entry.optional("experiment_id", str) or "",
        topic=entry.optional("topic", str) or f"driftpost/v1/{fleet}/_aggregator/retrain",
        command=tuple(entry.texts("command")),
        folder=entry.optional("folder", Path),
        timeout_s=entry.number("timeout_s"),
    )


def _missing(target: Target) -> str:
    """What a target lacks, "" if nothing."""
    if target.kind == "command":
        return "" if target.command else "command"
    if target.kind == "file":
        return "" if target.folder is not None else "folder"
    if target.kind == "mqtt":
        bad = set(target.topic) & set("+#\x00") or len(target.topic.encode()) > _MAX_TOPIC
        return "a topic without wildcards" if bad else ""
    if not target.url:
        return "url"
    if target.format == "cloudevent":
        return "" if target.secret_file is not None else "secret_file"
    if target.format == "kubeflow" and not target.pipeline_id:
        return "pipeline_id"
    return "" if target.token_file is not None else "token_file"
