import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOMS = ("agent", "aggregator", "models", "sketches", "sync")
# Models and images of the demo stay below this; anything larger belongs in a release, not in the history.
LARGEST_FILE_BYTES = 300_000
# Minified or generated text gives itself away by its line length; our own is cut at 110 columns.
LONGEST_SCRIPT_LINE = 400
NAMES_THAT_EXPLAIN_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}


@pytest.fixture(scope="module")
def files(checkout):
    """Every file that is, or with the next `git add` would be, in the repository."""
    if shutil.which("git") is None or not (checkout / ".git").exists():
        pytest.skip("not a git checkout: what belongs to the repository is unknown")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [checkout / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_the_import_contracts_of_the_rooms_hold(checkout):
    command = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [str(command), "--no-cache"], cwd=checkout, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_file_has_a_name_that_explains_nothing(files, checkout):
    vague = [
        str(path.relative_to(checkout)) for path in files if path.stem.lower() in NAMES_THAT_EXPLAIN_NOTHING
    ]
    assert vague == []


def test_every_module_of_the_rooms_says_what_it_is_for(checkout):
    modules = [path for room in ROOMS for path in (checkout / room).rglob("*.py")]
    assert modules
    silent = [
        str(path.relative_to(checkout))
        for path in modules
        if ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is None
    ]
    assert silent == []


def test_no_file_is_too_large_for_the_history(files, checkout):
    large = {str(path.relative_to(checkout)): path.stat().st_size for path in files}
    assert {name: size for name, size in large.items() if size > LARGEST_FILE_BYTES} == {}


def test_nothing_of_others_is_copied_in(files, checkout):
    foreign = []
    for path in files:
        relative = path.relative_to(checkout)
        if {"vendor", "vendored", "third_party", "node_modules"} & set(relative.parts):
            foreign.append(f"{relative}: a folder for others' code")
        if path.suffix in {".whl", ".so", ".jar", ".map"} or ".min." in path.name:
            foreign.append(f"{relative}: a built artefact")
        if path.suffix in {".js", ".css", ".py"}:
            text = path.read_text(encoding="utf-8")
            if max(map(len, text.splitlines()), default=0) > LONGEST_SCRIPT_LINE:
                foreign.append(f"{relative}: minified or generated")
    assert foreign == []
