"""The aggregator's API from a person's machine: labels in parts, with the token, within a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

import httpx

from driftpost_aggregator.errors import PushFailed
from driftpost_aggregator.labels.reading import Given
from driftpost_aggregator.web.options import is_loopback

# Labels in one request, so that an answer takes a second.
PART = 5_000
TIMEOUT_S = 60.0


@dataclass
class Outcome:
    """What became of all parts of a push.

    Attributes:
        pushes: their ids.
        queued, already: labels.
        refused: reason to how many.
        lines: (line of the file, reason) of the first that were refused.
    """

    pushes: list[str] = field(default_factory=list)
    queued: int = 0
    already: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    lines: list[tuple[int, str]] = field(default_factory=list)


class Client:
    """One aggregator.

    Args:
        url: of its dashboard.
        token: that it asks for, None if it asks for none.
        transport: for tests; the network if None.

    Raises:
        PushFailed: the token would travel unencrypted over a network.
    """

    def __init__(self, url: str, token: str | None, *, transport: httpx.BaseTransport | None = None) -> None:
        try:
            parts = urlsplit(url)
            host = parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
            httpx.URL(url)
        except (ValueError, httpx.InvalidURL):
            host = None
        if not host:
            raise PushFailed(f"{url!r} is no address of a dashboard, as https://driftpost.example.com")
        if token is not None and parts.scheme == "http" and not is_loopback(host):
            raise PushFailed("the token would travel unencrypted; use https, or a tunnel to this machine")
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._client = httpx.Client(
            base_url=url.rstrip("/"), headers=headers, timeout=TIMEOUT_S, transport=transport, trust_env=False
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def push(self, given: Sequence[Given], *, actor: str) -> Iterator[Outcome]:
        """Push labels in parts; after each, what became of all so far.

        Raises:
            PushFailed: the aggregator can not be reached, or takes nothing; parts before that are queued, and
                pushing the whole again queues nothing twice.
        """
        outcome = Outcome()
        for begin in range(0, len(given), PART):
            part = given[begin : begin + PART]
            answer = self._ask("POST", "/api/v1/labels", part, actor)
            outcome.pushes.append(str(answer["push"]))
            outcome.queued += int(answer["queued"])
            outcome.already += int(answer["already"])
            for reason, count in answer["refused"].items():
                outcome.refused[reason] = outcome.refused.get(reason, 0) + int(count)
            outcome.lines += [(part[int(line) - 1].line, str(reason)) for line, reason in answer["lines"]]
            yield outcome

    def outcome(self, push: str) -> dict[str, Any]:
        """What became of one push so far.

        Raises:
            PushFailed: the aggregator can not be reached, or does not know it.
        """
        return self._ask("GET", f"/api/v1/labels/{push}")

    def _ask(
        self, method: str, path: str, part: Sequence[Given] | None = None, actor: str = ""
    ) -> dict[str, Any]:
        content = None if part is None else json.dumps({"labels": [_plain(one) for one in part]}).encode()
        headers = {} if content is None else {"content-type": "application/json"}
        try:
            answer = self._client.request(
                method, path, content=content, headers=headers, params={"actor": actor} if actor else None
            )
            plain = answer.json()
        except httpx.HTTPError as error:
            raise PushFailed(f"the aggregator can not be reached: {type(error).__name__}: {error}") from error
        except ValueError as error:
            raise PushFailed(f"that is no aggregator (HTTP {answer.status_code})") from error
        if not isinstance(plain, dict):
            raise PushFailed(f"that is no aggregator (HTTP {answer.status_code})")
        if not answer.is_success:
            title, remedy = plain.get("title", ""), plain.get("remedy", "")
            raise PushFailed(f"the aggregator says {answer.status_code}: {title}; {remedy}")
        return plain


def _plain(one: Given) -> dict[str, object]:
    name = "inference" if isinstance(one.label.inference, str) else "time"
    labels = list(one.label.labels)
    return {
        "device": one.device,
        name: one.label.inference if name == "inference" else _iso(int(one.label.inference)),
        "label": labels[0] if len(labels) == 1 else labels,
    }


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, timezone.utc).isoformat(timespec="milliseconds")
