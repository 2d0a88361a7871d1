from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from driftpost_models.build import Built
from driftpost_models.cli import bundle, keys
from driftpost_models.signing import generate
from models import onnx_files


def _run(group, *arguments: object) -> Result:
    return CliRunner().invoke(group, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    assert _run(keys, "new", tmp_path / "owner.key").exit_code == 0
    return tmp_path / "owner.key"


def test_new_keys_are_for_their_owner_and_show_one_fingerprint(key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    private = _run(keys, "show", key).output.strip()
    public = _run(keys, "show", key.with_name("owner.key.pub")).output.strip()
    assert private == public
    assert re.fullmatch(r"[0-9a-f]{32}", private)


def test_a_folder_gets_a_key_pair_and_a_second_call_does_not_destroy_it(tmp_path: Path) -> None:
    assert _run(keys, "new", tmp_path).exit_code == 0
    before = (tmp_path / "driftpost.key").read_bytes()
    assert (tmp_path / "driftpost.key.pub").exists()
    again = _run(keys, "new", tmp_path)
    assert again.exit_code == 1
    assert "never overwritten" in again.output
    assert (tmp_path / "driftpost.key").read_bytes() == before


def test_what_is_no_key_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no key", encoding="ascii")
    shown = _run(keys, "show", tmp_path / "x")
    assert shown.exit_code == 1
    assert "not an Ed25519 public key" in shown.output


def test_build_sign_verify_and_inspect(model: Path, table: Path, key: Path, tmp_path: Path) -> None:
    out = tmp_path / "switch.bundle"
    classes = tmp_path / "classes.txt"
    classes.write_text("dry\nwet\n", encoding="utf-8")
    made = _run(
        bundle, "build", "--model", model, "--reference", table, "--labels", "label", "--classes", classes,
        "--out", out, "--key", key, "--name", "switch", "--model-version", "7", "--author", "Field team",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    fingerprint = _run(keys, "show", key).output.strip()
    for text in (
        "switch 7",
        f"by {fingerprint}",
        "temperature",
        "accuracy",
        "1 per device-year",
        "400 rows of csv",
    ):
        assert text in made.output

    public = key.with_name("owner.key.pub")
    verified = _run(bundle, "verify", out, "--key", public)
    assert verified.exit_code == 0
    assert fingerprint in verified.output

    shown = _run(bundle, "inspect", out).output
    for text in ("switch 7", "Field team", "not verified", "confusion", "golden", "x float32[?,3]"):
        assert text in shown
    assert "verified" in _run(bundle, "inspect", out, "--key", public).output


def test_inspect_speaks_json_to_programs(built: Built) -> None:
    plain = json.loads(
        _run(bundle, "inspect", built.path, "--json").output,
        parse_constant=lambda name: pytest.fail(f"{name} is no JSON"),
    )
    assert plain["id"] == built.bundle.id
    assert plain["signature"] is None
    assert plain["golden"]["calls"] == 12
    streams = {stream["name"]: stream for stream in plain["streams"]}
    assert streams["temperature"]["effective_rows"] > 1
    assert streams["temperature"]["mean"] == pytest.approx(20, abs=0.5)
    assert "tau_rows" not in streams["latency_us"]


def test_a_strangers_signature_and_a_damaged_bundle_fail_verification(
    built: Built, key: Path, tmp_path: Path
) -> None:
    public = key.with_name("owner.key.pub")
    unsigned = _run(bundle, "verify", built.path, "--key", public)
    assert unsigned.exit_code == 1
    assert "not signed" in unsigned.output
    damaged = tmp_path / "d.bundle"
    content = bytearray(built.path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)
    shown = _run(bundle, "inspect", damaged)
    assert shown.exit_code == 1
    assert "Error" in shown.output


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--budget", "sometimes"], "false-alarm budget"),
        (["--image-scale", "bright"], "black and white"),
        (["--labels", "colour"], "neither a file nor a column"),
        (["--smallest-effect", "-1"], "between 0 and 10"),
        (["--window-seconds", "0"], "between"),
    ],
)
def test_mistakes_end_in_one_readable_line(
    model: Path, table: Path, tmp_path: Path, more, problem: str
) -> None:
    arguments = ["build", "--model", model, "--reference", table, "--out", tmp_path / "x", *more]
    if "--labels" not in more:
        arguments += ["--labels", "label"]
    result = _run(bundle, *arguments)
    assert result.exit_code == 1
    assert problem in result.output
    assert "Traceback" not in result.output


def test_a_model_that_is_none_and_a_place_that_can_not_be_written(
    model: Path, table: Path, tmp_path: Path
) -> None:
    (tmp_path / "m.onnx").write_bytes(b"PK\x03\x04 a zip file")
    refused = _run(
        bundle, "build", "--model", tmp_path / "m.onnx", "--reference", table, "--out", tmp_path / "x"
    )
    assert refused.exit_code == 1
    assert "Export the model to ONNX" in refused.output
    nowhere = _run(
        bundle,
        "build",
        "--model",
        model,
        "--reference",
        table,
        "--labels",
        "label",
        "--out",
        tmp_path / "no" / "x",
    )
    assert nowhere.exit_code == 1
    assert "can not be written" in nowhere.output


def test_class_names_that_can_not_be_read_are_said(model: Path, table: Path, tmp_path: Path) -> None:
    for content in (b"\xff\xff", b"\n\n"):
        (tmp_path / "c").write_bytes(content)
        build = [
            "build",
            "--model",
            model,
            "--reference",
            table,
            "--labels",
            "label",
            "--out",
            tmp_path / "x",
        ]
        result = _run(bundle, *build, "--classes", tmp_path / "c")
        assert result.exit_code == 1
        assert "class names" in result.output


def test_notes_on_several_streams_are_said_once(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx_files.classifier(3, 2))
    np.save(tmp_path / "r.npy", np.repeat(np.random.default_rng(0).normal(size=(60, 3)), 5, axis=0))
    result = _run(
        bundle, "build", "--model", path, "--reference", tmp_path / "r.npy", "--out", tmp_path / "b"
    )
    assert result.exit_code == 0, result.output
    assert "Please check:" in result.output
    assert "similarly" in result.output


@pytest.mark.parametrize(
    ("group", "arguments", "says"),
    [
        (bundle, ["inspect", "no.bundle"], "`driftpost bundle build` makes a bundle"),
        (bundle, ["verify", "no.bundle", "--key", "no.pub"], "the .pub file that `driftpost keys new` wrote"),
        (bundle, ["build", "--model", "no.onnx"], "the trained model's .onnx or .tflite file"),
        (bundle, ["build", "--reference", "no.npz"], "what the model saw when all was well"),
        (bundle, ["build", "--key", "no.key"], "`driftpost keys new PATH` makes a key"),
        (keys, ["show", "no.pub"], "the .pub file"),
    ],
)
def test_a_path_where_nothing_is_says_what_should_be_there(
    group: object, arguments: list[str], says: str
) -> None:
    outcome = _run(group, *arguments)
    assert outcome.exit_code == 2
    assert "does not exist. Check the path" in outcome.output
    assert says in outcome.output


def test_the_bundle_of_a_stranger_says_how_to_trust_them(built: Built, tmp_path: Path) -> None:
    built.bundle.write(tmp_path / "s.bundle", generate())
    assert _run(keys, "new", tmp_path / "ours.key").exit_code == 0
    outcome = _run(bundle, "verify", tmp_path / "s.bundle", "--key", tmp_path / "ours.key.pub")
    assert outcome.exit_code == 1
    assert "not trusted here" in outcome.output
    assert "model.trusted_keys" in outcome.output
