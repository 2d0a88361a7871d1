"""Who may ask: the shared token, and requests that only pages of this very site may make."""

from __future__ import annotations

import base64
import binascii
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from driftpost_aggregator.web.answers import problem
from driftpost_aggregator.web.errors import Forbidden
from driftpost_aggregator.web.signed import is_signed_report

# A load balancer must be able to ask for health without a secret; the answer tells nothing about the fleet.
_OPEN_PATHS = frozenset({"/health"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Names are shown and stored in the audit log, characters.
MAX_NAME = 80


def basic_credentials(header: str) -> tuple[str, str] | None:
    """Name and password of a ``Basic`` Authorization header, or None if it is not a well-formed one."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = (
            base64.b64decode(encoded.strip(), validate=True).decode("utf-8").partition(":")
        )
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (name, password) if colon else None


def presents(header: str, token: str) -> bool:
    """Whether an Authorization header shows the token, as bearer token or as password of any name."""
    scheme, _, value = header.partition(" ")
    basic = basic_credentials(header)
    shown = basic[1] if basic else value.strip() if scheme.lower() == "bearer" else ""
    return hmac.compare_digest(shown.encode(), token.encode())


def person(connection: HTTPConnection) -> str | None:
    """The name under which a person logged in, or None."""
    basic = basic_credentials(connection.headers.get("authorization", ""))
    return basic[0].strip()[:MAX_NAME] or None if basic else None


class TokenRequired:
    """Middleware: everything but `/health` needs the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let through who shows the token."""
        if scope["type"] != "http" or scope["path"] in _OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        # A signed report shows no token; its handler checks the signature before anything else.
        if is_signed_report(scope["method"], scope["path"], headers) or presents(
            headers.get("authorization", ""), self._token
        ):
            await self._app(scope, receive, send)
            return
        answer = problem(
            401,
            "this dashboard needs its token",
            "send it as `Authorization: Bearer ...`, or in a browser as the password with your name as user; "
            "it stands in the file that web.token_file names",
        )
        # Only Basic makes a browser ask for a name and a password.
        answer.headers["WWW-Authenticate"] = 'Basic realm="driftpost", charset="UTF-8"'
        await answer(scope, receive, send)


def from_elsewhere(headers: Headers) -> str | None:
    """The origin of a request that a page of another site caused, or None.

    Browsers name the relation of the two sites (Sec-Fetch-Site), older ones the origin; programs send
    neither, and they can not be tricked into sending a person's credentials.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return None if site in ("same-origin", "none") else headers.get("origin", site)
    origin = headers.get("origin")
    if origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower():
        return None
    return origin


class SameOrigin:
    """Middleware: a request that changes something must not come from a page of another site."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let through what our own pages and programs ask for."""
        if scope["type"] == "http" and scope["method"] not in _SAFE_METHODS:
            other = from_elsewhere(Headers(scope=scope))
            if other is not None:
                refusal = Forbidden(
                    f"this change was asked for by a page of {other}",
                    "open the dashboard itself and do it there",
                )
                await problem(refusal.status, refusal.title, refusal.remedy)(scope, receive, send)
                return
        await self._app(scope, receive, send)
