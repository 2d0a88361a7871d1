import tarfile
import zipfile

PACKAGE_FOLDERS = (
    "agent/driftpost_agent",
    "aggregator/driftpost_aggregator",
    "models/driftpost_models",
    "sketches/driftpost_sketches",
    "sync/driftpost_sync",
)


def _wheel_files(distribution):
    with zipfile.ZipFile(distribution.wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_the_five_packages_and_the_face_and_nothing_else(distribution, checkout):
    expected = {"driftpost.py"}
    for folder in PACKAGE_FOLDERS:
        source_root = (checkout / folder).parent
        expected |= {
            path.relative_to(source_root).as_posix()
            for path in (checkout / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
    assert _wheel_files(distribution) == expected


def test_every_package_in_the_wheel_says_that_it_is_typed(distribution):
    files = _wheel_files(distribution)
    for folder in PACKAGE_FOLDERS:
        assert f"{folder.split('/')[1]}/py.typed" in files


def test_the_dashboards_pages_and_the_databases_migrations_are_in_the_wheel(distribution):
    files = _wheel_files(distribution)
    for folder, suffix in (("web", ".html"), ("web", ".css"), ("web", ".js"), ("store/migrations", ".py")):
        prefix = f"driftpost_aggregator/{folder}/"
        assert any(name.startswith(prefix) and name.endswith(suffix) for name in files), (prefix, suffix)


def test_the_wheel_carries_its_licence(distribution):
    with zipfile.ZipFile(distribution.wheel) as archive:
        (licence,) = [name for name in archive.namelist() if name.endswith("/LICENSE")]
        assert b"Apache License" in archive.read(licence)


def test_the_sdist_can_run_the_checks_and_leaves_local_state_behind(distribution):
    with tarfile.open(distribution.sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    needed = {"pyproject.toml", "constraints.txt", "Makefile", "LICENSE", "tests/packaging/test_wheel.py"}
    assert needed <= names
    local = [n for n in names if n.startswith((".venv", ".git/", "dist/")) or "__pycache__" in n]
    assert local == []
