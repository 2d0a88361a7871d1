"""How errors look to programs: RFC 9457 problem details, with one more member that says what to do."""

from __future__ import annotations

import json
from http import HTTPStatus

from starlette.responses import Response


class Json(Response):
    """A JSON answer that is never cached by anyone in between."""

    media_type = "application/json"

    def __init__(self, content: object, status_code: int = 200, media_type: str | None = None) -> None:
        super().__init__(
            json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(",", ":")),
            status_code,
            {"Cache-Control": "no-store"},
            media_type,
        )


def problem(status: int, title: str, remedy: str) -> Json:
    """A problem document: ``{"title", "status", "detail", "remedy"}``."""
    return Json(
        {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": title,
            "remedy": remedy,
        },
        status,
        "application/problem+json",
    )
