"""Everything the web part raises on purpose; each answer to a request says what to do next.

ConfigurationError (driftpost_aggregator.errors)
 +-- UnsafeExposure     the settings would serve the fleet to a network without a token
 +-- TokenUnusable      the token file is missing, readable by others, or too short
RequestError            the request can not be answered as it stands
 +-- BadParameter       a parameter of the address or of the body makes no sense (400)
 +-- BodyRefused        a body that is too large or not what it says (413, 415)
 +-- NotKnown           nothing of that name (404)
 +-- NotSigned          a report that is not signed as it must be (401)
 +-- Forbidden          a form sent from another site (403)
 +-- Conflict           the change does not follow from the present state (409)
"""

from __future__ import annotations

from driftpost_aggregator.errors import ConfigurationError


class UnsafeExposure(ConfigurationError):
    """The dashboard would be open to everyone on a network."""

    def __init__(self, host: str) -> None:
        super().__init__(
            "web.host",
            f"{host} is not a loopback address and no token is set, so anyone on that network could read the "
            "fleet and close incidents; set web.token_file, or web.allow_anonymous = true if a proxy "
            "in front of it authenticates people",
        )
        self.host = host


class TokenUnusable(ConfigurationError):
    """The file that should hold the shared secret can not be used.

    Attributes:
        path: The file.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(
            "web.token_file",
            f"{path}: {problem}; write one with `openssl rand -hex 32 > {path} && chmod 600 {path}`",
        )
        self.path = path


class RequestError(Exception):
    """A request that can not be answered as it stands.

    Attributes:
        status: HTTP status code.
        title: What is wrong, in a few words.
        remedy: What the caller can do about it.
    """

    status = 400

    def __init__(self, title: str, remedy: str) -> None:
        super().__init__(f"{title}; {remedy}")
        self.title = title
        self.remedy = remedy


class BadParameter(RequestError):
    """A parameter has a value that makes no sense.

    Attributes:
        parameter: Its name.
    """

    def __init__(self, parameter: str, problem: str, remedy: str) -> None:
        super().__init__(f"{parameter}: {problem}", remedy)
        self.parameter = parameter


class BodyRefused(RequestError):
    """The body of a request is too large, or not what was asked for."""

    def __init__(self, status: int, title: str, remedy: str) -> None:
        super().__init__(title, remedy)
        self.status = status


class NotKnown(RequestError):
    """There is nothing of that name."""

    status = 404


class NotSigned(RequestError):
    """A report without the signature that it needs, or with a wrong one."""

    status = 401


class Forbidden(RequestError):
    """The request came from a page of another site."""

    status = 403


class Conflict(RequestError):
    """The change does not follow from the present state."""

    status = 409
