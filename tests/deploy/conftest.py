"""Certificates made with the script that deploy/ ships."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "mosquitto" / "certificates"


@pytest.fixture(scope="session")
def certificates() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs deploy/mosquitto/certificates with the arguments given."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(SCRIPT), *arguments], capture_output=True, text=True, timeout=30, check=False
        )

    return run


@pytest.fixture(scope="session")
def authority(
    certificates: Callable[..., subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with an authority, the broker's certificate and those of two devices and the aggregator."""
    folder = tmp_path_factory.mktemp("certificates")
    for arguments in (
        ("ca", str(folder)),
        ("broker", str(folder), "localhost", "127.0.0.1"),
        *(("client", str(folder), name) for name in ("cam-1", "cam-2", "_aggregator")),
    ):
        made = certificates(*arguments)
        assert made.returncode == 0, made.stderr
    return folder
