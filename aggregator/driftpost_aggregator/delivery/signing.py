"""Signing after Standard Webhooks 1.0: what is sent, and the pipeline's reports."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from driftpost_aggregator.errors import ConfigurationError

MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64


def read_secrets(path: Path) -> tuple[str, ...]:
    """The secrets of a target, newest first, as its file has them, one a line.

    Raises:
        ConfigurationError: the file can not be read, or a line is no `whsec_` secret of 24 to 64 bytes.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError("retrain.targets.secret_file", f"{path} can not be read: {error}") from error
    secrets = tuple(line for line in lines if line and not line.startswith("#"))
    for secret in secrets:
        try:
            raw = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except ValueError:
            raw = b""
        if not secret.startswith("whsec_") or not MIN_SECRET_BYTES <= len(raw) <= MAX_SECRET_BYTES:
            raise ConfigurationError(
                "retrain.targets.secret_file",
                f"{path}: a secret is whsec_ and base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes; "
                "make one with `driftpost aggregator secret`",
            )
    if not secrets:
        raise ConfigurationError("retrain.targets.secret_file", f"{path} holds no secret")
    return secrets


def signed_headers(secrets: Sequence[str], request: str, body: bytes, at_ms: int) -> dict[str, str]:
    """Standard Webhooks' three headers."""
    moment = datetime.fromtimestamp(at_ms // 1000, timezone.utc)
    text = body.decode("utf-8")
    return {
        "webhook-id": request,
        "webhook-timestamp": str(at_ms // 1000),
        "webhook-signature": " ".join(Webhook(secret).sign(request, moment, text) for secret in secrets),
    }


def signed_by(secrets: Sequence[str], body: bytes, headers: Mapping[str, str]) -> bool:
    """Whether one of the secrets signed a message, not longer than five minutes ago."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    for secret in secrets:
        try:
            Webhook(secret).verify(text, {name.lower(): value for name, value in headers.items()})
        except (WebhookVerificationError, ValueError):
            continue
        return True
    return False
