"""Whether the certificates of the link hold, for how long, and whether their keys are kept."""

from __future__ import annotations

import datetime
import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from driftpost_agent.diagnosis import Diagnosis, failed, ok, warning
from driftpost_sync.mqtt_settings import MqttSettings

ABOUT = "certificates"
# A certificate that ends within this is renewed now: a device in the field is not visited every week.
SOON = datetime.timedelta(days=30)
MAX_FILE_BYTES = 1 << 20


def check_certificates(
    settings: MqttSettings, device: str, now: datetime.datetime | None
) -> Iterator[Diagnosis]:
    """Look at the files that the settings name.

    Args:
        settings: of the link.
        device: name of the device, which its certificate must bear.
        now: UTC; None while the clock is not known to be good.
    """
    for setting, path in (("mqtt.ca", settings.ca), ("mqtt.cert", settings.cert)):
        if path is not None:
            yield from _file(setting, path, now)
    if settings.cert is not None and settings.key is not None:
        yield from _pair(settings.cert, settings.key, device)


def check_certificate(setting: str, der: bytes, now: datetime.datetime | None) -> Diagnosis:
    """How long one certificate holds."""
    try:
        return _validity(setting, x509.load_der_x509_certificate(der), now)
    except ValueError as error:
        return failed(ABOUT, f"{setting} makes no sense: {error}", "Issue it again.")


def _file(setting: str, path: Path, now: datetime.datetime | None) -> Iterator[Diagnosis]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("it is far too large")
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        yield failed(ABOUT, f"{setting} {path} can't be read: {error.strerror}", _readable(path))
        return
    except ValueError as error:
        yield failed(
            ABOUT,
            f"{setting} {path} holds no certificate: {error}",
            "Put the PEM file there; see docs/deploy.md.",
        )
        return
    for certificate in found:
        yield _validity(f"{setting} {path}", certificate, now)


def _validity(what: str, certificate: x509.Certificate, now: datetime.datetime | None) -> Diagnosis:
    name = _common_name(certificate)
    # cryptography 42 gave these names with a zone; before, they were naive UTC.
    begins = _utc(certificate, "not_valid_before")
    ends = _utc(certificate, "not_valid_after")
    until = f"{what} ({name}) holds until {ends:%Y-%m-%d}"
    if now is None:
        return ok(ABOUT, f"{until}; whether that is past, this device's clock can't tell")
    if now < begins:
        return failed(ABOUT, f"{what} ({name}) is not valid before {begins:%Y-%m-%d}", "Set the clock.")
    if now >= ends:
        return failed(ABOUT, f"{what} ({name}) ended on {ends:%Y-%m-%d}", "Issue a new one and put it there.")
    if ends - now < SOON:
        return warning(ABOUT, f"{until}, {(ends - now).days} days", "Issue a new one before that.")
    return ok(ABOUT, until)


def _utc(certificate: x509.Certificate, name: str) -> datetime.datetime:
    found = getattr(certificate, f"{name}_utc", None) or getattr(certificate, name)
    assert isinstance(found, datetime.datetime)
    return found.replace(tzinfo=datetime.timezone.utc)


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else "no name"


def _pair(cert: Path, key: Path, device: str) -> Iterator[Diagnosis]:
    try:
        mode = key.stat().st_mode
        secret = key.read_bytes()
    except OSError as error:
        yield failed(ABOUT, f"mqtt.key {key} can't be read: {error.strerror}", _readable(key))
        return
    if stat.S_IMODE(mode) & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        yield failed(
            ABOUT,
            f"mqtt.key {key} may be read or changed by others ({stat.filemode(mode)})",
            f"chmod 0400 {key}, and issue the pair anew if others use this machine.",
        )
    try:
        private = serialization.load_pem_private_key(secret, None)
        certificate = x509.load_pem_x509_certificate(cert.read_bytes())
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        yield failed(
            ABOUT, f"mqtt.cert and mqtt.key are no pair that can be used: {error}", "Issue the pair again."
        )
        return
    if _public(private.public_key()) != _public(certificate.public_key()):
        yield failed(ABOUT, "mqtt.key is not the key of mqtt.cert", "Put the two that were issued together.")
    name = _common_name(certificate)
    if name != device:
        yield warning(
            ABOUT,
            f"mqtt.cert is issued to {name!r}, and this device is {device!r}",
            "Brokers that know clients by their certificates will refuse its topics: issue it to the device.",
        )


def _public(key: object) -> bytes:
    public_bytes = getattr(key, "public_bytes", None)
    assert public_bytes is not None
    found: bytes = public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return found


def _readable(path: Path) -> str:
    return f"Put it there and let the agent's user read it: chgrp driftpost {path} && chmod 0640 {path}"
