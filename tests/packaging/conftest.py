"""One built distribution and one environment with the agent's extra, shared by the tests of this folder."""

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
# A package index at the far end of a bad line; a healthy one needs a tenth of it.
INSTALL_TIMEOUT_S = 600


@dataclass(frozen=True)
class Distribution:
    sdist: Path
    wheel: Path


@dataclass(frozen=True)
class Environment:
    """A virtual environment that has driftpost's wheel, and a folder far from the checkout to run it in."""

    root: Path
    workdir: Path

    def run(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment as a user's shell would: no checkout on any path."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run(
            [str(self.root / "bin" / command[0]), *command[1:]],
            cwd=self.workdir,
            env=clean,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


@pytest.fixture(scope="session")
def checkout() -> Path:
    return CHECKOUT


@pytest.fixture(scope="session")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    """The sdist, and the wheel built from that sdist alone."""
    out = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(out), str(CHECKOUT)],
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return Distribution(sdist, wheel)


@pytest.fixture(scope="session")
def agent_environment(distribution: Distribution, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """What `pip install driftpost[onnx]` gives on a device."""
    root = tmp_path_factory.mktemp("agent") / "venv"
    venv.create(root, with_pip=True)
    installed = subprocess.run(
        [
            str(root / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet",
            "--constraint", str(CHECKOUT / "constraints.txt"), f"{distribution.wheel}[onnx]",
        ],
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stdout + installed.stderr
    return Environment(root, tmp_path_factory.mktemp("elsewhere"))
