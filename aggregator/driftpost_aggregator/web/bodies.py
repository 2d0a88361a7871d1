"""Reading the body of a request within a bound."""

from __future__ import annotations

from starlette.requests import Request

from driftpost_aggregator.web.errors import BodyRefused

# The largest legitimate body is a note of 4,000 characters, each at most 12 bytes when percent-encoded.
MAX_BODY = 64 * 1024


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """The whole body.

    Args:
        request: whose.
        limit: bytes.

    Raises:
        BodyRefused: it is larger than `limit`.
    """
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise BodyRefused(413, f"the body is larger than {limit} bytes", "send less, or in parts")
        parts.append(part)
    return b"".join(parts)
