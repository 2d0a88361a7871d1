"""Who is let in: tokens, other sites' pages, names that resolve to us, and the headers on every answer."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from driftpost_aggregator.web.access import basic_credentials
from driftpost_aggregator.web.options import WebOptions

TOKEN = "correct-horse-battery-staple"
FORM = {"action": "acknowledge"}


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.fixture
def guarded(engine: Engine, open_dashboard: Callable) -> TestClient:
    return open_dashboard(engine, WebOptions(fleet="meters", host="0.0.0.0", token=TOKEN)).client


@pytest.mark.parametrize(
    "path", ["/", "/devices", "/api/v1/devices", "/metrics", "/live", "/charts/fleet", "/nothing"]
)
def test_without_the_token_nothing_is_told(guarded: TestClient, path: str) -> None:
    answer = guarded.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic ")
    assert "web.token_file" in answer.json()["remedy"]
    assert "meter" not in answer.text


def test_changes_need_the_token_too(guarded: TestClient) -> None:
    assert guarded.post("/incidents/inc-1/actions", data=FORM).status_code == 401
    assert guarded.post("/api/v1/requests/req-0001/status", json={"state": "done"}).status_code == 401


def test_health_is_open_and_tells_nothing_about_the_fleet(guarded: TestClient) -> None:
    answer = guarded.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    "header",
    [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Bearer  {TOKEN} ", basic("Ada", TOKEN), basic("", TOKEN)],
)
def test_the_token_opens_as_bearer_and_as_password(guarded: TestClient, header: str) -> None:
    assert guarded.get("/", headers={"authorization": header}).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Token {TOKEN}",
        TOKEN,
        basic("Ada", "wrong"),
        basic(TOKEN, ""),
        "Basic !!!!",
        "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
        "Basic " + base64.b64encode(TOKEN.encode()).decode(),
        "Basic",
    ],
)
def test_nothing_else_opens(guarded: TestClient, header: str) -> None:
    assert guarded.get("/", headers={"authorization": header}).status_code == 401


def test_the_name_a_person_logs_in_with_signs_what_they_do(guarded: TestClient) -> None:
    headers = {"authorization": basic("Ada Lovelace", TOKEN), "sec-fetch-site": "same-origin"}
    form = FORM | {"actor": "Mallory"}
    assert guarded.post("/incidents/inc-1/actions", data=form, headers=headers).status_code == 303
    page = guarded.get("/incidents/inc-1", headers=headers).text
    assert "acknowledged by Ada Lovelace" in page
    assert "Mallory" not in page
    assert 'name="actor"' not in page, "the form does not ask for a name that is known"


def test_credentials_split_at_the_first_colon() -> None:
    assert basic_credentials(basic("Ada", "a:b")) == ("Ada", "a:b")
    assert basic_credentials("Bearer x") is None


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
        {"sec-fetch-site": "same-site", "origin": "http://other.127.0.0.1"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://127.0.0.1:8088.evil.example"},
    ],
)
@pytest.mark.parametrize("path", ["/incidents/inc-1/actions", "/api/v1/incidents/inc-1/actions"])
def test_pages_of_other_sites_change_nothing(dashboard, headers: dict[str, str], path: str) -> None:
    answer = dashboard.client.post(path, data=FORM, headers=headers)
    assert answer.status_code == 403
    assert "remedy" in answer.json()
    assert dashboard.client.get("/api/v1/incidents/inc-1").json()["state"] == "open"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8088"},
        {"sec-fetch-site": "none"},
        {"origin": "http://127.0.0.1:8088"},
    ],
)
def test_our_own_pages_and_programs_do(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/incidents/inc-1/actions", data=FORM, headers=headers).status_code == 303


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", ""])
def test_a_name_that_someone_lets_resolve_to_us_is_refused_where_there_is_no_token(
    client: TestClient, host: str
) -> None:
    assert client.get("/", headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8088", "localhost:1", "LOCALHOST", "[::1]:8088"])
def test_the_names_of_this_machine_are_accepted(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/api/v1/fleet", "/nothing", "/health", "/charts/fleet", "/assets/x/y"]
)
def test_every_answer_carries_the_security_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in policy["script-src"] + policy["style-src"] + policy["style-src-elem"]
    assert "http" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


def test_refusals_carry_them_too(guarded: TestClient, client: TestClient) -> None:
    for answer in (guarded.get("/"), client.get("/", headers={"host": "evil.example"})):
        assert "content-security-policy" in answer.headers
        assert answer.headers["cache-control"] == "no-store"
