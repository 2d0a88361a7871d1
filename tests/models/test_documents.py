"""The pages say what the program does."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import zipfile
from pathlib import Path

import pytest

from driftpost_models.build import Built
from driftpost_models.policy import Policy
from driftpost_models.probes.config import INPUT_KINDS, OUTPUT_KINDS, TensorWishes
from driftpost_models.probes.registry import probe_kinds
from driftpost_models.reasons import REASON_NAMES
from models.test_probes import EXAMPLES

DOCS = Path(__file__).resolve().parents[2] / "docs"
BUNDLE = (DOCS / "bundle.md").read_text(encoding="utf-8")
PROBES = (DOCS / "probes.md").read_text(encoding="utf-8")


def test_the_manifest_on_the_page_has_the_fields_of_a_real_one(built: Built) -> None:
    shown = json.loads(re.findall(r"```json\n(.*?)```", BUNDLE, re.DOTALL)[0])
    with zipfile.ZipFile(built.path) as archive:
        real = json.loads(archive.read("manifest.json"))
    assert set(shown) == set(real)
    assert (shown["format"], shown["format_version"]) == (real["format"], real["format_version"])
    default = Policy().to_toml().encode()
    assert shown["members"]["policy.toml"] == {
        "bytes": len(default),
        "sha256": hashlib.sha256(default).hexdigest(),
    }


def test_every_member_of_a_bundle_is_on_the_page(built: Built) -> None:
    with zipfile.ZipFile(built.path) as archive:
        for name in archive.namelist():
            assert f"`{name}`" in BUNDLE or (name.startswith("golden/") and "`golden/*.raw`" in BUNDLE)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Policy)])
def test_every_key_of_a_policy_is_on_the_page(name: str) -> None:
    assert f"| `{name}` |" in BUNDLE


@pytest.mark.parametrize("name", REASON_NAMES)
def test_every_reason_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in BUNDLE


@pytest.mark.parametrize("name", [field.name.rstrip("_") for field in dataclasses.fields(TensorWishes)])
def test_every_key_of_a_tensor_is_on_the_page(name: str) -> None:
    assert re.search(rf"^\| .*`{name}`", PROBES, re.MULTILINE)


@pytest.mark.parametrize("name", sorted({*INPUT_KINDS, *OUTPUT_KINDS}))
def test_every_kind_that_can_be_asked_for_is_on_the_page(name: str) -> None:
    assert re.search(rf"\b{name}\b", PROBES)


def test_every_short_stream_name_is_on_the_page() -> None:
    for kind, examples in EXAMPLES.items():
        for options in examples:
            probe = probe_kinds()[kind](**options)
            if kind in ("numeric_columns", "categorical_columns", "regression", "limits", "codes"):
                continue  # named by the owner, or after the tensor
            for draft in probe.streams():
                short = draft.name.rsplit(".", 1)[-1]
                short = re.sub(r"(band|feature|direction)s?\d.*", r"\1", short)
                assert short in PROBES, short
