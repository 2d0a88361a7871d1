"""agent.toml: one table, a reference page that is current, errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from driftpost_agent.settings import TABLE, starter_file
from driftpost_sync.errors import SettingsError

DOCS = Path(__file__).resolve().parents[2] / "docs" / "agent.md"


def test_the_reference_page_is_the_tables_own() -> None:
    page = DOCS.read_text(encoding="utf-8")
    reference = TABLE.reference_page().split("\n", 1)[1].strip()
    assert reference in page, "run: driftpost agent settings, and put its output into docs/agent.md"


def test_unknown_keys_and_wrong_values_are_listed_together(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text('[device]\nid = "a"\n[modle]\nbundle = 3\n[server]\nport = 99999\n')
    with pytest.raises(SettingsError) as caught:
        TABLE.load(tmp_path / "agent.toml")
    keys = {problem.key for problem in caught.value.problems}
    assert {"modle", "model.bundle", "server.port"} <= keys
    assert "did you mean model" in str(caught.value)


@pytest.mark.parametrize("key", [None, Path("team.pub")])
def test_the_starter_file_is_valid_and_says_whom_it_trusts(tmp_path: Path, key: Path | None) -> None:
    text = starter_file(device='odd "name"\\', bundle=Path("m.bundle"), key=key, broker="broker.lan")
    path = tmp_path / "agent.toml"
    path.write_text(text)
    settings = TABLE.load(path)
    assert settings.text("device.id") == 'odd "name"\\'
    assert settings.path("model.bundle") == tmp_path / "m.bundle"
    assert settings.flag("model.allow_unsigned") == (key is None)
    assert settings.text("mqtt.host") == "broker.lan"


def test_the_starter_file_names_the_device_after_its_host(tmp_path: Path) -> None:
    from driftpost_sync.topics import Identity

    path = tmp_path / "agent.toml"
    path.write_text(starter_file(device=None, bundle=Path("m.bundle"), key=None, broker="b"))
    Identity("fleet", TABLE.load(path).text("device.id"))
    assert TABLE.load(path).text("device.id")
