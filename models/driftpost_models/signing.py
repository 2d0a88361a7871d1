"""Ed25519 keys and signatures, through `cryptography`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from driftpost_models.errors import KeyProblem

PrivateKey = Ed25519PrivateKey
PublicKey = Ed25519PublicKey

ALGORITHM = "ed25519"

MAX_KEY_BYTES = 16 * 1024
"""Bytes. An Ed25519 key in PEM has about 120; more is another file."""


def generate() -> PrivateKey:
    """A new key from the system's randomness."""
    return Ed25519PrivateKey.generate()


def fingerprint(key: PublicKey | PrivateKey) -> str:
    """First 32 hex digits of the SHA-256 of the raw public key: what people compare and signatures name."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return hashlib.sha256(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:32]


def save_private_key(key: PrivateKey, path: Path) -> None:
    """Write a private key as PEM, readable by its owner only. Never overwrites.

    Raises:
        KeyProblem: the file exists or can not be written.
    """
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        # The mode is given on creation: between writing and a later chmod others could read it.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise KeyProblem(
            f"{path} exists already; a private key is never overwritten: choose another name"
        ) from error
    except OSError as error:
        raise KeyProblem(f"{path} can not be written: {error.strerror}") from error


def save_public_key(key: PublicKey | PrivateKey, path: Path) -> None:
    """Write a public key as PEM.

    Raises:
        KeyProblem: the file can not be written.
    """
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    try:
        path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    except OSError as error:
        raise KeyProblem(f"{path} can not be written: {error.strerror}") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise KeyProblem(
            f"the key {path} can not be read: {error.strerror}; check the path and its permissions, "
            "or make a pair with `driftpost keys new`"
        ) from error
    if len(content) > MAX_KEY_BYTES:
        raise KeyProblem(f"{path} is too large to be a key")
    return content


def load_private_key(path: Path) -> PrivateKey:
    """Read a private key in PEM.

    Raises:
        KeyProblem: missing, not a PEM private key, encrypted, or not Ed25519.
    """
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyProblem(
            f"{path} is not an unencrypted Ed25519 private key in PEM; make one with `driftpost keys new`"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyProblem(f"{path} is not an Ed25519 key; make one with `driftpost keys new`")
    return key


def load_public_key(path: Path) -> PublicKey:
    """Read a public key in PEM; of a private key's file, its public half.

    Raises:
        KeyProblem: missing, not a PEM key, or not Ed25519.
    """
    content = _read(path)
    if b"PRIVATE KEY" in content:
        return load_private_key(path).public_key()
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyProblem(
            f"{path} is not an Ed25519 public key in PEM (the .pub file of `driftpost keys new`)"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyProblem(f"{path} is not an Ed25519 public key")
    return key


def verified(key: PublicKey, signature: bytes, message: bytes) -> bool:
    """Whether this key made this signature over this message."""
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True
