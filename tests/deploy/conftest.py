"""Certificates made with the script that deploy/ ships, the broker that uses them, and a bundle."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.shipped_broker import SHIPPED, ShippedBroker, running_shipped_broker

CHECKOUT = Path(__file__).resolve().parents[2]
DIGITS = CHECKOUT / "examples" / "digits"


@pytest.fixture(scope="session")
def certificates() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs deploy/mosquitto/certificates with the arguments given."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(SHIPPED / "certificates"), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
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


@pytest.fixture(scope="module")
def broker(authority: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShippedBroker]:
    with running_shipped_broker(authority, tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's digit reader for onnxruntime, unsigned."""
    folder = tmp_path_factory.mktemp("bundle")
    reference, path = folder / "reference.npz", folder / "meter.bundle"
    driftpost = Path(sys.executable).with_name("driftpost")
    for command in (
        [sys.executable, DIGITS / "record_reference.py", "onnx", reference],
        [
            driftpost, "bundle", "build", "--model", DIGITS / "models" / "digits_int8.onnx",
            "--reference", reference, "--labels", "digit", "--name", "meter", "--out", path,
        ],
    ):  # fmt: skip
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
    return path
