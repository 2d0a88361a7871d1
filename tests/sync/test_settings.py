from __future__ import annotations

from pathlib import Path

import pytest

from driftpost_sync.errors import SettingsError
from driftpost_sync.mqtt_settings import MQTT_SETTINGS, MqttSettings
from driftpost_sync.settings import REQUIRED, Setting, Settings, SettingsTable, TableArray

TABLE = SettingsTable(
    "agent.toml",
    (
        Setting("device.id", str, REQUIRED, meaning="name of this device"),
        Setting("device.attributes", dict[str, str], {}, meaning="what cohorts are formed by"),
        Setting("model.trusted_keys", list[Path], [], meaning="keys that may sign"),
        Setting("windows.seconds", float, 300.0, "s", "length of a window", minimum=1, maximum=86400),
        Setting("windows.hours", list[int], [], meaning="hours to watch", minimum=0, maximum=23),
        Setting("store.path", Path, Path("agent.db"), meaning="where the store lives"),
        Setting("policy.effects", dict[str, float], {}, meaning="smallest change per stream", minimum=0),
        Setting("policy.mode", str, "flag", meaning="what to do", choices=("flag", "abstain")),
        Setting("checks", dict, {}, meaning="handed to another reader"),
        TableArray(
            "retrain.targets",
            (
                Setting("url", str, REQUIRED, meaning="where to post"),
                Setting("allow_private", bool, False, meaning="accept private addresses"),
                Setting("secret_file", Path, None, meaning="file with the secret"),
            ),
            "a receiver of requests",
            maximum=2,
        ),
        *MQTT_SETTINGS,
    ),
)


def load(tmp_path: Path, text: str, **overrides: object) -> Settings:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return TABLE.load(path, overrides={name.replace("__", "."): value for name, value in overrides.items()})


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    assert str(tmp_path / "agent.toml") in str(caught.value)
    return [str(problem) for problem in caught.value.problems]


def test_a_file_gives_typed_values_and_defaults_for_the_rest(tmp_path):
    settings = load(
        tmp_path,
        """
        [device]
        id = "pi-7"
        attributes = { site = "north" }
        [windows]
        seconds = 60
        hours = [1, 2]
        [model]
        trusted_keys = ["keys/a.pub", "/etc/b.pub"]
        [policy.effects]
        brightness = 1
        [checks.frozen]
        rows = 3
        [[retrain.targets]]
        url = "http://a"
        [[retrain.targets]]
        url = "http://b"
        allow_private = true
        secret_file = "s"
        """,
    )
    assert settings.text("device.id") == "pi-7"
    assert settings.text_map("device.attributes") == {"site": "north"}
    assert settings.number("windows.seconds") == 60.0
    assert settings.items_of("windows.hours", int) == (1, 2)
    assert settings.paths("model.trusted_keys") == (tmp_path / "keys/a.pub", Path("/etc/b.pub"))
    assert settings.path("store.path") == tmp_path / "agent.db"
    assert settings.number_map("policy.effects") == {"brightness": 1.0}
    assert settings.text("policy.mode") == "flag"
    assert settings.table("checks") == {"frozen": {"rows": 3}}
    first, second = settings.tables("retrain.targets")
    assert not first.flag("allow_private")
    assert first.optional("secret_file", Path) is None
    assert second.path("secret_file") == tmp_path / "s"
    assert settings.given("device.id")
    assert not settings.given("policy.mode")
    assert settings.optional("mqtt.username", str) is None


def test_overrides_are_laid_over_the_file_and_checked_like_it(tmp_path):
    settings = load(tmp_path, "[device]\nid='a'\n", mqtt__port=1999, mqtt__host=None)
    assert settings.integer("mqtt.port") == 1999
    assert settings.text("mqtt.host") == "127.0.0.1"
    with pytest.raises(SettingsError, match="must be a whole number from 1 to 65535, not 0"):
        load(tmp_path, "[device]\nid='a'\n", mqtt__port=0)
    with pytest.raises(SettingsError, match=r"mqtt\.prot: unknown setting; did you mean mqtt\.port"):
        load(tmp_path, "[device]\nid='a'\n", mqtt__prot=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "device.id: missing; needs text (name of this device)"),
        ("[device]\nid='a'\n[mqtt]\nprot=1", "mqtt.prot: unknown setting; did you mean mqtt.port?"),
        ("[device]\nid='a'\n[mqqt]\nport=1", "mqqt: unknown setting; did you mean mqtt?"),
        ("port=1\n[device]\nid='a'", "port: unknown setting; did you mean mqtt.port?"),
        ("zzz=1\n[device]\nid='a'", "zzz: unknown setting"),
        ("device='a'", "device: is a section; write it as [device]"),
        ("[device]\nid=7", "device.id: must be text, not 7 (name of this device)"),
        (
            "[device]\nid='a'\n[mqtt]\nport='x'",
            "mqtt.port: must be a whole number from 1 to 65535, not 'x' (its port; 8883 is usual with TLS)",
        ),
        (
            "[device]\nid='a'\n[mqtt]\nport=true",
            "mqtt.port: must be a whole number from 1 to 65535, not True (its port; 8883 is usual with TLS)",
        ),
        (
            "[device]\nid='a'\n[windows]\nseconds=nan",
            "windows.seconds: must be a number in s from 1 to 86400, not nan (length of a window)",
        ),
        (
            "[device]\nid='a'\n[windows]\nseconds=inf",
            "windows.seconds: must be a number in s from 1 to 86400, not inf (length of a window)",
        ),
        (
            "[device]\nid='a'\n[windows]\nhours=[1, 24]",
            "windows.hours: must be a list of whole numbers from 0 to 23, not 24 (hours to watch)",
        ),
        (
            "[device]\nid='a'\nattributes={site=1}",
            "device.attributes: must be a table of texts, not 1 (what cohorts are formed by)",
        ),
        (
            "[device]\nid='a'\n[policy]\nmode='stop'",
            "policy.mode: must be one of 'flag', 'abstain', not 'stop' (what to do)",
        ),
        (
            "[device]\nid='a'\n[policy.effects]\nx=-1",
            "policy.effects: must be a table of numbers of at least 0, not -1 (smallest change per stream)",
        ),
        ("checks=1\n[device]\nid='a'", "checks: must be a table, not 1 (handed to another reader)"),
        ("[device]\nid='a'\n[store]\npath=''", "store.path: must be a path, not '' (where the store lives)"),
        (
            "[device]\nid='a'\n[[retrain.targets]]\nurll='x'",
            "retrain.targets[0].urll: unknown setting; did you mean url?",
        ),
        (
            "[device]\nid='a'\n[retrain]\ntargets=1",
            "retrain.targets: must be an array of tables, [[retrain.targets]] (a receiver of requests)",
        ),
        (
            "[device]\nid='a'\n" + "[[retrain.targets]]\nurl='x'\n" * 3,
            "retrain.targets: has 3 entries; 0 to 2 are allowed (a receiver of requests)",
        ),
    ],
)
def test_a_mistake_is_named_with_key_expectation_and_meaning(tmp_path, text, expected):
    assert expected in problems(tmp_path, text)


def test_every_problem_is_listed_at_once(tmp_path):
    found = problems(tmp_path, "[mqtt]\nport='x'\nhst='y'\n[windows]\nseconds=0")
    assert len(found) == 4


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[device\n", "it is not TOML"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"#" * ((1 << 20) + 1), "wrong file"),
        (b"a=" + b"[" * 100_000, "it is not TOML"),
    ],
)
def test_a_file_that_is_no_configuration_is_a_clear_error(tmp_path, content, expected):
    path = tmp_path / "agent.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=expected):
        TABLE.load(path)


def test_a_missing_file_and_a_folder_are_clear_errors(tmp_path):
    with pytest.raises(SettingsError, match=r"No such file.*--config"):
        TABLE.load(tmp_path / "no.toml")
    with pytest.raises(SettingsError, match="directory"):
        TABLE.load(tmp_path)


def test_the_reference_page_names_every_setting_with_its_default(tmp_path):
    page = TABLE.reference_page()
    for entry in TABLE.entries:
        name = entry.name if isinstance(entry, TableArray) else entry.name.rpartition(".")[2]
        assert name in page
    assert "| `id` | text | required | Name of this device. |" in page
    assert "| `port` | integer | `1883` | Its port; 8883 is usual with TLS. From 1 to 65535. |" in page
    assert "### [[retrain.targets]]" in page
    assert "| `seconds` | number, s | `300.0` | Length of a window. From 1 to 86400. |" in page


def test_asking_by_the_wrong_accessor_is_a_programming_error(tmp_path):
    settings = load(tmp_path, "[device]\nid='a'\n")
    with pytest.raises(TypeError, match=r"mqtt\.port is int, asked for as str"):
        settings.text("mqtt.port")
    with pytest.raises(KeyError):
        settings.text("mqtt.nothing")


def test_a_table_that_contradicts_itself_is_a_programming_error():
    one = Setting("a", str, meaning="x")
    with pytest.raises(TypeError, match="declared twice"):
        SettingsTable("t", (one, one))
    with pytest.raises(TypeError, match="is a section and a key"):
        SettingsTable("t", (one, Setting("a.b", str, meaning="x")))
    with pytest.raises(TypeError, match="not supported"):
        Setting("a", set, meaning="x")
    with pytest.raises(TypeError, match="needs a meaning"):
        Setting("a", str)


def test_mqtt_settings_that_do_not_go_together_are_refused(tmp_path):
    text = "[device]\nid='a'\n[mqtt]\n"
    for lines, expected in (
        ("cert='c'", "mqtt.cert and mqtt.key go together"),
        ("password_file='p'", "needs mqtt.username"),
        ("reconnect_min_s=60\nreconnect_max_s=1", "is below mqtt.reconnect_min_s"),
    ):
        with pytest.raises(SettingsError, match=expected):
            MqttSettings.from_settings(load(tmp_path, text + lines))
    section = MqttSettings.from_settings(load(tmp_path, text + "ca='ca.pem'\nport=8883"))
    assert section.ca == tmp_path / "ca.pem"
    assert section.uses_tls


def test_the_defaults_of_the_section_and_of_its_class_are_the_same(tmp_path):
    assert MqttSettings.from_settings(load(tmp_path, "[device]\nid='a'\n")) == MqttSettings()
