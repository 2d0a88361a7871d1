"""Bundles that the agent's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.bundles import (
    REFERENCE_ROWS,
    built,
    image_model,
    mlp,
    pictures,
    reciprocal_model,
    tabular_rows,
)
from driftpost_models.bundle import Bundle
from driftpost_models.signing import PrivateKey, generate, save_public_key


@pytest.fixture(scope="session")
def key() -> PrivateKey:
    return generate()


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory, key: PrivateKey) -> Path:
    """A folder with signed bundles: mlp, mlp2 (other weights), picture, reciprocal; and team.pub."""
    folder = tmp_path_factory.mktemp("bundles")
    reference = tabular_rows(REFERENCE_ROWS)
    built(folder, "mlp", mlp(), reference, key=key, window_seconds=1.0)
    built(folder, "mlp2", mlp(seed=9), reference, key=key, window_seconds=1.0, version="2")
    built(folder, "picture", image_model(), pictures(1200), key=key, window_seconds=1.0)
    built(folder, "reciprocal", reciprocal_model(), abs(reference[:, :4]) + 0.5, key=key, window_seconds=1.0)
    save_public_key(key, folder / "team.pub")
    return folder


@pytest.fixture(scope="session")
def mlp_bundle(bundles: Path) -> Bundle:
    return Bundle.open(bundles / "mlp.bundle", None)


@pytest.fixture(scope="session")
def picture_bundle(bundles: Path) -> Bundle:
    return Bundle.open(bundles / "picture.bundle", None)


@pytest.fixture(scope="session")
def reciprocal_bundle(bundles: Path) -> Bundle:
    return Bundle.open(bundles / "reciprocal.bundle", None)
