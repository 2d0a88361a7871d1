"""Deliveries to a real HTTP server on loopback, verified there with the `standardwebhooks` package."""

from __future__ import annotations

import base64
import http.server
import json
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select, update
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from driftpost_aggregator.delivery import due
from driftpost_aggregator.delivery.due import deliver_due
from driftpost_aggregator.delivery.endpoint import endpoint, is_public
from driftpost_aggregator.delivery.schedule import SCHEDULE_S, Answer, judge, next_attempt, retry_after
from driftpost_aggregator.delivery.signing import read_secrets, signed_headers
from driftpost_aggregator.delivery.targets import Target
from driftpost_aggregator.errors import ConfigurationError, TargetRefused
from driftpost_aggregator.retrain import settle_delivery
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.times import wall_ms

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OLD_SECRET = "whsec_" + base64.b64encode(b"o" * 24).decode()


@dataclass
class Receiver:
    """A pipeline's webhook; `script` says how it answers, request by request, the last for all others."""

    script: list[tuple[int, dict[str, str]]] = field(default_factory=lambda: [(204, {})])
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    hang: threading.Event | None = None
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?key=1"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    script = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if script.hang is not None:
                script.hang.wait(10)
            body = self.rfile.read(int(self.headers["content-length"]))
            script.received.append((dict(self.headers), body))
            script.paths.append(self.path)
            status, headers = script.script[min(len(script.received), len(script.script)) - 1]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            said = b"" if status == 204 else b"no\nthanks"
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield script
    if script.hang is not None:
        script.hang.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(receiver: Receiver, tmp_path: Path) -> Target:
    secrets = tmp_path / "secrets"
    secrets.write_text(f"# newest first\n{SECRET}\n{OLD_SECRET}\n")
    return Target("pipeline", receiver.url, secrets, allow_private=True, timeout_s=5.0)


def create(
    engine: Engine, request: str = "rr-1", *, target: str = "pipeline", at_ms: int | None = None
) -> int:
    now = wall_ms() if at_ms is None else at_ms
    with writing(engine) as connection:
        known = connection.execute(select(tables.incidents.c.incident)).first()
        if known is None:
            connection.execute(
                insert(tables.incidents).values(
                    incident="inc-1", model="m", bundle="b", bundles=["b"], scope="fleet", scope_key="",
                    attributes=[], kind="covariate_shift", detail="shift", state="open", severity=1.0,
                    title="", cause="", onset_ms=now, opened_ms=now, updated_ms=now, affected=1, members=1,
                    elsewhere=0, streams=[], log_e=1.0, reopened=0,
                )
            )  # fmt: skip
        episode = len(connection.execute(select(tables.retrain_requests.c.request)).all())
        connection.execute(
            insert(tables.retrain_requests).values(
                request=request, incident="inc-1", episode=episode, bundle="b", state="created",
                created_ms=now, updated_ms=now, detail="",
                body=json.dumps({"id": request, "über": "maß"}, ensure_ascii=False).encode(),
            )
        )  # fmt: skip
    create_delivery(engine, request, target, now)
    return now


def create_delivery(engine: Engine, request: str, target: str, now_ms: int) -> None:
    with writing(engine) as connection:
        connection.execute(
            insert(tables.deliveries).values(
                request=request, target=target, state="pending", attempts=0, next_attempt_ms=now_ms,
                last_error="",
            )
        )  # fmt: skip


def deliver(engine: Engine, target: Target, now_ms: int) -> dict[tuple[str, str], Answer]:
    return deliver_due(engine, [target], now_ms=now_ms, jitter=random.Random(1))


def state(engine: Engine, request: str = "rr-1") -> tuple[str, str, int]:
    with reading(engine) as connection:
        one = connection.execute(
            select(tables.deliveries.c.state, tables.deliveries.c.attempts).where(
                tables.deliveries.c.request == request
            )
        ).one()
        whole = connection.execute(
            select(tables.retrain_requests.c.state).where(tables.retrain_requests.c.request == request)
        ).scalar_one()
    return whole, one.state, one.attempts


def next_ms(engine: Engine) -> int:
    with reading(engine) as connection:
        return connection.execute(select(tables.deliveries.c.next_attempt_ms)).scalar_one()


def test_a_request_arrives_signed_byte_for_byte_and_once(
    engine: Engine, receiver: Receiver, target: Target
) -> None:
    now = create(engine)
    assert deliver(engine, target, now) == {("rr-1", "pipeline"): Answer(204, "")}
    ((headers, body),) = receiver.received
    for secret in (SECRET, OLD_SECRET):
        assert Webhook(secret).verify(body, headers) == {"id": "rr-1", "über": "maß"}
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + base64.b64encode(b"x" * 32).decode()).verify(body, headers)
    lower = {name.lower(): value for name, value in headers.items()}
    assert lower["webhook-id"] == "rr-1"
    assert lower["content-type"].startswith("application/cloudevents+json")
    assert lower["host"] == f"127.0.0.1:{receiver.port}"
    assert receiver.paths == ["/hook?key=1"]
    assert state(engine) == ("delivered", "delivered", 1)
    assert deliver(engine, target, now + 10**9) == {}


def test_a_failing_receiver_is_tried_again_under_the_same_id_with_a_new_signature(
    engine: Engine, receiver: Receiver, target: Target
) -> None:
    receiver.script = [(500, {}), (503, {}), (200, {})]
    now = create(engine)
    deliver(engine, target, now)
    assert state(engine) == ("created", "pending", 1)
    assert now + 5_000 <= next_ms(engine) <= now + 6_000
    assert deliver(engine, target, now + 4_000) == {}
    deliver(engine, target, now + 6_000)
    assert next_ms(engine) >= now + 6_000 + 300_000
    deliver(engine, target, now + 6_000 + 360_000)
    assert state(engine) == ("delivered", "delivered", 3)
    assert {headers["webhook-id"] for headers, _ in receiver.received} == {"rr-1"}
    assert len({body for _, body in receiver.received}) == 1
    assert len({headers["webhook-signature"] for headers, _ in receiver.received}) == 3
    assert len({headers["webhook-timestamp"] for headers, _ in receiver.received}) == 3


def test_a_receiver_s_wish_for_patience_is_granted(
    engine: Engine, receiver: Receiver, target: Target
) -> None:
    receiver.script = [(429, {"Retry-After": "900"}), (200, {})]
    now = create(engine)
    deliver(engine, target, now)
    assert next_ms(engine) >= now + 900_000


def test_a_redirect_is_a_failure_and_is_not_followed(
    engine: Engine, receiver: Receiver, target: Target
) -> None:
    receiver.script = [(302, {"Location": f"{receiver.url}&moved"})]
    deliver(engine, target, create(engine))
    assert state(engine) == ("created", "pending", 1)
    assert len(receiver.received) == 1


def test_gone_switches_the_target_off_for_what_waits_and_what_comes(
    engine: Engine, receiver: Receiver, target: Target
) -> None:
    receiver.script = [(410, {})]
    now = create(engine)
    create(engine, "rr-2", at_ms=now + 60_000)
    deliver(engine, target, now)
    assert state(engine) == ("undeliverable", "failed", 1)
    assert state(engine, "rr-2")[1] == "failed"
    with reading(engine) as connection:
        assert connection.execute(select(tables.disabled_targets.c.target)).scalar_one() == "pipeline"
    deliver(engine, target, now + 10**9)
    assert len(receiver.received) == 1


def test_a_request_that_waited_for_a_target_that_is_gone_is_undeliverable_at_once(
    engine: Engine, receiver: Receiver, target: Target
) -> None:
    receiver.script = [(410, {})]
    now = create(engine)
    create(engine, "rr-2", at_ms=now + 60_000)
    deliver(engine, target, now)
    assert state(engine, "rr-2") == ("undeliverable", "failed", 0)


@pytest.mark.parametrize("status", [500, 410])
def test_what_another_worker_delivered_stays_delivered(
    engine: Engine, receiver: Receiver, target: Target, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    now = create(engine)

    async def overtaken(*_: object) -> Answer:
        # A later attempt of another worker has ended well before this one failed.
        with writing(engine) as connection:
            connection.execute(update(tables.deliveries).values(state="delivered", attempts=2))
            settle_delivery(connection, "rr-1", now)
        return Answer(status, "too late")

    with monkeypatch.context() as patched:
        patched.setattr(due, "_attempt", overtaken)
        deliver(engine, target, now)
    assert state(engine) == ("delivered", "delivered", 2)


def test_a_token_that_http_can_not_carry_fails_alone_and_unseen(
    engine: Engine, receiver: Receiver, target: Target, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("p\u00e4ssw\u00f6rt")
    odd = Target(
        "odd", receiver.url, format="github", token_file=tmp_path / "token", allow_private=True, timeout_s=5.0
    )
    now = create(engine)
    create_delivery(engine, "rr-1", "odd", now)
    with writing(engine) as connection:
        body = b'{"data": {"action": "retrain"}}'
        connection.execute(update(tables.retrain_requests).values(body=body))
    answers = deliver_due(engine, [target, odd], now_ms=now, jitter=random.Random(1))
    assert answers["rr-1", "pipeline"].status == 204
    assert "HTTP can not carry" in answers["rr-1", "odd"].error
    assert "\u00e4" not in answers["rr-1", "odd"].error


def test_a_receiver_that_hangs_costs_its_timeout_and_no_more(
    engine: Engine, receiver: Receiver, target: Target, tmp_path: Path
) -> None:
    receiver.hang = threading.Event()
    slow = Target("pipeline", target.url, target.secret_file, allow_private=True, timeout_s=0.3)
    now = create(engine)
    started = wall_ms()
    (answer,) = deliver(engine, slow, now).values()
    assert answer == Answer(None, "no answer within 0.3 s")
    assert wall_ms() - started < 5_000
    assert state(engine) == ("created", "pending", 1)


def test_a_receiver_that_is_down_is_tried_until_the_schedule_ends(
    engine: Engine, receiver: Receiver, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object) -> Answer:
        return Answer(None, "ConnectError")

    monkeypatch.setattr(due, "_attempt", refused)
    now = create(engine)
    for _ in range(len(SCHEDULE_S)):
        now = max(now, next_ms(engine))
        deliver(engine, target, now)
    assert state(engine) == ("undeliverable", "failed", len(SCHEDULE_S))


def test_a_crash_between_attempt_and_note_costs_one_attempt_not_a_storm(
    engine: Engine, receiver: Receiver, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    now = create(engine)
    with monkeypatch.context() as patched:
        patched.setattr(due, "_note", die)
        with pytest.raises(Killed):
            deliver(engine, target, now)
    # The target's timeout is 5 s: nobody else makes the attempt while it may still be under way.
    assert deliver(engine, target, now + 14_999) == {}
    deliver(engine, target, now + 15_000)
    assert state(engine) == ("delivered", "delivered", 2)
    assert [headers["webhook-id"] for headers, _ in receiver.received] == ["rr-1", "rr-1"]


def test_deliveries_to_a_target_that_left_the_settings_wait(
    engine: Engine, receiver: Receiver, target: Target
) -> None:
    now = create(engine, target="another")
    assert deliver(engine, target, now) == {}
    assert state(engine) == ("created", "pending", 0)


def test_an_unreadable_secret_is_a_failed_attempt_that_says_so(
    engine: Engine, receiver: Receiver, tmp_path: Path
) -> None:
    broken = Target("pipeline", receiver.url, tmp_path / "missing", allow_private=True)
    (answer,) = deliver(engine, broken, create(engine)).values()
    assert "can not be read" in answer.error
    assert receiver.received == []


def test_a_loopback_target_is_refused_unless_allowed(
    engine: Engine, receiver: Receiver, target: Target
) -> None:
    guarded = Target("pipeline", target.url.replace("http:", "https:"), target.secret_file)
    (answer,) = deliver(engine, guarded, create(engine)).values()
    assert "127.0.0.1, which is not public" in answer.error
    assert receiver.received == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("fec0::1", False),
        # IPv4 in IPv6: through a gateway they lead to the address in their last (or first) bits.
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b::8.8.8.8", True),
        ("64:ff9b:1::8.8.8.8", False),
        ("2002:7f00:1::1", False),
        ("2002:808:808::1", False),
        ("::127.0.0.1", False),
    ],
)
def test_only_addresses_of_the_public_internet_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://8.8.8.8/", "not encrypted"),
        ("ftp://8.8.8.8/", "no http or https"),
        ("https://u:p@8.8.8.8/", "carries a login"),
        ("https:///path", "no http or https"),
        ("https://8.8.8.8:99999/", "no URL"),
        ("https://169.254.169.254/latest", "not public"),
        ("https://[::1]/", "not public"),
        ("https://2130706433/", "not public"),
        ("https://nowhere.invalid/", "does not resolve"),
        ("not a url", "no http or https"),
    ],
)
def test_a_forged_target_is_refused(url: str, words: str) -> None:
    import anyio

    async def look() -> None:
        await endpoint(url, allow_private=False)

    with pytest.raises(TargetRefused, match=words):
        anyio.run(look)


def test_the_connection_goes_to_the_address_that_was_judged() -> None:
    import anyio

    async def look() -> object:
        return await endpoint("https://localhost:8443/a?b=c", allow_private=True)

    place = anyio.run(look)
    assert place.url in ("https://127.0.0.1:8443/a?b=c", "https://[::1]:8443/a?b=c")  # type: ignore[attr-defined]
    assert (place.host, place.server_name) == ("localhost:8443", "localhost")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("status", "attempts", "verdict"),
    [
        (200, 1, "delivered"),
        (204, 9, "delivered"),
        (301, 1, "pending"),
        (400, 1, "pending"),
        (404, len(SCHEDULE_S), "failed"),
        (410, 1, "failed"),
        (500, len(SCHEDULE_S) - 1, "pending"),
        (None, 1, "pending"),
        (None, len(SCHEDULE_S), "failed"),
    ],
)
def test_only_two_hundreds_deliver_and_only_410_gives_up_early(
    status: int | None, attempts: int, verdict: str
) -> None:
    outcome = judge(Answer(status, ""), attempts)
    assert (outcome.state, outcome.disable) == (verdict, status == 410)


def test_waits_follow_the_schedule_and_jitter_only_lengthens_them() -> None:
    for attempts in range(1, len(SCHEDULE_S)):
        low, high = (next_attempt(attempts, 0, None, jitter) for jitter in (0.0, 1.0))
        assert low == SCHEDULE_S[attempts] * 1000
        assert low <= high <= low * 1.2 + 1
    assert next_attempt(1, 0, 60.0, 0.0) == 60_000
    assert next_attempt(3, 0, 1.0, 0.0) == 1_800_000
    assert next_attempt(1, 0, 1e12, 0.0) == 86_400_000


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("-5", None),
        ("soon", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("9" * 40, None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
    ],
)
def test_a_retry_after_header_is_read_or_ignored(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, 1_790_000_000_000) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "password\n",
        "whsec_short\n",
        "whsec_!!!\n",
        "whsec_\u00fc\n",
        SECRET.removeprefix("whsec_"),
    ],
)
def test_a_file_without_a_proper_secret_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="secret"):
        read_secrets(path)


def test_the_signature_is_that_of_the_specification_s_example() -> None:
    headers = signed_headers(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        b'{"test": 2432232314}',
        1_614_265_330_000,
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
