"""Delivering retrain requests after Standard Webhooks 1.0: at least once, under one id, with patience.

What to do after an attempt (`judge`) and when (`next_attempt`) are pure; the attempts and their times live
in the database, so a restart neither forgets nor hurries. An attempt is written down before it is made: a
crash in between costs one attempt, never a storm of them.
"""

from __future__ import annotations

import base64
import binascii
import email.utils
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import anyio
import httpx
from sqlalchemy import Engine, select, update
from standardwebhooks import Webhook

from driftpost_aggregator import audit
from driftpost_aggregator.errors import ConfigurationError, TargetRefused
from driftpost_aggregator.incidents import AGGREGATOR
from driftpost_aggregator.retrain import settle_delivery
from driftpost_aggregator.settings import Target
from driftpost_aggregator.store.database import reading, upsert, writing
from driftpost_aggregator.store.tables import deliveries, disabled_targets, retrain_requests
from driftpost_aggregator.targets import endpoint

# Standard Webhooks' suggested waits before each attempt, seconds.
SCHEDULE_S = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
# Each wait is stretched by up to this share, at random, so that requests do not come back in step.
JITTER = 0.2
# A receiver may ask for more patience, but not for ever, seconds.
MAX_RETRY_AFTER_S = 86_400.0
# Attempts in flight at once.
CONCURRENCY = 8
# A receiver's answer is read this far, for the log.
MAX_ANSWER_BYTES = 2_048
MIN_SECRET_BYTES = 24
MAX_SECRET_BYTES = 64

State = Literal["delivered", "pending", "failed"]


@dataclass(frozen=True)
class Answer:
    """What came of one attempt.

    Attributes:
        status: HTTP status, None if there was no answer.
        error: what went wrong, "" if nothing did.
        retry_after_s: the receiver's wish, None if it had none.
    """

    status: int | None
    error: str
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What follows from an answer.

    Attributes:
        state: the delivery's new state.
        disable: whether the target is to be left alone from now on (410 Gone).
    """

    state: State
    disable: bool = False


def judge(answer: Answer, attempts: int) -> Verdict:
    """Decide after an attempt. Pure.

    Args:
        answer: what came back.
        attempts: attempts made, this one included.
    """
    if answer.status is not None and 200 <= answer.status < 300:
        return Verdict("delivered")
    if answer.status == 410:
        return Verdict("failed", disable=True)
    return Verdict("pending" if attempts < len(SCHEDULE_S) else "failed")


def next_attempt(attempts: int, now_ms: int, retry_after_s: float | None, jitter: float) -> int:
    """When to try again, Unix ms. Pure.

    Args:
        attempts: attempts made so far.
        now_ms: Unix ms.
        retry_after_s: the receiver's wish; it can only lengthen the wait.
        jitter: 0 to 1, drawn at random.
    """
    wait = SCHEDULE_S[min(attempts, len(SCHEDULE_S) - 1)] * (1 + JITTER * jitter)
    if retry_after_s is not None:
        wait = max(wait, min(retry_after_s, MAX_RETRY_AFTER_S) * (1 + JITTER * jitter))
    return now_ms + int(wait * 1000)


def retry_after(value: str | None, now_ms: int) -> float | None:
    """A Retry-After header in seconds from now; None if absent or unreadable (RFC 9110, 10.2.3)."""
    if not value:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(moment.timestamp() - now_ms / 1000, 0.0)


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
        except binascii.Error:
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
    """Standard Webhooks' three headers and the content type of a structured CloudEvent."""
    moment = datetime.fromtimestamp(at_ms // 1000, timezone.utc)
    text = body.decode("utf-8")
    return {
        "webhook-id": request,
        "webhook-timestamp": str(at_ms // 1000),
        "webhook-signature": " ".join(Webhook(secret).sign(request, moment, text) for secret in secrets),
        "content-type": "application/cloudevents+json; charset=UTF-8",
        "user-agent": "driftpost-aggregator",
    }


async def attempt(target: Target, request: str, body: bytes, now_ms: int) -> Answer:
    """One POST, whole exchange within the target's timeout; every failure comes back as an `Answer`."""
    try:
        with anyio.fail_after(target.timeout_s):
            place = await endpoint(target.url, allow_private=target.allow_private)
            headers = signed_headers(read_secrets(target.secret_file), request, body, now_ms)
            # No proxy or certificate path out of the environment, and no redirect: a 3xx is a failure.
            async with (
                httpx.AsyncClient(
                    trust_env=False, follow_redirects=False, timeout=target.timeout_s
                ) as client,
                client.stream(
                    "POST",
                    place.url,
                    content=body,
                    headers={**headers, "host": place.host},
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
                    "" if response.is_success else _shown(response.status_code, said),
                    retry_after(response.headers.get("retry-after"), now_ms),
                )
    except TimeoutError:
        return Answer(None, f"no answer within {target.timeout_s:g} s")
    except (TargetRefused, ConfigurationError) as error:
        return Answer(None, str(error))
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return Answer(None, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _shown(status: int, said: bytes) -> str:
    text = " ".join(said[:200].decode("utf-8", "replace").split())
    return f"HTTP {status}" + (f": {text}" if text else "")


@dataclass(frozen=True)
class _Claimed:
    request: str
    target: Target
    body: bytes
    attempts: int


def deliver_due(
    engine: Engine, targets: Sequence[Target], *, now_ms: int, jitter: random.Random
) -> dict[tuple[str, str], Answer]:
    """Make every attempt that is due.

    Args:
        engine: the database.
        targets: the webhooks of the settings; deliveries to others wait until they are back.
        now_ms: Unix ms.
        jitter: source of the waits' randomness.

    Returns:
        (request, target name) to what came of it.
    """
    claimed = _claim(engine, {target.name: target for target in targets}, now_ms, jitter)
    if not claimed:
        return {}
    answers = anyio.run(_attempt_all, claimed, now_ms)
    for one, answer in zip(claimed, answers, strict=True):
        _note(engine, one, answer, now_ms, jitter)
    return {(one.request, one.target.name): answer for one, answer in zip(claimed, answers, strict=True)}


def _claim(
    engine: Engine, targets: Mapping[str, Target], now_ms: int, jitter: random.Random
) -> list[_Claimed]:
    due = (
        select(deliveries.c.request, deliveries.c.target, deliveries.c.attempts, retrain_requests.c.body)
        .join_from(deliveries, retrain_requests)
        .where(deliveries.c.state == "pending", deliveries.c.next_attempt_ms <= now_ms)
        .where(deliveries.c.target.in_(targets))
        .order_by(deliveries.c.next_attempt_ms)
        .limit(CONCURRENCY)
    )
    with reading(engine) as connection:
        rows = connection.execute(due).all()
    if not rows:
        return []
    claimed = []
    with writing(engine) as connection:
        for row in rows:
            taken = connection.execute(
                update(deliveries)
                .where(
                    deliveries.c.request == row.request,
                    deliveries.c.target == row.target,
                    deliveries.c.state == "pending",
                    # Another worker that took it meanwhile has counted its own attempt.
                    deliveries.c.attempts == row.attempts,
                )
                .values(
                    attempts=row.attempts + 1,
                    last_attempt_ms=now_ms,
                    next_attempt_ms=next_attempt(row.attempts + 1, now_ms, None, jitter.random()),
                )
            )
            if taken.rowcount:
                claimed.append(_Claimed(row.request, targets[row.target], row.body, row.attempts + 1))
    return claimed


async def _attempt_all(claimed: Sequence[_Claimed], now_ms: int) -> list[Answer]:
    answers: dict[int, Answer] = {}

    async def one(index: int, part: _Claimed) -> None:
        answers[index] = await attempt(part.target, part.request, part.body, now_ms)

    async with anyio.create_task_group() as group:
        for index, part in enumerate(claimed):
            group.start_soon(one, index, part)
    return [answers[index] for index in range(len(claimed))]


def _note(engine: Engine, one: _Claimed, answer: Answer, now_ms: int, jitter: random.Random) -> None:
    verdict = judge(answer, one.attempts)
    values: dict[str, object] = {
        "state": verdict.state,
        "last_status": answer.status,
        "last_error": answer.error[:500],
    }
    if verdict.state == "delivered":
        values["delivered_ms"] = now_ms
    elif verdict.state == "pending":
        values["next_attempt_ms"] = next_attempt(one.attempts, now_ms, answer.retry_after_s, jitter.random())
    with writing(engine) as connection:
        connection.execute(
            update(deliveries)
            .where(deliveries.c.request == one.request, deliveries.c.target == one.target.name)
            .values(**values)
        )
        if verdict.disable:
            upsert(
                connection,
                disabled_targets,
                [
                    {
                        "target": one.target.name,
                        "url": one.target.url,
                        "disabled_ms": now_ms,
                        "reason": answer.error[:500],
                    }
                ],
            )
            connection.execute(
                update(deliveries)
                .where(deliveries.c.target == one.target.name, deliveries.c.state == "pending")
                .values(state="failed", last_error="the target answered 410 Gone")
            )
            audit.append(
                connection,
                at_ms=now_ms,
                actor=AGGREGATOR,
                action="target disabled",
                subject=one.target.name,
                words=f"{one.target.url} answered 410 Gone",
            )
        settle_delivery(connection, one.request, now_ms)
