"""The installer for a bare board, run for real below a root: once, again, over an old one, and away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from driftpost_agent.settings import TABLE

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPT = CHECKOUT / "deploy" / "install-agent.sh"


def run(*arguments: object, status: int = 0, script: Path = SCRIPT) -> str:
    """Run the installer; its dependencies come from this environment instead of an index."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONPATH": sysconfig.get_paths()["purelib"],
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
    }
    done = subprocess.run(
        ["/bin/sh", str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
        timeout=300,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file outside of the environment, with its mode and content."""
    return {
        path.relative_to(root).as_posix(): (path.stat().st_mode & 0o777, path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file() and "opt" not in path.relative_to(root).parts
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "new.bundle").write_bytes(b"a bundle")
    (folder / "release.pub").write_bytes(b"a key")
    return folder


@pytest.fixture(scope="module")
def installed(
    tmp_path_factory: pytest.TempPathFactory, distribution, files: Path
) -> tuple[Path, list[object]]:
    root = tmp_path_factory.mktemp("board")
    options: list[object] = ["--root", root, "--package", distribution.wheel, "--python", sys.executable]
    options += ["--bundle", files / "new.bundle", "--key", files / "release.pub", "--device", "cam-7"]
    run(*options, "--broker", "broker.lan")
    return root, options


def test_a_bare_board_gets_environment_unit_account_and_a_configuration_that_loads(installed) -> None:
    root, _ = installed
    assert set(tree(root)) == {
        "etc/driftpost/agent.toml",
        "etc/driftpost/model.bundle",
        "etc/driftpost/release.pub",
        "etc/systemd/system/driftpost-agent.service",
        "usr/lib/sysusers.d/driftpost.conf",
    }
    settings = TABLE.load(root / "etc/driftpost/agent.toml")
    assert settings.text("device.id") == "cam-7"
    assert settings.text("mqtt.host") == "broker.lan"
    assert settings.path("model.bundle") == Path("/etc/driftpost/model.bundle")
    assert settings.paths("model.trusted_keys") == (Path("/etc/driftpost/release.pub"),)
    assert settings.path("store.path") == Path("/var/lib/driftpost/agent/agent.db")
    assert tree(root)["etc/driftpost/agent.toml"][0] == 0o640
    assert (root / "etc/driftpost").stat().st_mode & 0o777 == 0o750
    assert (root / "var/lib/driftpost").is_dir()
    unit = (root / "etc/systemd/system/driftpost-agent.service").read_text()
    assert "ExecStart=/opt/driftpost/bin/driftpost agent run --config /etc/driftpost/agent.toml" in unit


def test_its_scripts_name_the_place_they_will_run_from(installed) -> None:
    root, _ = installed
    first = (root / "opt/driftpost/bin/driftpost").read_text().splitlines()[0]
    assert first == "#!/opt/driftpost/bin/python" or first.startswith("#!/opt/driftpost/bin/python3")


def test_once_more_changes_nothing_and_an_upgrade_leaves_configuration_and_data(
    installed, files: Path
) -> None:
    root, options = installed
    config = root / "etc/driftpost/agent.toml"
    config.write_text(config.read_text() + "\n# mine\n")
    (root / "var/lib/driftpost/agent.db").write_bytes(b"windows")
    before = tree(root)
    said = run(*options)
    assert tree(root) == before
    assert "agent.toml is left as it is" in said
    (files / "new.bundle").write_bytes(b"a newer bundle")
    run(*options)
    assert tree(root)["etc/driftpost/model.bundle"][1] == b"a newer bundle"
    assert not (root / "opt/driftpost.old").exists()


def test_an_upgrade_that_fails_leaves_the_agent_that_ran(installed, files: Path) -> None:
    root, options = installed
    broken = files / "driftpost-9.9-py3-none-any.whl"
    broken.write_bytes(b"no wheel")
    changed = [broken if str(option).endswith(".whl") else option for option in options]
    said = run(*changed, status=1)
    assert "the environment before is as it was" in said
    assert [path.name for path in (root / "opt").iterdir()] == ["driftpost"]
    check = subprocess.run(
        [root / "opt/driftpost/bin/python", "-m", "driftpost", "--version"],
        env={"PYTHONPATH": sysconfig.get_paths()["purelib"]},
        capture_output=True,
        check=True,
    )
    assert b"driftpost" in check.stdout


def test_an_upgrade_that_is_cut_off_leaves_the_agent_that_ran_and_is_made_good_by_the_next(
    installed, files: Path, tmp_path: Path
) -> None:
    root, options = installed
    cut = tmp_path / "cut.sh"
    shutil.copytree(SCRIPT.parent / "systemd", tmp_path / "systemd")
    # The power goes when the new package is half there.
    lines = SCRIPT.read_text().replace('run "$@" "$package" || return 1', 'rm -r "$new"/lib; kill -9 $$')
    assert lines != SCRIPT.read_text()
    cut.write_text(lines)
    run(*options, script=cut, status=-9)
    program = root / "opt/driftpost/bin/driftpost"
    library = sorted(path for path in (root / "opt/driftpost/lib").rglob("driftpost_agent/*.py"))
    assert program.exists()
    assert library
    run("--root", root, "--package", files / "missing.whl", "--python", sys.executable, status=1)
    assert sorted((root / "opt/driftpost/lib").rglob("driftpost_agent/*.py")) == library
    # Between the two renames there is none.
    (root / "opt/driftpost").rename(root / "opt/driftpost.old")
    said = run(*options)
    assert "its predecessor is put back" in said
    assert program.exists()
    assert [path.name for path in (root / "opt").iterdir()] == ["driftpost"]


def test_a_root_with_a_long_and_odd_name_is_named_by_no_script(
    tmp_path: Path, distribution, files: Path
) -> None:
    root = tmp_path / "an image [1.0] & more" / ("x" * 120)
    root.mkdir(parents=True)
    run("--root", root, "--package", distribution.wheel, "--python", sys.executable)
    for path in (root / "opt/driftpost/bin").iterdir():
        if path.is_file() and not path.is_symlink():
            assert str(root).encode() not in path.read_bytes(), path.name
    assert "/opt/driftpost/bin/python" in (root / "opt/driftpost/bin/driftpost").read_text()


def test_a_dry_run_tells_everything_and_does_nothing(tmp_path: Path, files: Path) -> None:
    root = tmp_path / "board"
    root.mkdir()
    said = run("--root", root, "--dry-run", "--bundle", files / "new.bundle", "--python", sys.executable)
    assert "would run:" in said
    assert "pip" in said
    assert "agent.toml" in said
    assert list(root.iterdir()) == []
    live = run("--dry-run", "--python", sys.executable)
    assert "chown driftpost:driftpost /var/lib/driftpost" in live


def test_it_uninstalls_cleanly_and_keeps_data_unless_told_otherwise(tmp_path: Path, installed) -> None:
    source, _ = installed
    root = tmp_path / "board"
    shutil.copytree(source, root, symlinks=True)
    (root / "opt/driftpost.new").mkdir()
    (root / "opt/driftpost.old").mkdir()
    said = run("--root", root, "--uninstall")
    assert "are kept" in said
    assert list((root / "opt").iterdir()) == []
    assert {name.split("/")[0] for name in tree(root)} == {"etc", "var"}
    assert (root / "etc/driftpost/agent.toml").exists()
    run("--root", root, "--uninstall", "--purge")
    assert tree(root) == {}
    run("--root", root, "--uninstall", "--purge")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense"], "no option --nonsense"),
        (["--bundle"], "needs a value"),
        (["--bundle", "/no/such/file"], "no file /no/such/file"),
        (["--purge"], "goes with --uninstall"),
        (["--root", "relative"], "a path from /"),
        (["--device", "cam;reboot"], "letters, digits"),
        (["--device", "-x"], "letters, digits"),
    ],
)
def test_wrong_options_are_told_before_anything_is_done(arguments: list[str], words: str) -> None:
    assert words in run(*arguments, status=2)


def test_a_python_that_is_too_old_or_not_there_is_told(tmp_path: Path) -> None:
    root = tmp_path / "board"
    root.mkdir()
    assert "there is no python9" in run("--root", root, "--python", "python9", status=1)
    old = tmp_path / "python2"
    old.write_text("#!/bin/sh\ncase $1 in -V) echo Python 2.7 ;; *) exit 1 ;; esac\n")
    old.chmod(0o755)
    assert "older than 3.10: Python 2.7" in run("--root", root, "--python", old, status=1)


def test_help_names_every_option_that_the_script_takes() -> None:
    said = run("--help")
    for option in (
        "--package",
        "--bundle",
        "--key",
        "--root",
        "--dry-run",
        "--uninstall",
        "--purge",
        "--python",
    ):
        assert option in said


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    scripts = [SCRIPT, CHECKOUT / "deploy" / "container" / "test-arm64"]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
