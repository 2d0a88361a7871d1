"""The `driftpost` command: assembled from entry points, honest about what is not installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest

from driftpost_agent.command_line import COMMANDS, EXTRAS, CommandLine, missing_package_message, run
from driftpost_agent.errors import DaemonUnreachable


def _line(**points: str) -> CommandLine:
    found = {name: EntryPoint(name, value, COMMANDS) for name, value in points.items()}
    return CommandLine(lambda: found)


@click.command()
def greet() -> None:
    """Say good day."""
    click.echo("good day")


@click.command()
def explode() -> None:
    """Fail as our own code does."""
    raise DaemonUnreachable("http://127.0.0.1:1", "refused")


@click.command()
def needs_an_extra() -> None:
    """Import something late."""
    raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")


def test_help_lists_known_groups_without_importing_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"], _line(aggregator="no_such_module_at_all:group")) == 0
    assert "Gather a fleet" in capsys.readouterr().out


def test_help_of_a_foreign_plugin_shows_its_own_summary(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EntryPoint, "load", lambda self: greet)
    assert run(["--help"], _line(plugin="plugin.cli:greet")) == 0
    assert "Say good day." in capsys.readouterr().out


def test_a_broken_plugin_does_not_break_the_help_of_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"], _line(agent="x:y", zz_broken="no_such_module_at_all:group")) == 0
    out = capsys.readouterr().out
    assert "Guard a model" in out
    assert "could not be loaded" in out


def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: EntryPoint) -> object:
        raise ModuleNotFoundError("No module named 'sqlalchemy'", name="sqlalchemy.engine")

    monkeypatch.setattr(EntryPoint, "load", refuse)
    status = run(["aggregator", "run"], _line(aggregator="driftpost_aggregator.cli:aggregator"))
    error = capsys.readouterr().err
    assert status == 1
    assert "pip install 'driftpost[aggregator]'" in error
    assert "Traceback" not in error


def test_a_missing_room_says_how_to_reinstall(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["thing"], _line(thing="driftpost_nothing.cli:thing")) == 1
    assert "not part of this installation" in capsys.readouterr().err


def test_an_entry_point_that_is_no_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["thing"], _line(thing="json:loads")) == 1
    assert "is not a click command" in capsys.readouterr().err


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["nonsense"], _line()) == 2
    assert "No such command" in capsys.readouterr().err


def test_our_own_errors_are_one_line_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    group = click.Group(commands={"explode": explode})
    assert run(["explode"], group) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: no agent answers at http://127.0.0.1:1")
    assert "driftpost agent run" in error


def test_an_import_that_fails_inside_a_command_names_the_extra(capsys: pytest.CaptureFixture[str]) -> None:
    group = click.Group(commands={"late": needs_an_extra})
    assert run(["late"], group) == 1
    assert "pip install 'driftpost[onnx]'" in capsys.readouterr().err


def test_a_defect_keeps_its_traceback() -> None:
    @click.command()
    def broken() -> None:
        raise ZeroDivisionError("a defect")

    with pytest.raises(ZeroDivisionError):
        run([], broken)  # type: ignore[arg-type]  # any click command runs


@pytest.mark.parametrize("package", sorted(EXTRAS))
def test_every_optional_package_maps_to_an_extra_that_exists(package: str) -> None:
    project = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f"\n{EXTRAS[package]} = [" in project.split("[project.optional-dependencies]")[1]
    message = missing_package_message(ModuleNotFoundError("gone", name=package), "driftpost x")
    assert f"driftpost[{EXTRAS[package]}]" in message


def test_the_installed_command_tells_its_version_quickly_from_any_folder(tmp_path: object) -> None:
    from importlib.metadata import version

    outcome = subprocess.run(
        [sys.executable, "-m", "driftpost", "--version"],
        capture_output=True,
        text=True,
        cwd=str(tmp_path),
        timeout=30,
        check=True,
    )
    assert outcome.stdout.strip() == f"driftpost, version {version('driftpost')}"


def test_importing_the_face_loads_neither_numpy_nor_click() -> None:
    code = "import sys, driftpost; print({'numpy', 'click'} & set(sys.modules))"
    outcome = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert outcome.stdout.strip() == "set()"


def test_every_public_name_of_the_face_can_be_loaded() -> None:
    import driftpost

    for name in driftpost.__all__:
        assert getattr(driftpost, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = driftpost.Nonsense  # type: ignore[attr-defined]
