"""Activation: verified, tested, swapped in one step, and back again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from driftpost_agent.activation import KEPT_BUNDLES, Activation, Pointer
from driftpost_agent.errors import ActivationFailed
from driftpost_models.bundle import Bundle
from driftpost_models.errors import ModelRefused
from driftpost_models.runtime import Runtime, load_model
from driftpost_models.signing import generate, load_public_key


def start(bundle: Bundle) -> Runtime:
    return load_model(bundle.model_bytes)


@pytest.fixture
def activation(tmp_path: Path, bundles: Path) -> Activation:
    return Activation(
        tmp_path / "b", [load_public_key(bundles / "team.pub")], allow_unsigned=False, start=start
    )


def test_the_first_start_activates_the_configured_bundle(activation: Activation, bundles: Path) -> None:
    bundle, problem = activation.at_start(bundles / "mlp.bundle")
    assert problem == ""
    assert activation.pointer() == Pointer(bundle.id, "", bundle.id)
    assert activation.installed(bundle.id).read_bytes() == (bundles / "mlp.bundle").read_bytes()


def test_a_command_outlasts_restarts_until_the_configuration_names_another(
    activation: Activation, bundles: Path
) -> None:
    first, _ = activation.at_start(bundles / "mlp.bundle")
    second = activation.activate(bundles / "mlp2.bundle")
    assert activation.at_start(bundles / "mlp.bundle")[0].id == second.id
    third, _ = activation.at_start(bundles / "picture.bundle")
    assert activation.pointer() == Pointer(third.id, second.id, third.id)
    # Only the active bundle and its predecessor stay on the card.
    kept = {file.stem for file in activation.installed("x").parent.glob("*.bundle")}
    assert kept == {second.id, third.id}
    assert len(kept) == KEPT_BUNDLES
    assert first.id not in kept


def test_activating_the_active_bundle_again_keeps_the_way_back(activation: Activation, bundles: Path) -> None:
    first, _ = activation.at_start(bundles / "mlp.bundle")
    second = activation.activate(bundles / "mlp2.bundle")
    activation.activate(bundles / "mlp2.bundle")
    assert activation.pointer() == Pointer(second.id, first.id, first.id)


def test_rolling_back_happens_once_and_only_from_the_active_one(
    activation: Activation, bundles: Path
) -> None:
    first, _ = activation.at_start(bundles / "mlp.bundle")
    second = activation.activate(bundles / "mlp2.bundle")
    with pytest.raises(ActivationFailed):
        activation.roll_back(first.id, "it is not active")
    assert activation.roll_back(second.id, "it does not start").id == first.id
    with pytest.raises(ActivationFailed, match="no earlier bundle"):
        activation.roll_back(first.id, "nor this")


def test_a_changed_byte_an_unknown_signer_and_a_missing_key_are_refused(
    tmp_path: Path, bundles: Path, activation: Activation
) -> None:
    content = bytearray((bundles / "mlp.bundle").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "changed.bundle").write_bytes(content)
    stranger = Activation(tmp_path / "s", [generate().public_key()], allow_unsigned=False, start=start)
    nobody = Activation(tmp_path / "n", [], allow_unsigned=False, start=start)
    trial = Activation(tmp_path / "t", [], allow_unsigned=True, start=start)
    for refusing, path in (
        (activation, tmp_path / "changed.bundle"),
        (activation, tmp_path / "missing.bundle"),
        (stranger, bundles / "mlp.bundle"),
        (nobody, bundles / "mlp.bundle"),
    ):
        with pytest.raises(ActivationFailed) as refused:
            refusing.at_start(path)
        assert refused.value.step == "verify"
        assert refusing.pointer() is None
    assert trial.at_start(bundles / "mlp.bundle")[1] == ""


def test_a_bundle_whose_answers_differ_here_is_not_activated(tmp_path: Path, bundles: Path) -> None:
    other = Bundle.open(bundles / "mlp2.bundle", None)

    def wrong(bundle: Bundle) -> Runtime:
        return load_model(other.model_bytes)

    keys = [load_public_key(bundles / "team.pub")]
    activation = Activation(tmp_path / "b", keys, allow_unsigned=False, start=start)
    active, _ = activation.at_start(bundles / "picture.bundle")
    faulty = Activation(tmp_path / "b", keys, allow_unsigned=False, start=wrong)
    with pytest.raises(ActivationFailed, match="self-test") as failed:
        faulty.activate(bundles / "mlp.bundle")
    assert failed.value.rolled_back_to == active.id
    assert activation.pointer() == Pointer(active.id, "", active.id)


def test_a_bad_bundle_in_the_configuration_leaves_the_active_one_serving(
    activation: Activation, bundles: Path, tmp_path: Path
) -> None:
    active, _ = activation.at_start(bundles / "mlp.bundle")
    (tmp_path / "bad.bundle").write_bytes(b"half a download")
    served, problem = activation.at_start(tmp_path / "bad.bundle")
    assert served.id == active.id
    assert "bad.bundle" in problem


def test_an_installed_bundle_that_was_damaged_gives_way_to_its_predecessor_or_the_configured_file(
    activation: Activation, bundles: Path
) -> None:
    first, _ = activation.at_start(bundles / "mlp.bundle")
    second = activation.activate(bundles / "mlp2.bundle")
    activation.installed(second.id).write_bytes(b"torn")
    assert activation.at_start(bundles / "mlp.bundle")[0].id == first.id
    activation.installed(first.id).write_bytes(b"torn")
    served, problem = activation.at_start(bundles / "mlp.bundle")
    assert served.id == first.id
    assert problem != ""


def test_a_model_that_does_not_start_is_refused(tmp_path: Path, bundles: Path) -> None:
    def refuse(bundle: Bundle) -> Runtime:
        raise ModelRefused("no such operator", "update the runtime")

    keys = [load_public_key(bundles / "team.pub")]
    with pytest.raises(ActivationFailed, match="no such operator") as failed:
        Activation(tmp_path / "b", keys, allow_unsigned=False, start=refuse).at_start(bundles / "mlp.bundle")
    assert failed.value.step == "start"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"version": 9}', b'{"version": 1, "active": 3}', b"\xff" * 10_000]
)
def test_a_pointer_that_can_not_be_read_is_as_none(
    activation: Activation, bundles: Path, content: bytes
) -> None:
    active, _ = activation.at_start(bundles / "mlp.bundle")
    pointer = activation.installed("x").with_name("active.json")
    pointer.write_bytes(content)
    assert activation.pointer() is None
    assert activation.at_start(bundles / "mlp.bundle")[0].id == active.id
    assert json.loads(pointer.read_text())["active"] == active.id


def test_a_folder_that_can_not_be_written_is_a_clear_refusal(tmp_path: Path, bundles: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    keys = [load_public_key(bundles / "team.pub")]
    activation = Activation(tmp_path / "file" / "b", keys, allow_unsigned=False, start=start)
    with pytest.raises(ActivationFailed, match="install failed"):
        activation.activate(bundles / "mlp.bundle")
