"""Looks at everything an agent needs on its board, before it is started or while it runs."""

from __future__ import annotations

import datetime
import os
import socket
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from driftpost_agent.activation import Activation
from driftpost_agent.board import read_board
from driftpost_agent.board_log import BoardLog
from driftpost_agent.certificate_checks import check_certificate, check_certificates
from driftpost_agent.client import fetch_status
from driftpost_agent.diagnosis import Diagnosis, failed, ok, skipped, warning
from driftpost_agent.errors import ActivationFailed, AgentError, ConfigurationInvalid, DaemonUnreachable
from driftpost_agent.loading import loader, trusted_keys
from driftpost_agent.private_windows import PrivacyPolicy
from driftpost_models.bundle import Bundle
from driftpost_models.errors import ModelError
from driftpost_sync.broker_probe import introduce, reach
from driftpost_sync.clock import SystemClock
from driftpost_sync.errors import MalformedMessage, SyncError
from driftpost_sync.mqtt_settings import MqttSettings
from driftpost_sync.settings import Settings
from driftpost_sync.topics import Identity

# Free space that a store needs beside what it may still grow: a log, a vacuum, a bundle that is installed.
SPARE_MB = 32
# File systems that forget everything with the power.
_VOLATILE = frozenset({"tmpfs", "ramfs"})


def examine(settings: Settings, *, model: bool = True) -> Iterator[Diagnosis]:
    """Look at everything, the foundations first.

    Args:
        settings: agent.toml, which was read without a mistake.
        model: whether to load the model and replay its golden inputs, which takes its time and memory.
    """
    running = _running(settings)
    yield from _configuration(settings)
    yield from _agent(settings, running)
    clock = SystemClock(trust_wall=settings.flag("clock.trust_wall"))
    yield from _clock(clock)
    yield from _disk(settings)
    yield from _store(settings)
    yield from _board(settings)
    yield from _bundle(settings, model=model)
    yield from _broker(settings, clock, running)


def _running(settings: Settings) -> dict[str, Any] | None:
    try:
        return fetch_status(settings.text("server.host"), settings.integer("server.port"))
    except DaemonUnreachable:
        return None


def _configuration(settings: Settings) -> Iterator[Diagnosis]:
    about = "configuration"
    source = Path(str(settings.source))
    problems = 0
    try:
        Identity(settings.text("device.fleet"), settings.text("device.id"))
    except MalformedMessage as error:
        problems += 1
        yield failed(
            about, f"device.id or device.fleet: {error.reason}", "Use letters, digits, '.', '_', '-'."
        )
    try:
        loader(settings)
        PrivacyPolicy.from_settings(settings)
        MqttSettings.from_settings(settings)
    except (ConfigurationInvalid, SyncError) as error:
        problems += 1
        yield failed(about, str(error), getattr(error, "remedy", "") or "Correct it in the file.")
    try:
        mode = source.stat().st_mode
    except OSError:
        mode = 0
    if mode & stat.S_IWOTH:
        problems += 1
        yield failed(about, f"{source} may be changed by anybody", f"chmod o-w {source}")
    if settings.flag("model.allow_unsigned"):
        yield warning(
            about,
            "model.allow_unsigned lets changed bundles run unnoticed",
            "Sign bundles (`driftpost keys new`) and name the public key in model.trusted_keys.",
        )
    if settings.text("server.host") not in {"127.0.0.1", "::1", "localhost"}:
        yield warning(
            about,
            f"the server listens on {settings.text('server.host')} and asks nobody for a password",
            "Keep it on loopback, or put something before it that asks.",
        )
    if not problems:
        yield ok(about, f"{source} can be used")


def _agent(settings: Settings, running: dict[str, Any] | None) -> Iterator[Diagnosis]:
    about = "agent"
    if running is None:
        host, port = settings.text("server.host"), settings.integer("server.port")
        try:
            # With the option as the server itself sets it: a port in TIME_WAIT is free to it.
            with socket.create_server((host, port), reuse_port=False):
                pass
        except OSError as error:
            yield failed(
                about,
                f"no agent runs, and {host}:{port} can't be listened on: {error.strerror or error}",
                "Stop what uses that port, or set server.port to another.",
            )
            return
        yield skipped(about, "none runs with this configuration; its port is free")
        return
    health = running["health"]
    if health["state"] == "ok":
        yield ok(about, f"runs and is well, version {running['version']}")
    else:
        reasons = "; ".join(health["reasons"]) or "no reason given"
        yield warning(about, f"runs and is {health['state']}: {reasons}", "See `driftpost agent status`.")


def _clock(clock: SystemClock) -> Iterator[Diagnosis]:
    wall = clock.wall_ms()
    if wall is not None:
        now = datetime.datetime.fromtimestamp(wall / 1000, datetime.timezone.utc)
        yield ok("clock", f"synchronised, {now:%Y-%m-%d %H:%M} UTC")
        return
    now = datetime.datetime.now(datetime.timezone.utc)
    yield warning(
        "clock",
        f"says {now:%Y-%m-%d %H:%M} UTC, and the kernel does not call it synchronised",
        "Let systemd-timesyncd or chrony run (`timedatectl set-ntp true`), or set clock.trust_wall where "
        "something else keeps it right. Until then windows are dated by the aggregator.",
    )


def _disk(settings: Settings) -> Iterator[Diagnosis]:
    about = "disk"
    folder = settings.path("store.path").parent
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if place == folder:
        try:
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(b"x" * 4096)
                probe.flush()
                os.fsync(probe.fileno())
        except OSError as error:
            yield failed(
                about,
                f"{folder} can't be written as this user: {error.strerror}",
                "Run this as the agent's user, or chown it to that. Mounted read-only, the card fails: "
                f"dmesg | grep -i {_device_word(folder)}",
            )
            return
    elif not os.access(place, os.W_OK | os.X_OK):
        yield failed(
            about, f"{folder} does not exist and can't be made in {place}", f"mkdir and chown {folder}."
        )
        return
    space = os.statvfs(place)
    free = space.f_bavail * space.f_frsize / 2**20
    used = sum(file.stat().st_size for file in folder.glob("*") if file.is_file()) / 2**20
    wanted = min(
        settings.number("budget.disk_mb"),
        settings.number("store.outbox_mb") + settings.number("store.history_mb"),
    )
    grows = max(0.0, wanted - used) + SPARE_MB
    if free < SPARE_MB:
        yield failed(
            about, f"{free:.0f} MiB free at {place}", "Free some space: windows will wait in memory."
        )
    elif free < grows:
        yield warning(
            about,
            f"{free:.0f} MiB free at {place}, and the store may still grow by {grows:.0f}",
            "Free some space, or lower store.outbox_mb, store.history_mb or budget.disk_mb.",
        )
    else:
        yield ok(about, f"{free:.0f} MiB free at {place}, the store may grow by {grows:.0f}")
    if space.f_files and space.f_favail < 1000:
        yield failed(
            about, f"{space.f_favail} files can still be made at {place}", "Remove small files there."
        )
    kind = _file_system(place)
    if kind in _VOLATILE:
        yield warning(
            about, f"{place} is in memory ({kind}): a power cut loses what was not sent", "Move store.path."
        )


def _device_word(folder: Path) -> str:
    return "ext4" if _file_system(folder) in {"ext4", ""} else _file_system(folder)


def _file_system(place: Path) -> str:
    """Type of the file system that holds a folder, "" where that is not known."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    path = str(place.resolve())
    for fields in (line.split() for line in lines):
        if len(fields) < 3:
            continue
        at = fields[1].encode().decode("unicode_escape", errors="replace")
        if (path == at or path.startswith(at.rstrip("/") + "/")) and len(at) >= len(best):
            best, kind = at, fields[2]
    return kind


def _store(settings: Settings) -> Iterator[Diagnosis]:
    about, path = "store", settings.path("store.path")
    if not path.exists():
        yield skipped(about, f"{path} will be made at the first start")
        return
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            (verdict,) = database.execute("pragma quick_check(1)").fetchone()
            (quarantined,) = database.execute("select count(*) from quarantine").fetchone()
        finally:
            database.close()
    except sqlite3.Error as error:
        yield failed(
            about,
            f"{path}: {error}",
            "Run this as the agent's user. If it is damaged, the next start sets it aside and begins anew.",
        )
        return
    if verdict != "ok":
        yield failed(
            about, f"{path} is damaged: {verdict}", "Restart the agent: it is set aside, not deleted."
        )
    elif quarantined:
        yield warning(
            about,
            f"{quarantined} messages are set aside and will not be sent",
            f"See why: sqlite-utils rows {path} quarantine --table",
        )
    else:
        yield ok(about, f"{path} is sound")
    aside = sorted(path.parent.glob(f"{path.name}.damaged-*"))
    if aside:
        yield warning(
            about, f"{len(aside)} damaged predecessors lie beside it", "Copy them away and remove them here."
        )


def _board(settings: Settings) -> Iterator[Diagnosis]:
    reading = read_board(settings.path("store.path").parent, settings.path("board.root"))
    log = BoardLog(0)
    log.add(reading, 0)
    for problem in log.problems():
        text, _, remedy = problem.partition(": ")
        yield warning("board", text, remedy[:1].upper() + remedy[1:])
    if not log.problems():
        shown = [f"{name} {reading[name]:.3g}" for name in ("temperature", "load") if name in reading]
        yield ok("board", ", ".join(shown) or "tells nothing of its health")


def _bundle(settings: Settings, *, model: bool) -> Iterator[Diagnosis]:
    about = "bundle"
    start = None
    try:
        keys = trusted_keys(settings)
        start = loader(settings)
        activation = Activation(
            settings.path("store.path").parent / "bundles",
            keys,
            allow_unsigned=settings.flag("model.allow_unsigned"),
            start=start,
        )
    except (AgentError, ModelError) as error:
        yield failed(
            about, str(error), "Name the public key (`driftpost keys show`) of whoever builds bundles."
        )
        return
    bundle: Bundle | None = None
    for setting in ("model.bundle", "model.fallback"):
        path = settings.optional(setting, Path)
        if path is None:
            continue
        try:
            found = activation.verify(path)
        except ActivationFailed as error:
            yield failed(
                about, f"{setting}: {error.problem}", "Put a bundle there that was signed for this device."
            )
            continue
        bundle = bundle or found
        yield ok(
            about, f"{setting}: {found.name} {found.version} ({found.id[:12]}) is whole and may run here"
        )
    if bundle is None:
        return
    pointer = activation.pointer()
    if pointer is not None and pointer.active != bundle.id:
        yield ok(about, f"{pointer.active[:12]} was activated since and serves instead")
    if not model:
        yield skipped("model", "was not loaded (--no-model)")
        return
    yield from _model(settings, activation, bundle)


def _model(settings: Settings, activation: Activation, bundle: Bundle) -> Iterator[Diagnosis]:
    about = "model"
    try:
        runtime = loader(settings)(bundle)
    except (ModelError, OSError) as error:
        yield failed(
            about, f"{bundle.name} does not start here: {error}", getattr(error, "remedy", "") or "See above."
        )
        return
    try:
        provider, version = runtime.provider, runtime.version
        declined = str(getattr(runtime, "declined", ""))
    finally:
        runtime.close()
    if declined:
        yield warning(
            about,
            f"computes on {provider}, because {declined}",
            "Install the accelerator's libraries and let the unit reach its device; or set model.providers "
            'to ["cpu"].',
        )
    try:
        activation.self_test(bundle)
    except ActivationFailed as error:
        yield failed(
            about,
            f"{bundle.name}: {error.problem}",
            "This machine answers differently from the one it was built on: compare the runtimes' versions.",
        )
        return
    yield ok(about, f"{bundle.name} answers its golden inputs on {provider} ({version})")


def _broker(settings: Settings, clock: SystemClock, running: dict[str, Any] | None) -> Iterator[Diagnosis]:
    about = "broker"
    if not settings.flag("sync.enabled"):
        yield skipped(about, "none is wanted (sync.enabled is false)")
        return
    try:
        mqtt = MqttSettings.from_settings(settings)
    except SyncError:
        return  # told with the configuration
    wall = clock.wall_ms()
    now = None if wall is None else datetime.datetime.fromtimestamp(wall / 1000, datetime.timezone.utc)
    yield from check_certificates(mqtt, settings.text("device.id"), now)
    try:
        way = reach(mqtt, clock)
        if not way.problem and running is None:
            identity = Identity(settings.text("device.fleet"), settings.text("device.id"))
            told = introduce(mqtt, f"{identity.client_id}-doctor", clock)
            if told.problem:
                way = told
    except (SyncError, MalformedMessage) as error:
        yield failed(about, str(error), "Correct the setting that it names.")
        return
    where = f"{mqtt.host}:{mqtt.port}"
    if way.problem:
        yield failed(about, way.problem, _REMEDIES[way.step])
        return
    if way.certificate:
        yield check_certificate(f"the broker's at {where}", way.certificate, now)
    if not mqtt.uses_tls and mqtt.host not in {"127.0.0.1", "::1", "localhost"}:
        yield warning(
            about, f"{where} is reached without encryption", "Set mqtt.ca (see docs/deploy.md), port 8883."
        )
    encrypted = f" with {way.tls}" if way.tls else ""
    if running is None:
        yield ok(about, f"{where} takes this device{encrypted}")
        return
    link = running.get("link", {})
    if link.get("trouble"):
        yield warning(
            about, f"the running agent's link: {link['trouble']}", "See the aggregator and the broker's log."
        )
    else:
        yield ok(about, f"{where} is reached{encrypted}, and the running agent's link works")


_REMEDIES = {
    "name": "Check mqtt.host and the device's name service (`getent hosts NAME`).",
    "tcp": "Check mqtt.port, firewalls, and that the broker runs and listens on that address.",
    "tls": "Check mqtt.ca, mqtt.cert, mqtt.key, the name in the broker's certificate, and the clock.",
    "mqtt": "Check user name, password and certificate with whoever keeps the broker, and its access rules.",
}
