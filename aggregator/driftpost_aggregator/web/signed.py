"""Reports of the pipeline that are signed instead of showing the token."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from starlette.datastructures import Headers

from driftpost_aggregator.delivery.signing import read_secrets, signed_by
from driftpost_aggregator.errors import ConfigurationError
from driftpost_aggregator.web.errors import NotSigned

log = logging.getLogger(__name__)

HEADER = "webhook-signature"
_REPORT = re.compile(r"/api/v1/requests/[^/]+/status")


def is_signed_report(method: str, path: str, headers: Headers) -> bool:
    """Whether a request says of itself that it is one; who reads it must check that with `check_signed`."""
    return method == "POST" and HEADER in headers and _REPORT.fullmatch(path) is not None


def check_signed(body: bytes, headers: Headers, secret_files: Sequence[Path], *, required: bool) -> bool:
    """Whether a report is signed, by a secret of one of the targets.

    Args:
        body: as it came.
        headers: of the request.
        secret_files: of all targets.
        required: whether one without a signature is refused.

    Raises:
        NotSigned: its signature is wrong or old, or it has none and needs one.
    """
    if HEADER not in headers:
        if required:
            raise NotSigned(
                "the report is not signed", "sign it with the target's secret (Standard Webhooks)"
            )
        return False
    secrets: list[str] = []
    for path in secret_files:
        try:
            secrets += read_secrets(path)
        except ConfigurationError as error:
            log.warning("reports signed for one target can not be checked: %s", error)
    if not signed_by(secrets, body, dict(headers)):
        raise NotSigned(
            "the report's signature does not hold",
            "sign id, timestamp and body with the target's secret, not more than five minutes ago",
        )
    return True
