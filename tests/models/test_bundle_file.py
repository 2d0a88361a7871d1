from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from pathlib import Path

import pytest

from driftpost_models import bundle_file
from driftpost_models.bundle_file import FORMAT_VERSION, MANIFEST, SIGNATURE, read_archive, write_archive
from driftpost_models.errors import BundleMalformed, BundleTooNew, BundleUntrusted
from driftpost_models.signing import fingerprint, generate

MEMBERS = {"model.onnx": b"weights" * 100, "probes.json": b"{}", "golden/inputs-0.raw": bytes(64)}
HEADER = {"name": "n", "version": "1", "created": "2026-03-01T12:00:00+00:00"}
KEY = generate()
OTHER = generate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.bundle"


def _manifest(members: dict[str, bytes], /, **changes: object) -> bytes:
    plain: dict[str, object] = {
        "format": bundle_file.FORMAT,
        "format_version": 1,
        **HEADER,
        "members": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in members.items()
        },
        **changes,
    }
    return json.dumps(plain).encode()


def _zip(path: Path, entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=compression)


def test_what_was_written_is_read_back_with_the_id_of_its_manifest(path: Path) -> None:
    identity = write_archive(path, HEADER, MEMBERS, KEY)
    archive = read_archive(path, [OTHER.public_key(), KEY.public_key()])
    assert archive.members == MEMBERS
    assert archive.id == identity
    assert archive.manifest["name"] == "n"
    assert archive.signature is not None
    assert (archive.signature.key, archive.signature.verified) == (fingerprint(KEY), True)
    with zipfile.ZipFile(path) as plain:
        assert hashlib.sha256(plain.read(MANIFEST)).hexdigest() == identity


def test_equal_content_makes_an_equal_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_archive(tmp_path / name, HEADER, dict(sorted(MEMBERS.items(), reverse=name == "a")), KEY)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_changed_member_changes_the_id(tmp_path: Path) -> None:
    ids = {
        write_archive(tmp_path / "a", HEADER, {**MEMBERS, "probes.json": text}, None)
        for text in (b"{}", b"{ }")
    }
    assert len(ids) == 2


def test_an_unsigned_bundle_opens_only_where_that_is_allowed(path: Path) -> None:
    write_archive(path, HEADER, MEMBERS, None)
    assert read_archive(path, None).signature is None
    for trusted in ([], [KEY.public_key()]):
        with pytest.raises(BundleUntrusted, match="not signed"):
            read_archive(path, trusted)


def test_a_signature_by_a_stranger_is_not_trusted(path: Path) -> None:
    write_archive(path, HEADER, MEMBERS, OTHER)
    with pytest.raises(BundleUntrusted, match=f"signed by key {fingerprint(OTHER)}, which is not trusted"):
        read_archive(path, [KEY.public_key()])
    unverified = read_archive(path, None).signature
    assert unverified is not None
    assert not unverified.verified


def test_a_manifest_that_was_changed_after_signing_is_not_trusted(path: Path) -> None:
    write_archive(path, HEADER, MEMBERS, KEY)
    with zipfile.ZipFile(path) as archive:
        signature = archive.read(SIGNATURE)
    evil = {**MEMBERS, "model.onnx": b"evil"}
    _zip(path, [(MANIFEST, _manifest(evil)), (SIGNATURE, signature), *evil.items()])
    with pytest.raises(BundleUntrusted, match="it was changed"):
        read_archive(path, [KEY.public_key()])


def test_a_member_that_was_changed_is_found_even_without_a_signature(path: Path) -> None:
    _zip(path, [(MANIFEST, _manifest(MEMBERS)), *{**MEMBERS, "probes.json": b"[]"}.items()])
    with pytest.raises(BundleMalformed, match=r"'probes.json' is not what the manifest says"):
        read_archive(path, None)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(path, HEADER, MEMBERS, None)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_archive(path, HEADER, {"model.onnx": b"new"}, None)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


BAD_SIGNATURES = {
    "no JSON": b"{",
    "a list": b"[]",
    "another algorithm": json.dumps({"algorithm": "rsa", "key": "k", "signature": "00"}).encode(),
    "no signature": json.dumps({"algorithm": "ed25519", "key": "k"}).encode(),
    "no hexadecimal": json.dumps({"algorithm": "ed25519", "key": "k", "signature": "zz"}).encode(),
}


@pytest.mark.parametrize("name", BAD_SIGNATURES)
def test_malformed_signatures_are_refused(path: Path, name: str) -> None:
    _zip(path, [(MANIFEST, _manifest(MEMBERS)), (SIGNATURE, BAD_SIGNATURES[name]), *MEMBERS.items()])
    with pytest.raises((BundleMalformed, BundleUntrusted)):
        read_archive(path, [KEY.public_key()])


def test_a_signature_of_the_wrong_length_is_not_trusted(path: Path) -> None:
    for value in ("", "00", "00" * 64):
        signature = json.dumps({"algorithm": "ed25519", "key": "k", "signature": value}).encode()
        _zip(path, [(MANIFEST, _manifest(MEMBERS)), (SIGNATURE, signature), *MEMBERS.items()])
        with pytest.raises(BundleUntrusted):
            read_archive(path, [KEY.public_key()])


def _member(**facts: object) -> dict[str, object]:
    return {"members": {"model.onnx": {"sha256": "0" * 64, "bytes": 1, **facts}}}


HOSTILE = {
    "no manifest": [("model.onnx", b"x")],
    "manifest is no JSON": [(MANIFEST, b"{")],
    "manifest is a list": [(MANIFEST, b"[]")],
    "manifest nests too deep": [(MANIFEST, b"[" * 100_000)],
    "another format": [(MANIFEST, _manifest({}, format="tar"))],
    "no format version": [(MANIFEST, _manifest({}, format_version="1"))],
    "format version below 1": [(MANIFEST, _manifest({}, format_version=0))],
    "members is a list": [(MANIFEST, _manifest({}, members=[]))],
    "a member without facts": [(MANIFEST, _manifest({}, members={"a": 1})), ("a", b"")],
    "a negative size": [(MANIFEST, _manifest({}, **_member(bytes=-1))), ("model.onnx", b"x")],
    "a size beyond reason": [(MANIFEST, _manifest({}, **_member(bytes=2**50))), ("model.onnx", b"x")],
    "a member is missing": [(MANIFEST, _manifest(MEMBERS)), ("model.onnx", MEMBERS["model.onnx"])],
    "a member more": [(MANIFEST, _manifest({"a": b""})), ("a", b""), ("b", b"")],
    "a path to the root": [(MANIFEST, _manifest({"/etc/passwd": b""})), ("/etc/passwd", b"")],
    "a path upwards": [(MANIFEST, _manifest({"../x": b""})), ("../x", b"")],
    "a folder": [(MANIFEST, _manifest({"a/": b""})), ("a/", b"")],
    "longer than said": [(MANIFEST, _manifest({"a": b"1"})), ("a", b"1" * 1000)],
    "shorter than said": [(MANIFEST, _manifest({"a": b"1" * 1000})), ("a", b"1")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(path: Path, name: str) -> None:
    _zip(path, HOSTILE[name])
    with pytest.raises(BundleMalformed):
        read_archive(path, None)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_name_that_comes_twice_is_refused(path: Path) -> None:
    _zip(path, [(MANIFEST, _manifest({"a": b"1"})), ("a", b"1"), ("a", b"2")])
    with pytest.raises(BundleMalformed, match="twice"):
        read_archive(path, None)


def test_a_zip_bomb_is_not_unpacked(path: Path) -> None:
    bomb = bytes(64 << 20)
    _zip(path, [(MANIFEST, bomb)])
    assert path.stat().st_size < 100_000
    with pytest.raises(BundleMalformed, match="unpacks to more"):
        read_archive(path, None)
    _zip(path, [(MANIFEST, _manifest({"a": b"1"})), ("a", bomb)])
    with pytest.raises(BundleMalformed, match="unpacks to more"):
        read_archive(path, None)


def test_too_many_members_are_refused_before_they_are_listed(path: Path) -> None:
    _zip(path, [(f"m{n}", b"") for n in range(bundle_file.MAX_MEMBERS + 1)])
    with pytest.raises(BundleMalformed, match="members, more than any"):
        read_archive(path, None)


def test_other_packings_and_encryption_are_refused(path: Path) -> None:
    _zip(path, [(MANIFEST, _manifest({}))], zipfile.ZIP_LZMA)
    with pytest.raises(BundleMalformed, match="packed in a way"):
        read_archive(path, None)
    _zip(path, [(MANIFEST, _manifest({}))])
    raw = bytearray(path.read_bytes())
    at = raw.find(b"PK\x01\x02")
    struct.pack_into("<H", raw, at + 8, 1)
    struct.pack_into("<H", raw, 6, 1)
    path.write_bytes(raw)
    with pytest.raises(BundleMalformed):
        read_archive(path, None)


def test_a_newer_format_asks_for_an_update_and_says_both_versions(path: Path) -> None:
    _zip(path, [(MANIFEST, _manifest({}, format_version=7))])
    with pytest.raises(BundleTooNew, match="update driftpost") as error:
        read_archive(path, None)
    assert (error.value.found, error.value.known) == (7, FORMAT_VERSION)


def test_truncated_and_flipped_files_never_open_and_never_raise_anything_else(path: Path) -> None:
    write_archive(path, HEADER, MEMBERS, KEY)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(BundleMalformed):
            read_archive(path, None)
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 0x20
        path.write_bytes(flipped)
        try:
            archive = read_archive(path, [KEY.public_key()])
        except (BundleMalformed, BundleUntrusted, BundleTooNew):
            continue
        # Dates and attributes inside zip headers may change; content and identity may not.
        assert archive.members == MEMBERS


def test_files_that_are_missing_or_too_large_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleMalformed, match="can not be read"):
        read_archive(path, None)
    with pytest.raises(BundleMalformed, match="can not be read"):
        read_archive(path.parent, None)
    path.write_bytes(bytes(1000))
    with pytest.raises(BundleMalformed, match="not a bundle"):
        read_archive(path, None)
    monkeypatch.setattr(bundle_file, "MAX_TOTAL_BYTES", 100)
    with pytest.raises(BundleMalformed, match="more than any bundle"):
        read_archive(path, None)
