"""One POST to a judged address, the whole exchange within a time; every failure is an answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import anyio
import httpx

from driftpost_aggregator.delivery.endpoint import endpoint
from driftpost_aggregator.delivery.payloads import payload
from driftpost_aggregator.delivery.schedule import Answer, retry_after
from driftpost_aggregator.delivery.signing import read_secrets, signed_headers
from driftpost_aggregator.delivery.targets import Target
from driftpost_aggregator.errors import ConfigurationError, TargetRefused

# It tells of every request with its whole address, in which a key may stand.
logging.getLogger("httpx").setLevel(logging.WARNING)

# A receiver's answer is read this far, for the log.
MAX_ANSWER_BYTES = 2_048
USER_AGENT = "driftpost-aggregator"
# A run of this id is there already: what a repetition of ours finds (RFC 9110, 15.5.10).
_THERE_ALREADY = 409


async def deliver(target: Target, request: str, body: bytes, now_ms: int) -> Answer:
    """Send a request to a webhook, as the event itself or as the call that starts a run."""
    try:
        headers = {}
        if target.format == "cloudevent":
            assert target.secret_file is not None, "checked with the settings"
            headers = signed_headers(read_secrets(target.secret_file), request, body, now_ms)
        kind, content = payload(target, request, body)
        headers["content-type"] = kind
        hidden = []
        if target.token_file is not None:
            token = read_token("retrain.targets.token_file", target.token_file)
            headers["authorization"] = f"Bearer {token}"
            hidden.append(token)
        if target.format == "github":
            headers |= {"accept": "application/vnd.github+json", "x-github-api-version": "2022-11-28"}
    except ConfigurationError as error:
        return Answer(None, str(error))
    answer = await post(
        target.url,
        content,
        headers,
        allow_private=target.allow_private,
        timeout_s=target.timeout_s,
        now_ms=now_ms,
        hidden=hidden,
    )
    if target.format == "airflow" and answer.status == _THERE_ALREADY:
        # The run carries the request's id: an earlier attempt of ours has started it.
        return Answer(200, "")
    return answer


async def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    allow_private: bool,
    timeout_s: float,
    now_ms: int,
    hidden: Sequence[str] = (),
) -> Answer:
    """POST once.

    Args:
        url: may hold a key in its path or query: it never stands in the answer.
        body: to send.
        headers: beside Host and User-Agent.
        allow_private: whether an address on one's own network will do, and http.
        timeout_s: for the whole exchange.
        now_ms: Unix ms.
        hidden: what must not stand in the answer either.
    """
    try:
        with anyio.fail_after(timeout_s):
            place = await endpoint(url, allow_private=allow_private)
            # No proxy or certificate path out of the environment, and no redirect: a 3xx is a failure.
            async with (
                httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=timeout_s) as client,
                client.stream(
                    "POST",
                    place.url,
                    content=body,
                    headers={"user-agent": USER_AGENT, **headers, "host": place.host},
                    extensions={"sni_hostname": place.server_name},
                ) as response,
            ):
                said = b""
                if not response.is_success:
                    async for chunk in response.aiter_raw():
                        said += chunk
                        if len(said) >= MAX_ANSWER_BYTES:
                            break
                return Answer(
                    response.status_code,
                    "" if response.is_success else _scrubbed(_shown(response.status_code, said), url, hidden),
                    retry_after(response.headers.get("retry-after"), now_ms),
                )
    except TimeoutError:
        return Answer(None, f"no answer within {timeout_s:g} s")
    except TargetRefused as error:
        return Answer(None, f"its address {error.problem}")
    except UnicodeEncodeError:
        # Its own words would show the letter, of what may be a secret.
        return Answer(None, "its address or its token holds a letter that HTTP can not carry")
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return Answer(None, _scrubbed(text, url, hidden))


def read_token(setting: str, path: object) -> str:
    """The first line of a file that holds one secret.

    Raises:
        ConfigurationError: it can not be read, or is empty.
    """
    try:
        with open(str(path), encoding="utf-8") as file:  # noqa: PTH123  # one line of what may be a pipe
            line = file.readline(4_096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(setting, f"{path} can not be read: {error}") from error
    if not line:
        raise ConfigurationError(setting, f"{path} is empty")
    return line


def _scrubbed(text: str, url: str, hidden: Sequence[str]) -> str:
    _, _, path = url.partition("://")
    secrets = [url, *hidden, "/" + path.partition("/")[2] if len(path.partition("/")[2]) > 1 else ""]
    for secret in secrets:
        if secret:
            text = text.replace(secret, "...")
    return text


def _shown(status: int, said: bytes) -> str:
    text = " ".join(said[:200].decode("utf-8", "replace").split())
    return f"HTTP {status}" + (f": {text}" if text else "")
