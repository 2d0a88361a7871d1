"""`driftpost agent doctor` says what keeps an agent from its work, and what to do about it."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent.daemons import Agent, running, toml
from certificates import Pair, write_authority, write_certificate
from driftpost_agent.certificate_checks import check_certificate, check_certificates
from driftpost_agent.cli import agent
from driftpost_agent.diagnosis import Grade
from driftpost_sync.mqtt_settings import MqttSettings
from mosquitto import Mosquitto, free_port, needs_mosquitto, running_mosquitto

NOW = datetime.datetime.now(datetime.timezone.utc)


Found = dict[str, list[dict[str, Any]]]


class Device:
    """A configuration that is changed a little in each test."""

    def __init__(self, folder: Path, bundles: Path) -> None:
        self.config = folder / "agent.toml"
        self.settings: dict[str, dict[str, Any]] = {
            "device": {"id": "cam-1", "fleet": "test"},
            "model": {"bundle": bundles / "mlp.bundle", "trusted_keys": [bundles / "team.pub"]},
            "server": {"port": free_port()},
            "store": {"path": folder / "state" / "agent.db"},
            "sync": {"enabled": False},
            "clock": {"trust_wall": True},
            "board": {"root": folder / "board"},
        }

    def examined(
        self, *options: str, **sections: Mapping[str, Any]
    ) -> tuple[int, dict[str, list[dict[str, Any]]]]:
        """Exit status, and what was found by what it is about."""
        lines = []
        for name in {**self.settings, **sections}:
            section = {**self.settings.get(name, {}), **sections.get(name, {})}
            lines += [f"[{name}]", *(f"{key} = {toml(value)}" for key, value in section.items())]
        self.config.write_text("\n".join(lines) + "\n")
        outcome = CliRunner().invoke(agent, ["doctor", "--json", "--config", str(self.config), *options])
        assert outcome.exception is None or isinstance(outcome.exception, SystemExit), outcome.exception
        found: Found = {}
        document = json.loads(outcome.stdout)
        for check in document["checks"]:
            found.setdefault(check["check"], []).append(check)
        assert document["ok"] == (outcome.exit_code == 0)
        return outcome.exit_code, found


@pytest.fixture
def device(tmp_path: Path, bundles: Path) -> Device:
    return Device(tmp_path, bundles)


def grades(found: list[dict[str, Any]]) -> list[str]:
    return [check["grade"] for check in found]


def wrong(found: Found, about: str) -> dict[str, Any]:
    (check,) = [check for check in found[about] if check["grade"] == "failed"]
    assert check["remedy"], "whatever is wrong has a remedy"
    return check


def test_a_device_that_can_start_is_well_and_its_model_was_tried(device: Device) -> None:
    status, found = device.examined()
    assert status == 0
    assert grades(found["configuration"]) == ["ok"]
    assert "answers its golden inputs on CPUExecutionProvider" in found["model"][0]["text"]
    assert grades(found["agent"]) == grades(found["store"]) == grades(found["broker"]) == ["skipped"]
    assert not (device.config.parent / "state").exists(), "nothing is changed"


def test_the_page_for_people_says_what_to_do(device: Device) -> None:
    device.examined("--no-model")
    device.config.write_text(device.config.read_text().replace("mlp.bundle", "gone.bundle"))
    outcome = CliRunner().invoke(agent, ["doctor", "--no-model", "--config", str(device.config)])
    assert outcome.exit_code == 1
    assert "FAILED" in outcome.stdout
    assert "-> Put a bundle there" in outcome.stdout
    assert outcome.stdout.rstrip().splitlines()[-1].startswith("1 failed")


def test_every_mistake_in_the_configuration_is_listed(device: Device, tmp_path: Path) -> None:
    device.config.write_text('[device]\nid = 3\n[modle]\nbundle = "x"\n')
    outcome = CliRunner().invoke(agent, ["doctor", "--json", "--config", str(device.config)])
    assert outcome.exit_code == 1
    checks = json.loads(outcome.stdout)["checks"]
    assert {check["grade"] for check in checks} == {"failed"}
    assert len(checks) >= 3
    assert CliRunner().invoke(agent, ["doctor", "--config", str(tmp_path / "none")]).exit_code == 1
    assert CliRunner().invoke(agent, ["doctor", "--wrong-option"]).exit_code == 2


def test_settings_that_contradict_each_other_are_found(device: Device) -> None:
    status, found = device.examined("--no-model", model={"cpus": [0], "isolated": False})
    assert status == 1
    assert "model.cpus" in wrong(found, "configuration")["text"]


def test_a_bundle_of_a_stranger_and_one_that_is_damaged_are_told_apart(
    device: Device, tmp_path: Path, bundles: Path
) -> None:
    from driftpost_models.signing import generate, save_public_key

    save_public_key(generate(), tmp_path / "other.pub")
    _, found = device.examined("--no-model", model={"trusted_keys": [tmp_path / "other.pub"]})
    assert "key" in wrong(found, "bundle")["text"]
    content = bytearray((bundles / "mlp.bundle").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "torn.bundle").write_bytes(content)
    _, found = device.examined("--no-model", model={"bundle": tmp_path / "torn.bundle"})
    assert wrong(found, "bundle")
    _, found = device.examined("--no-model", model={"trusted_keys": []})
    assert "no key is trusted" in wrong(found, "bundle")["text"]


def test_a_warning_is_no_failure_unless_it_is_wanted_as_one(device: Device) -> None:
    status, found = device.examined("--no-model", model={"allow_unsigned": True})
    assert status == 0
    assert "warning" in grades(found["configuration"])
    assert device.examined("--no-model", "--strict", model={"allow_unsigned": True})[0] == 1


def test_a_clock_that_nobody_sets_is_a_warning(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    from driftpost_sync import clock

    monkeypatch.setattr(
        clock.SystemClock.__init__, "__kwdefaults__", {"trust_wall": False, "synchronised": lambda: False}
    )
    _, found = device.examined("--no-model", clock={"trust_wall": False})
    assert grades(found["clock"]) == ["warning"]
    assert "timesyncd" in found["clock"][0]["remedy"]


def test_a_full_disk_and_a_small_one_are_found(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs

    class Small:
        f_bavail, f_frsize, f_files, f_favail = 50 << 8, 4096, 1000, 10

    monkeypatch.setattr(os, "statvfs", lambda path: Small())
    status, found = device.examined("--no-model")
    assert "warning" in grades(found["disk"])
    assert "10 files" in wrong(found, "disk")["text"]
    Small.f_bavail, Small.f_favail = 100, 1_000_000
    status, found = device.examined("--no-model")
    assert status == 1
    assert "Free some space" in wrong(found, "disk")["remedy"]
    monkeypatch.setattr(os, "statvfs", real)


def test_a_folder_that_can_not_be_written_is_found(device: Device, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    _, found = device.examined("--no-model", store={"path": tmp_path / "file" / "agent.db"})
    assert "can't be written" in wrong(found, "disk")["text"]


def test_a_damaged_store_and_quarantined_messages_are_found(device: Device) -> None:
    path = Path(device.settings["store"]["path"])
    path.parent.mkdir()
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    _, found = device.examined("--no-model")
    assert wrong(found, "store")
    path.unlink()
    from agent.clocks import ManualClock
    from driftpost_agent.store import Store

    with Store.open(path, clock=ManualClock()) as store, store.transaction() as db:
        store.outbox.put("finding", b"x", mono=0)
        db.execute("insert into quarantine values (1, 'why', 0)")
    _, found = device.examined("--no-model")
    assert "1 messages are set aside" in found["store"][0]["text"]
    path.with_name("agent.db.damaged-1").write_bytes(b"")
    _, found = device.examined("--no-model")
    assert "predecessors" in found["store"][-1]["text"]


def test_heat_and_a_weak_power_supply_are_told(device: Device) -> None:
    root = Path(device.settings["board"]["root"])
    (root / "sys/class/hwmon/hwmon0").mkdir(parents=True)
    (root / "sys/class/hwmon/hwmon0/name").write_text("rpi_volt\n")
    (root / "sys/class/hwmon/hwmon0/in0_lcrit_alarm").write_text("1\n")
    _, found = device.examined("--no-model")
    assert "supply voltage" in found["board"][0]["text"]
    assert "power supply" in found["board"][0]["remedy"]


def test_a_port_that_somebody_else_uses_is_found(device: Device) -> None:
    import socket

    with socket.create_server(("127.0.0.1", device.settings["server"]["port"])):
        _, found = device.examined("--no-model")
    assert "server.port" in wrong(found, "agent")["remedy"]


# The broker.


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mosquitto, Path]]:
    folder = tmp_path_factory.mktemp("tls")
    authority = write_authority(folder / "ca", "the authority")
    server = write_certificate(folder / "server", authority, "localhost", server=True)
    write_certificate(folder / "cam-1", authority, "cam-1", server=False)
    write_authority(folder / "other", "another authority")
    extra = (
        f"listener {{port}} 127.0.0.1\ncafile {authority.certificate}\ncertfile {server.certificate}\n"
        f"keyfile {server.key}\nrequire_certificate true\nuse_identity_as_username true\n"
        "use_username_as_clientid true\n"
    )
    with running_mosquitto(extra) as broker:
        for key in folder.rglob("key.pem"):
            key.chmod(0o400)
        yield broker, folder


def link(secure: tuple[Mosquitto, Path], who: str = "cam-1", authority: str = "ca") -> dict[str, Any]:
    broker, folder = secure
    return {
        "host": "localhost",
        "port": broker.port,
        "ca": folder / authority / "certificate.pem",
        "cert": folder / who / "certificate.pem",
        "key": folder / who / "key.pem",
        "connect_timeout_s": 2.0,
    }


@needs_mosquitto
def test_a_broker_that_takes_the_device_and_certificates_that_end_soon(
    device: Device, secure: tuple[Mosquitto, Path]
) -> None:
    status, found = device.examined("--no-model", sync={"enabled": True}, mqtt=link(secure))
    assert status == 0
    assert "takes this device with TLSv1.3" in found["broker"][-1]["text"]
    # The tests' certificates hold for a day.
    assert grades(found["certificates"]) == ["warning"] * 3
    assert "the broker's at localhost" in found["certificates"][-1]["text"]


@needs_mosquitto
def test_an_authority_that_did_not_sign_the_broker_is_found(
    device: Device, secure: tuple[Mosquitto, Path]
) -> None:
    status, found = device.examined(
        "--no-model", sync={"enabled": True}, mqtt=link(secure, authority="other")
    )
    assert status == 1
    assert "certificate refused" in wrong(found, "broker")["text"]


@needs_mosquitto
def test_a_client_certificate_that_the_broker_does_not_know_is_found(
    device: Device, secure: tuple[Mosquitto, Path]
) -> None:
    status, found = device.examined("--no-model", sync={"enabled": True}, mqtt=link(secure, who="other"))
    assert status == 1
    assert wrong(found, "broker")
    assert any("is issued to 'another authority'" in check["text"] for check in found["certificates"])


@needs_mosquitto
def test_a_password_that_is_refused_is_found(device: Device, tmp_path: Path) -> None:
    (tmp_path / "users").write_text("")
    (tmp_path / "users").chmod(0o600)
    with running_mosquitto(f"allow_anonymous false\npassword_file {tmp_path / 'users'}\n") as broker:
        mqtt = {"host": "127.0.0.1", "port": broker.port, "connect_timeout_s": 2.0}
        _, found = device.examined("--no-model", sync={"enabled": True}, mqtt=mqtt)
    assert "uthoriz" in wrong(found, "broker")["text"] or "uthoris" in wrong(found, "broker")["text"]


@pytest.mark.parametrize(
    ("mqtt", "words"),
    [({"host": "no.such.host.invalid"}, "name not found"), ({"port": 1}, "127.0.0.1:1")],
)
def test_a_broker_that_is_not_there_is_found(device: Device, mqtt: dict[str, Any], words: str) -> None:
    settings = {"connect_timeout_s": 1.0, **mqtt}
    _, found = device.examined("--no-model", sync={"enabled": True}, mqtt=settings)
    assert words in wrong(found, "broker")["text"]


@needs_mosquitto
def test_a_running_agent_is_asked_and_not_disturbed(tmp_path: Path, bundles: Path) -> None:
    with running_mosquitto() as broker:
        sections = {"sync": {"enabled": True}, "mqtt": {"host": broker.host, "port": broker.port}}
        with running(tmp_path, bundles / "mlp.bundle", bundles / "team.pub", **sections) as daemon:
            daemon.wait(lambda: daemon.status()["link"]["connected"], "the link is up")
            outcome = CliRunner().invoke(
                agent, ["doctor", "--json", "--no-model", "--config", str(daemon.config)]
            )
            assert isinstance(daemon, Agent)
            checks = {check["check"]: check for check in json.loads(outcome.stdout)["checks"]}
            assert "runs and is well" in checks["agent"]["text"]
            assert "running agent's link" in checks["broker"]["text"]
            assert checks["store"]["grade"] == "ok"
            assert daemon.status()["link"]["connects"] == 1
            assert set(daemon.status()["budgets"]) == {"memory", "disk", "flash", "message", "uplink", "cpu"}


# Certificates by themselves.


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Pair]:
    folder = tmp_path_factory.mktemp("pair")
    authority = write_authority(folder / "ca", "the authority")
    return authority, write_certificate(folder / "cam-1", authority, "cam-1", server=False)


def told(
    pair: tuple[Pair, Pair], now: datetime.datetime | None = NOW, **changes: Any
) -> list[tuple[Grade, str]]:
    authority, own = pair
    own.key.chmod(0o400)
    fields = {"ca": authority.certificate, "cert": own.certificate, "key": own.key, **changes}
    return [(found.grade, found.text) for found in check_certificates(MqttSettings(**fields), "cam-1", now)]


def test_ended_and_not_yet_valid_certificates_are_failures_and_an_unknown_clock_judges_none(pair) -> None:
    later, earlier = NOW + datetime.timedelta(days=9), NOW - datetime.timedelta(days=9)
    assert {grade for grade, _ in told(pair, later)} == {Grade.FAILED}
    assert "ended on" in told(pair, later)[0][1]
    assert "not valid before" in told(pair, earlier)[0][1]
    assert {grade for grade, _ in told(pair, None)} == {Grade.OK}


def test_a_key_of_another_pair_or_one_that_all_may_read_is_a_failure(pair, tmp_path: Path) -> None:
    authority, own = pair
    assert any("is not the key of" in text for _, text in told(pair, key=authority.key))
    open_key = tmp_path / "key.pem"
    open_key.write_bytes(own.key.read_bytes())
    open_key.chmod(0o644)
    assert any("may be read or changed by others" in text for _, text in told(pair, key=open_key))


@pytest.mark.parametrize(
    "content", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\0"]
)
def test_files_that_are_no_certificates_are_failures(pair, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pem").write_bytes(content)
    assert Grade.FAILED in [grade for grade, _ in told(pair, ca=tmp_path / "bad.pem")]
    assert Grade.FAILED in [grade for grade, _ in told(pair, key=tmp_path / "bad.pem")]
    assert Grade.FAILED in [grade for grade, _ in told(pair, cert=tmp_path / "gone.pem")]
    assert check_certificate("x", content, NOW).grade is Grade.FAILED
