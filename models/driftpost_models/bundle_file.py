"""The bundle's container: a zip file with a manifest of hashes, and a signature over the manifest.

Everything is bounded before it is read, and nothing is read that the manifest does not name: the file comes
from elsewhere, and whoever can write it chooses what a device loads. `docs/bundle.md` has the format.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from driftpost_models.errors import BundleMalformed, BundleTooNew, BundleUntrusted
from driftpost_models.runtime import MAX_MODEL_BYTES
from driftpost_models.signing import ALGORITHM, PrivateKey, PublicKey, fingerprint, verified

FORMAT = "driftpost-bundle"
FORMAT_VERSION = 3

MANIFEST = "manifest.json"
SIGNATURE = "signature.json"

MAX_MEMBERS = 256
"""Members of the archive: a dozen, and two for each golden tensor."""

MAX_MANIFEST_BYTES = 1 << 20
"""Bytes. A hundred times the manifest of a model with a hundred tensors."""

MAX_MEMBER_BYTES = 256 << 20
"""Bytes of any member but the model; golden tensors of large images are the largest."""

MAX_TOTAL_BYTES = MAX_MODEL_BYTES + (256 << 20)
"""Bytes of all members together, unpacked."""

_END_RECORD = struct.Struct("<4s4H2LH")
_END_MAGIC = b"PK\x05\x06"

# Any fixed moment makes equal content an equal file; this is the earliest that zip can say.
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Signature:
    """Who vouches for a bundle.

    Attributes:
        key: fingerprint of the key that signed.
        verified: whether a trusted key was at hand and the signature is its own.
    """

    key: str
    verified: bool


@dataclass(frozen=True)
class Archive:
    """An opened container.

    Attributes:
        id: hex SHA-256 of the manifest, which holds every member's hash.
        manifest: its other fields.
        members: content by name.
        signature: who vouches for it; None for an unsigned bundle.
    """

    id: str
    manifest: Mapping[str, object]
    members: Mapping[str, bytes]
    signature: Signature | None


def write_archive(
    path: Path, header: Mapping[str, object], members: Mapping[str, bytes], key: PrivateKey | None
) -> str:
    """Write a container, all or nothing.

    Args:
        path: where; an existing file is replaced.
        header: fields of the manifest beside the format and the members.
        members: content by name.
        key: signs the manifest; None leaves it unsigned.

    Returns:
        the bundle's id.

    Raises:
        OSError: the file can not be written.
    """
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **header,
        "members": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in sorted(members.items())
        },
    }
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode()
    parts = [(MANIFEST, text)]
    if key is not None:
        signature = {"algorithm": ALGORITHM, "key": fingerprint(key), "signature": key.sign(text).hex()}
        parts.append((SIGNATURE, json.dumps(signature, indent=1, sort_keys=True).encode()))
    parts += sorted(members.items())
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
                for name, content in parts:
                    info = zipfile.ZipInfo(name, _FIXED_TIME)
                    info.compress_type = zipfile.ZIP_DEFLATED
                    info.external_attr = 0o644 << 16
                    archive.writestr(info, content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return hashlib.sha256(text).hexdigest()


def read_archive(path: Path, trusted: Sequence[PublicKey] | None) -> Archive:
    """Read a container and check all of it.

    Args:
        path: the file.
        trusted: keys one of which must have signed it; None says that an unsigned bundle is fine.

    Raises:
        BundleMalformed: no bundle, damaged, or tampered with.
        BundleTooNew: of a newer format.
        BundleUntrusted: not signed by a trusted key.
    """
    try:
        size = path.stat().st_size
        if size > MAX_TOTAL_BYTES:
            raise BundleMalformed(f"{path.name} has {size} bytes, more than any bundle")
        with path.open("rb") as file:
            _check_end(path.name, file.read() if size < 1 << 16 else _tail(path, size))
        with zipfile.ZipFile(path) as archive:
            return _read(path.name, archive, trusted)
    except OSError as error:
        raise BundleMalformed(
            f"{path} can not be read: {error.strerror or error}; check the path, or make it with "
            "`driftpost bundle build`"
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        # zipfile reports encrypted members as RuntimeError and odd headers as any of these.
        raise BundleMalformed(f"{path.name} is not a readable bundle: {error}") from error


def _tail(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, size - (1 << 16) - _END_RECORD.size))
        return file.read()


def _check_end(name: str, tail: bytes) -> None:
    """Refuse a directory of too many entries before it is loaded."""
    at = tail.rfind(_END_MAGIC)
    if at < 0 or len(tail) - at < _END_RECORD.size:
        raise BundleMalformed(f"{name} is not a bundle (no zip file, or cut short)")
    entries = _END_RECORD.unpack_from(tail, at)[4]
    if entries > MAX_MEMBERS:
        raise BundleMalformed(f"{name} has {entries} members, more than any bundle")


def _read(name: str, archive: zipfile.ZipFile, trusted: Sequence[PublicKey] | None) -> Archive:
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename in infos:
            raise BundleMalformed(f"{name} holds {info.filename!r} twice")
        if info.is_dir() or info.filename.startswith("/") or ".." in info.filename or "\\" in info.filename:
            raise BundleMalformed(f"{name} holds a member with the name {info.filename!r:.80}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BundleMalformed(f"{name}: {info.filename!r} is packed in a way that bundles do not use")
        infos[info.filename] = info
    if MANIFEST not in infos:
        raise BundleMalformed(f"{name} is a zip file but not a bundle: it has no {MANIFEST}")
    text = _content(archive, infos[MANIFEST], MAX_MANIFEST_BYTES)
    signature = None
    if SIGNATURE in infos:
        signature = _signature(name, _content(archive, infos[SIGNATURE], MAX_MANIFEST_BYTES), text, trusted)
    elif trusted is not None:
        raise BundleUntrusted(
            f"{name} is not signed; build it with --key, or allow unsigned bundles on this device"
        )
    manifest = _json_object(name, MANIFEST, text)
    if manifest.get("format") != FORMAT:
        raise BundleMalformed(f"{name}: {MANIFEST} does not say {FORMAT!r}")
    version = manifest.get("format_version")
    if type(version) is not int or version < 1:
        raise BundleMalformed(f"{name}: {MANIFEST} has no format version")
    if version > FORMAT_VERSION:
        raise BundleTooNew(version, FORMAT_VERSION)
    members = _members(name, archive, infos, manifest.get("members"))
    return Archive(hashlib.sha256(text).hexdigest(), manifest, members, signature)


def _members(
    name: str, archive: zipfile.ZipFile, infos: Mapping[str, zipfile.ZipInfo], listed: object
) -> dict[str, bytes]:
    if not isinstance(listed, dict):
        raise BundleMalformed(f"{name}: {MANIFEST} lists no members")
    extra = sorted(set(infos) - set(listed) - {MANIFEST, SIGNATURE})
    if extra:
        raise BundleMalformed(f"{name} holds {extra[0]!r}, which its manifest does not name")
    members: dict[str, bytes] = {}
    total = 0
    for member, facts in listed.items():
        if member not in infos:
            raise BundleMalformed(f"{name} lacks {member!r}, which its manifest names")
        size, digest = (facts.get("bytes"), facts.get("sha256")) if isinstance(facts, dict) else (None, None)
        limit = MAX_MODEL_BYTES if member.startswith("model.") else MAX_MEMBER_BYTES
        if type(size) is not int or not 0 <= size <= limit or not isinstance(digest, str):
            raise BundleMalformed(f"{name}: {MANIFEST} says nothing sensible about {member!r}")
        total += size
        if total > MAX_TOTAL_BYTES:
            raise BundleMalformed(f"{name} unpacks to more than any bundle")
        content = _content(archive, infos[member], size)
        if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
            raise BundleMalformed(
                f"{name}: {member!r} is not what the manifest says (damaged in transit, or tampered with)"
            )
        members[member] = content
    return members


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """A member's content, one byte more than the limit at most: headers may lie about sizes."""
    with archive.open(info) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise BundleMalformed(f"{info.filename!r} unpacks to more than the {limit} bytes it may have")
    return content


def _json_object(name: str, member: str, text: bytes) -> dict[str, object]:
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleMalformed(f"{name}: {member} is not JSON") from error
    if not isinstance(plain, dict):
        raise BundleMalformed(f"{name}: {member} is not a JSON object")
    return plain


def _signature(name: str, content: bytes, manifest: bytes, trusted: Sequence[PublicKey] | None) -> Signature:
    plain = _json_object(name, SIGNATURE, content)
    key, value = plain.get("key"), plain.get("signature")
    if plain.get("algorithm") != ALGORITHM or not isinstance(key, str) or not isinstance(value, str):
        raise BundleMalformed(f"{name}: {SIGNATURE} is not an {ALGORITHM} signature")
    if trusted is None:
        return Signature(key, verified=False)
    try:
        raw = bytes.fromhex(value)
    except ValueError as error:
        raise BundleMalformed(f"{name}: {SIGNATURE} is not hexadecimal") from error
    # The fingerprint in the file is only a hint: every trusted key is tried.
    for public in trusted:
        if verified(public, raw, manifest):
            return Signature(fingerprint(public), verified=True)
    known = [fingerprint(public) for public in trusted]
    if key in known:
        raise BundleUntrusted(
            f"{name}: the signature of key {key} does not match the content: it was changed"
        )
    raise BundleUntrusted(
        f"{name} is signed by key {key}, which is not trusted here (trusted: {', '.join(known) or 'none'}); "
        "trust the public key of whoever built it if you know them (model.trusted_keys on a device), or have "
        "the bundle built again with a trusted key"
    )
