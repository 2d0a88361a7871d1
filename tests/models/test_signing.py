from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from driftpost_models.errors import KeyProblem
from driftpost_models.signing import (
    fingerprint,
    generate,
    load_private_key,
    load_public_key,
    save_private_key,
    save_public_key,
    verified,
)


def test_keys_survive_their_files_and_the_private_one_is_for_its_owner_alone(tmp_path: Path) -> None:
    key = generate()
    save_private_key(key, tmp_path / "k")
    save_public_key(key, tmp_path / "k.pub")
    assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600
    signature = load_private_key(tmp_path / "k").sign(b"message")
    for path in ("k.pub", "k"):
        public = load_public_key(tmp_path / path)
        assert verified(public, signature, b"message")
        assert not verified(public, signature, b"massage")
        assert not verified(public, signature[:-1], b"message")
        assert fingerprint(public) == fingerprint(key)
    assert len(fingerprint(key)) == 32
    assert fingerprint(generate()) != fingerprint(key)


def test_a_private_key_is_never_overwritten(tmp_path: Path) -> None:
    save_private_key(generate(), tmp_path / "k")
    before = (tmp_path / "k").read_bytes()
    with pytest.raises(KeyProblem, match="never overwritten"):
        save_private_key(generate(), tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == before
    with pytest.raises(KeyProblem, match="can not be written"):
        save_private_key(generate(), tmp_path / "none" / "k")
    with pytest.raises(KeyProblem, match="can not be written"):
        save_public_key(generate(), tmp_path / "none" / "k")


@pytest.mark.parametrize("load", [load_private_key, load_public_key])
def test_other_files_are_no_keys(tmp_path: Path, load) -> None:
    other = X25519PrivateKey.generate()
    contents = {
        "noise": bytes(100),
        "empty": b"",
        "huge": bytes(20_000),
        "another algorithm": other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "another public algorithm": other.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        ),
        "encrypted": generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        ),
        "cut short": generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())[:60],
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(KeyProblem):
            load(path)
    with pytest.raises(KeyProblem, match="can not be read"):
        load(tmp_path / "missing")
