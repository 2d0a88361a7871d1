"""Alerts over a real mail server and a real HTTP server: who hears of what, when, once, after failures."""

from __future__ import annotations

import base64
import http.server
import itertools
import json
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import tomli
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from sqlalchemy import Engine, select, update
from standardwebhooks import Webhook
from starlette.testclient import TestClient

from aggregator.test_retrain import NOW, open_incident
from certificates import Pair, write_authority, write_certificate
from driftpost_aggregator import incidents as life
from driftpost_aggregator.alerts import telling as telling_module
from driftpost_aggregator.alerts.channels import Channel, channels
from driftpost_aggregator.alerts.posting import slack_body
from driftpost_aggregator.alerts.quiet import QuietHours
from driftpost_aggregator.alerts.telling import Telling, tell
from driftpost_aggregator.delivery.schedule import SCHEDULE_S, Answer
from driftpost_aggregator.errors import ConfigurationError
from driftpost_aggregator.settings import TABLE
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.times import wall_ms
from driftpost_aggregator.web.app import build
from driftpost_aggregator.web.options import WebOptions

UTC = ZoneInfo("UTC")
HOUR = 3_600_000
PASSWORD = "a-password-that-nobody-must-see"
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


@dataclass
class Receiver:
    """What came over HTTP; `status` is the answer."""

    status: int = 200
    port: int = 0
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/services/T00/B00/very-secret-path"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.bodies.append(self.rfile.read(int(self.headers["content-length"])))
            receiver.headers.append(dict(self.headers))
            said = f"no_service at {self.path}".encode()
            self.send_response(receiver.status)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), name="receiver")
    thread.start()
    yield receiver
    server.shutdown()
    thread.join()
    server.server_close()


def slack(tmp_path: Path, receiver: Receiver, **changes: object) -> Channel:
    path = tmp_path / "url"
    path.write_text(receiver.url + "\n")
    values: dict[str, object] = {"name": "chat", "kind": "slack", "url_file": path, "allow_private": True}
    return Channel(**(values | changes))  # type: ignore[arg-type]  # each call gives fields of their types


def telling(*ways: Channel, group_s: float = 0.0) -> Telling:
    numbers = itertools.count(1)
    return Telling(
        ways, group_s, "meters", "https://driftpost.example", lambda: f"al-{next(numbers)}", random.Random(1)
    )


def texts(receiver: Receiver) -> list[str]:
    return [json.loads(body)["text"] for body in receiver.bodies]


def opened(engine: Engine, name: str = "inc-1", now_ms: int = NOW, **changes: object) -> None:
    open_incident(engine, name, **changes)
    with writing(engine) as connection:
        life.record(connection, name, "opened", actor=life.AGGREGATOR, at_ms=now_ms, text="it is dark")


def started(engine: Engine, told: Telling, now_ms: int = NOW - 1) -> None:
    """The first round only notes since when a channel is there."""
    assert tell(engine, told, now_ms) == {}


def test_each_change_of_an_incident_is_told_once(engine: Engine, tmp_path: Path, receiver: Receiver) -> None:
    told = telling(slack(tmp_path, receiver))
    started(engine, told)
    opened(engine)
    life.acknowledge(engine, "inc-1", actor="anna", now_ms=NOW + 1)
    life.note(engine, "inc-1", text="on my way", actor="anna", now_ms=NOW + 2)
    for later in range(5):
        tell(engine, told, NOW + 10 + later)
    life.resolve(engine, "inc-1", actor="anna", now_ms=NOW + 100)
    for later in range(3):
        tell(engine, told, NOW + 101 + later)
    first, second = texts(receiver)
    assert first.startswith("[driftpost meters] opened: camera=B: inputs drifted")
    assert "4 of 4 devices" in first
    assert "https://driftpost.example/incidents/inc-1" in first
    assert "resolved: camera=B" in second


def test_a_new_channel_is_not_told_of_the_past(engine: Engine, tmp_path: Path, receiver: Receiver) -> None:
    opened(engine)
    told = telling(slack(tmp_path, receiver))
    started(engine, told, NOW + 1)
    tell(engine, told, NOW + 2)
    assert receiver.bodies == []


@pytest.mark.parametrize(
    ("wanted", "incident"),
    [
        ({"scopes": ("fleet",)}, {}),
        ({"kinds": ("sensor_fault",)}, {}),
        ({"changes": ("resolved",)}, {}),
        ({"min_severity": 5.0}, {}),
        ({}, {"scope": "device"}),
        ({}, {"state": "muted", "muted_until_ms": NOW + HOUR}),
    ],
)
def test_a_channel_hears_of_what_it_asked_for_only(
    engine: Engine,
    tmp_path: Path,
    receiver: Receiver,
    wanted: dict[str, object],
    incident: dict[str, object],
) -> None:
    told = telling(slack(tmp_path, receiver, **wanted))
    started(engine, told)
    opened(engine, **incident)
    tell(engine, told, NOW + 10)
    assert receiver.bodies == []
    with reading(engine) as connection:
        assert connection.execute(select(tables.alerts.c.message)).scalar_one() == ""


def test_changes_close_together_are_one_message(engine: Engine, tmp_path: Path, receiver: Receiver) -> None:
    told = telling(slack(tmp_path, receiver), group_s=60.0)
    started(engine, told)
    opened(engine, "inc-1")
    opened(engine, "inc-2", NOW + 30_000, scope_key="camera=C", title="camera=C: inputs drifted")
    tell(engine, told, NOW + 59_999)
    assert receiver.bodies == []
    tell(engine, told, NOW + 60_000)
    (text,) = texts(receiver)
    assert "and 1 more" in text
    assert "camera=B" in text
    assert "camera=C" in text


def test_many_changes_are_several_messages_of_bounded_length(
    engine: Engine, tmp_path: Path, receiver: Receiver
) -> None:
    told = telling(slack(tmp_path, receiver))
    started(engine, told)
    for number in range(45):
        opened(engine, f"inc-{number}", scope_key=f"camera={number}", title="x" * 900)
    for later in range(4):
        tell(engine, told, NOW + 10 + later)
    assert len(receiver.bodies) == 3
    assert all(len(text) <= 3_000 for text in texts(receiver))
    with reading(engine) as connection:
        changes = connection.execute(select(tables.alert_messages.c.changes)).scalars().all()
    assert sorted(len(one) for one in changes) == [5, 20, 20]


def test_at_night_only_what_is_urgent_rings_and_the_rest_comes_in_the_morning(
    engine: Engine, tmp_path: Path, receiver: Receiver
) -> None:
    # NOW is 14:13 UTC.
    hours = QuietHours.parse("14:00-16:00", UTC)
    told = telling(slack(tmp_path, receiver, quiet=hours))
    started(engine, told)
    opened(engine, "inc-1")
    tell(engine, told, NOW + 10)
    assert receiver.bodies == []
    tell(engine, told, NOW + 2 * HOUR)
    assert len(receiver.bodies) == 1
    opened(engine, "inc-2", NOW + 20, scope="fleet", scope_key="")
    tell(engine, told, NOW + 30)
    assert len(receiver.bodies) == 2


def test_at_night_what_is_urgent_neither_waits_behind_the_rest_nor_brings_it_along(
    engine: Engine, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling_module, "_MAX_LOOKED_AT", 3)
    told = telling(slack(tmp_path, receiver, quiet=QuietHours.parse("14:00-16:00", UTC)))
    started(engine, told)
    for number in range(5):
        opened(engine, f"inc-{number}")
    opened(engine, "inc-5", NOW + 1, scope="fleet", scope_key="", title="everywhere: inputs drifted")
    tell(engine, told, NOW + 10)
    tell(engine, told, NOW + 20)
    (rang,) = texts(receiver)
    assert rang.startswith("[driftpost meters] opened: everywhere: inputs drifted\n")
    assert rang.count("opened: ") == 2
    for later in range(2):
        tell(engine, told, NOW + 2 * HOUR + later)
    assert sum(text.count("camera=B: inputs drifted\n") for text in texts(receiver)[1:]) >= 5


def test_what_another_worker_sent_stays_sent(
    engine: Engine, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = telling(slack(tmp_path, receiver))
    started(engine, told)
    opened(engine)

    async def overtaken(*_: object) -> Answer:
        with writing(engine) as connection:
            connection.execute(update(tables.alert_messages).values(state="sent", attempts=2))
        return Answer(None, "too late")

    with monkeypatch.context() as patched:
        patched.setattr(telling_module, "_send", overtaken)
        tell(engine, told, NOW + 10)
    with reading(engine) as connection:
        assert connection.execute(select(tables.alert_messages.c.state)).scalar_one() == "sent"


@pytest.mark.parametrize(
    ("text", "zone", "now", "over"),
    [
        ("22:00-07:00", "UTC", "2026-11-23T23:30", "2026-11-24T07:00"),
        ("22:00-07:00", "UTC", "2026-11-23T06:59", "2026-11-23T07:00"),
        ("22:00-07:00", "UTC", "2026-11-23T07:00", None),
        ("12:00-13:00", "UTC", "2026-11-23T12:00", "2026-11-23T13:00"),
        ("12:00-13:00", "UTC", "2026-11-23T13:00", None),
        ("22:00-07:00", "Europe/Vienna", "2026-11-23T21:30", "2026-11-24T06:00"),
        ("22:00-07:00", "America/New_York", "2026-11-23T21:30", None),
        # The night in which clocks go back, an hour longer.
        ("22:00-07:00", "Europe/Vienna", "2026-10-24T21:00", "2026-10-25T06:00"),
    ],
)
def test_quiet_hours_are_those_of_their_time_zone(text: str, zone: str, now: str, over: str | None) -> None:
    def ms(moment: str) -> int:
        return round(datetime.fromisoformat(moment).replace(tzinfo=timezone.utc).timestamp() * 1000)

    hours = QuietHours.parse(text, ZoneInfo(zone))
    assert hours.over_at(ms(now)) == (None if over is None else ms(over))


@pytest.mark.parametrize("text", ["", "22-7", "25:00-07:00", "22:00-22:00", "22:60-07:00"])
def test_hours_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write it as"):
        QuietHours.parse(text, UTC)


def test_a_channel_that_fails_is_tried_again_shown_and_heals(
    engine: Engine, tmp_path: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told = telling(slack(tmp_path, receiver))
    started(engine, told)
    opened(engine)
    receiver.status = 503
    tell(engine, told, NOW + 10)
    tell(engine, told, NOW + 11)
    assert len(receiver.bodies) == 1
    with reading(engine) as connection:
        row = connection.execute(select(tables.alert_channels)).one()
        message = connection.execute(select(tables.alert_messages)).one()
    assert row.failing_since_ms == NOW + 10
    assert "HTTP 503" in row.last_error
    assert (message.state, message.attempts) == ("pending", 1)
    everything = caplog.text + row.last_error + message.last_error
    assert "very-secret-path" not in everything
    app = build(engine, WebOptions("meters"), now_ms=lambda: NOW)
    with TestClient(app, base_url="http://127.0.0.1:8088") as client:
        page = client.get("/alerts").text
        assert "failing" in page
        assert "HTTP 503" in page
        plain = client.get("/api/v1/alerts?state=pending").json()
    assert plain["channels"][0]["channel"] == "chat"
    assert len(plain["items"]) == 1
    receiver.status = 200
    tell(engine, told, NOW + 20_000)
    assert len(receiver.bodies) == 2
    assert receiver.bodies[0] == receiver.bodies[1]
    with reading(engine) as connection:
        row = connection.execute(select(tables.alert_channels)).one()
    assert (row.failing_since_ms, row.last_error) == (None, "")


def test_patience_has_an_end_and_other_channels_go_on(
    engine: Engine, tmp_path: Path, receiver: Receiver
) -> None:
    dead = Channel(
        "dead", "webhook", url="http://127.0.0.1:1/", allow_private=True, secret_file=tmp_path / "s"
    )
    (tmp_path / "s").write_text(SECRET)
    told = telling(dead, slack(tmp_path, receiver))
    started(engine, told)
    opened(engine)
    now = NOW + 10
    for wait_s in (*SCHEDULE_S, 0, 0):
        now += round(wait_s * 1_300) + 1_000
        tell(engine, told, now)
    assert len(receiver.bodies) == 1
    with reading(engine) as connection:
        states = dict(
            connection.execute(select(tables.alert_messages.c.channel, tables.alert_messages.c.state)).all()
        )
    assert states == {"dead": "failed", "chat": "sent"}


def test_a_crash_while_sending_repeats_the_message_under_its_id(
    engine: Engine, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s").write_text(SECRET)
    way = Channel("hook", "webhook", url=receiver.url, allow_private=True, secret_file=tmp_path / "s")
    told = telling(way)
    started(engine, told)
    opened(engine)

    def die(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(telling_module, "_note", die)
        with pytest.raises(RuntimeError, match="killed"):
            tell(engine, told, NOW + 10)
    # Nobody else sends it while this may still be under way: its timeout is 20 s.
    assert tell(engine, told, NOW + 10 + 29_999) == {}
    tell(engine, told, NOW + 10 + 30_000)
    ids = [headers["webhook-id"] for headers in receiver.headers]
    assert ids == ["al-1", "al-1"]


def test_a_webhook_gets_a_signed_cloudevent(engine: Engine, tmp_path: Path, receiver: Receiver) -> None:
    (tmp_path / "s").write_text(SECRET)
    way = Channel("hook", "webhook", url=receiver.url, allow_private=True, secret_file=tmp_path / "s")
    told = telling(way)
    now = wall_ms()
    started(engine, told, now - 10)
    opened(engine, now_ms=now)
    tell(engine, told, now + 1)
    event = Webhook(SECRET).verify(receiver.bodies[0], receiver.headers[0])
    assert event["type"] == "io.driftpost.incidents.changed.v1"
    (change,) = event["data"]["changes"]
    assert (change["incident"], change["change"]) == ("inc-1", "opened")
    assert change["link"].endswith("/incidents/inc-1")


def test_what_means_something_to_slack_is_escaped() -> None:
    assert json.loads(slack_body("<!channel> a & b"))["text"] == "&lt;!channel&gt; a &amp; b"


class Mailbox:
    """Takes mail, or refuses it as it is told."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], bytes]] = []
        self.encrypted: list[bool] = []
        self.refusal = ""

    async def handle_DATA(  # noqa: N802  # the library's name
        self, server, session, envelope
    ) -> str:
        if self.refusal:
            return self.refusal
        self.mails.append((envelope.rcpt_tos, envelope.content))
        # Of a connection that is encrypted from its start the session says nothing.
        self.encrypted.append(server.transport.get_extra_info("ssl_object") is not None)
        return "250 OK"


def authenticate(server, session, envelope, mechanism, auth_data) -> AuthResult:
    assert isinstance(auth_data, LoginPassword)
    good = (auth_data.login, auth_data.password) == (b"driftpost", PASSWORD.encode())
    return AuthResult(success=good, handled=False)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Pair]:
    """An authority, and a mail server's certificate of it for localhost."""
    folder = tmp_path_factory.mktemp("mail")
    authority = write_authority(folder / "ca", "mail authority")
    return authority, write_certificate(folder / "server", authority, "localhost", server=True)


@contextmanager
def mail_server(
    box: Mailbox, pair: Pair | None, *, implicit: bool = False, login: bool = True
) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = None
    if pair is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
    controller = Controller(
        box,
        hostname="127.0.0.1",
        port=port,
        ssl_context=context if implicit else None,
        tls_context=None if implicit else context,
        require_starttls=context is not None and not implicit,
        auth_required=login,
        auth_require_tls=not implicit,
        authenticator=authenticate if login else None,
    )
    controller.start()
    try:
        yield port
    finally:
        controller.stop()


def mail(tmp_path: Path, port: int, ca: Path | None, **changes: object) -> Channel:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    values: dict[str, object] = {
        "name": "mail",
        "kind": "email",
        "host": "localhost",
        "port": port,
        "ca": ca,
        "username": "driftpost",
        "password_file": tmp_path / "password",
        "sender": "driftpost@example.com",
        "recipients": ("anna@example.com", "ben@example.com"),
        "timeout_s": 10.0,
    }
    return Channel(**(values | changes))  # type: ignore[arg-type]  # each call gives fields of their types


def sent(engine: Engine, way: Channel) -> str:
    """Tell of one incident; what the channel complains of."""
    told = telling(way)
    started(engine, told)
    opened(engine, title="camera=B: d\u00fcster\r\nBcc: x@example.com")
    tell(engine, told, NOW + 10)
    with reading(engine) as connection:
        return connection.execute(select(tables.alert_channels.c.last_error)).scalar_one()


@pytest.mark.filterwarnings(
    "ignore:Requiring AUTH:UserWarning"
)  # the server does not count TLS from the start
@pytest.mark.parametrize("implicit", [False, True])
def test_mail_is_encrypted_and_reaches_every_recipient(
    engine: Engine, tmp_path: Path, certificate: tuple[Pair, Pair], implicit: bool
) -> None:
    box = Mailbox()
    authority, server = certificate
    with mail_server(box, server, implicit=implicit) as port:
        way = mail(tmp_path, port, authority.certificate, security="tls" if implicit else "starttls")
        assert sent(engine, way) == ""
    ((recipients, raw),) = box.mails
    assert recipients == ["anna@example.com", "ben@example.com"]
    assert box.encrypted == [True]
    read = message_from_bytes(raw, policy=default)
    assert read["subject"].startswith("[driftpost meters] opened: camera=B: d\u00fcster")
    assert read["bcc"] is None
    assert read["message-id"] == "<al-1@example.com>"
    assert read["auto-submitted"] == "auto-generated"
    assert "https://driftpost.example/incidents/inc-1" in read.get_content()


def test_mail_over_a_network_of_one_s_own_may_go_unencrypted(engine: Engine, tmp_path: Path) -> None:
    box = Mailbox()
    with mail_server(box, None, login=False) as port:
        assert sent(engine, mail(tmp_path, port, None, security="none", username="")) == ""
    assert box.encrypted == [False]


def test_a_mail_server_of_an_unknown_authority_gets_neither_password_nor_mail(
    engine: Engine, tmp_path: Path, certificate: tuple[Pair, Pair]
) -> None:
    box = Mailbox()
    with mail_server(box, certificate[1]) as port:
        assert "certificate" in sent(engine, mail(tmp_path, port, None)).lower()
    assert box.mails == []


def test_a_server_without_encryption_gets_no_mail_that_must_be_encrypted(
    engine: Engine, tmp_path: Path
) -> None:
    box = Mailbox()
    with mail_server(box, None, login=False) as port:
        assert "STARTTLS" in sent(engine, mail(tmp_path, port, None))
    assert box.mails == []


@pytest.mark.parametrize(
    ("refusal", "words"),
    [("451 try later", "451: try later"), ("554 spam", "554: spam")],
)
def test_what_a_mail_server_refuses_is_told_and_tried_again(
    engine: Engine, tmp_path: Path, certificate: tuple[Pair, Pair], refusal: str, words: str
) -> None:
    box = Mailbox()
    box.refusal = refusal
    authority, server = certificate
    with mail_server(box, server) as port:
        assert words in sent(engine, mail(tmp_path, port, authority.certificate))
        box.refusal = ""
        tell(engine, telling(mail(tmp_path, port, authority.certificate)), NOW + 20_000)
    assert len(box.mails) == 1


def test_a_wrong_password_is_told_without_being_shown(
    engine: Engine, tmp_path: Path, certificate: tuple[Pair, Pair], caplog: pytest.LogCaptureFixture
) -> None:
    authority, server = certificate
    with mail_server(Mailbox(), server) as port:
        way = mail(tmp_path, port, authority.certificate)
        (tmp_path / "password").write_text("wrong-but-secret-as-well")
        said = sent(engine, way)
    assert "does not let driftpost in (535)" in said
    assert "wrong-but-secret" not in said + caplog.text


def test_a_mail_server_that_drips_costs_the_timeout_and_no_more(engine: Engine, tmp_path: Path) -> None:
    over = threading.Event()

    def drip(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            for _ in range(100):
                if over.wait(0.05):
                    break
                connection.sendall(b"2")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,), name="drip")
        thread.start()
        way = mail(
            tmp_path, server.getsockname()[1], None, host="127.0.0.1", security="none", username="",
            timeout_s=0.4,
        )  # fmt: skip
        begun = time.monotonic()
        try:
            said = sent(engine, way)
        finally:
            over.set()
            thread.join()
    assert said == "no end within 0.4 s"
    assert time.monotonic() - begun < 3


def test_a_recipient_that_is_refused_alone_is_told(engine: Engine, tmp_path: Path) -> None:
    class Choosy(Mailbox):
        async def handle_RCPT(self, server, session, envelope, address, options) -> str:  # noqa: N802  # aiosmtpd's name
            if address.startswith("ben"):
                return "550 no such mailbox"
            envelope.rcpt_tos.append(address)
            return "250 OK"

    box = Choosy()
    with mail_server(box, None, login=False) as port:
        assert sent(engine, mail(tmp_path, port, None, security="none", username="")) == ""
    assert [recipients for recipients, _ in box.mails] == [["anna@example.com"]]
    with reading(engine) as connection:
        row = connection.execute(
            select(tables.alert_messages.c.state, tables.alert_messages.c.last_error)
        ).one()
    assert row.state == "sent"
    assert "refuses ben@example.com" in row.last_error


def test_mail_that_was_taken_is_not_sent_again_for_want_of_a_goodbye(engine: Engine, tmp_path: Path) -> None:
    class Rude(Mailbox):
        async def handle_QUIT(self, server, session, envelope) -> str:  # noqa: N802  # aiosmtpd's name
            return "451 not now"

    box = Rude()
    with mail_server(box, None, login=False) as port:
        way = mail(tmp_path, port, None, security="none", username="")
        assert sent(engine, way) == ""
        tell(engine, telling(way), NOW + 60_000)
    assert len(box.mails) == 1


def test_a_password_that_mail_can_not_carry_is_not_shown(
    engine: Engine, tmp_path: Path, certificate: tuple[Pair, Pair]
) -> None:
    authority, server = certificate
    with mail_server(Mailbox(), server) as port:
        way = mail(tmp_path, port, authority.certificate)
        (tmp_path / "password").write_text("p\u00e4ss", encoding="utf-8")
        said = sent(engine, way)
    assert "holds a letter" in said
    assert "\u00e4" not in said
    assert "xe4" not in said


def test_a_password_file_that_is_gone_is_told(engine: Engine, tmp_path: Path) -> None:
    way = mail(tmp_path, 1, None, password_file=tmp_path / "gone")
    assert "can not be read" in sent(engine, way)


def configured(text: str) -> tuple[Channel, ...]:
    head = '[fleet]\nname = "meters"\n'
    path = Path("aggregator.toml")
    return channels(TABLE.parse(tomli.loads(head + text), source=path))


EMAIL = """
[[alerts.channels]]
name = "mail"
kind = "email"
host = "mail.example.com"
sender = "driftpost@example.com"
recipients = ["anna@example.com"]
"""


def test_channels_are_read_from_the_settings() -> None:
    (one,) = configured('[alerts]\ntimezone = "Europe/Vienna"\n' + EMAIL + 'quiet = "22:00-07:00"\n')
    assert (one.port, one.security, one.place) == (587, "starttls", "anna@example.com")
    assert one.quiet is not None
    assert one.quiet.zone.key == "Europe/Vienna"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (EMAIL + EMAIL, "stands twice"),
        ('[alerts]\ntimezone = "Middle/Earth"\n', "no time zone"),
        (EMAIL + 'quiet = "late"\n', "write it as"),
        (EMAIL + 'scopes = ["planet"]\n', "none of device"),
        (EMAIL + 'changes = ["whatever"]\n', "none of opened"),
        (EMAIL + 'username = "anna"\n', "password_file"),
        (EMAIL + 'username = "anna"\nsecurity = "none"\n', "unencrypted"),
        (EMAIL.replace("anna@example.com", "anna"), "no address"),
        (EMAIL.replace("anna@example.com", "a@b\\nBcc: c@d"), "no address"),
        (EMAIL.replace("anna@example.com", "anna@"), "no address"),
        (EMAIL.replace("anna@example.com", "anna@[example.com"), "no address"),
        ('[[alerts.channels]]\nname = "c"\nkind = "slack"\n', "url_file"),
        ('[[alerts.channels]]\nname = "c"\nkind = "webhook"\nurl = "https://a"\n', "secret_file"),
        ('[[alerts.channels]]\nname = "c"\nkind = "email"\n', "host"),
    ],
)
def test_settings_that_can_not_work_are_refused_with_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        configured(text)
