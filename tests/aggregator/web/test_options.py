"""Serving safely: no token beyond this machine is refused, and a token file must be one."""

from __future__ import annotations

from pathlib import Path

import pytest

from driftpost_aggregator.errors import ConfigurationError
from driftpost_aggregator.settings import TABLE
from driftpost_aggregator.web.errors import TokenUnusable, UnsafeExposure
from driftpost_aggregator.web.options import MAX_TOKEN_FILE, WebOptions, is_loopback

SECRET = "0123456789abcdef"


def token_file(folder: Path, content: bytes = SECRET.encode() + b"\n", mode: int = 0o600) -> Path:
    path = folder / "token"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def from_settings(folder: Path, **web: object) -> WebOptions:
    return WebOptions.from_settings(TABLE.parse({"fleet": {"name": "meters"}, "web": web}, folder=folder))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.1.5", False),
        ("localhost.example.com", False),
        ("dashboard", False),
    ],
)
def test_only_addresses_of_this_machine_count_as_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "dashboard"])
def test_serving_a_network_without_a_token_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(UnsafeExposure, match=r"set web\.token_file") as refused:
        from_settings(tmp_path, host=host)
    assert isinstance(refused.value, ConfigurationError)
    assert refused.value.setting == "web.host"


def test_it_can_be_allowed_in_words(tmp_path: Path) -> None:
    options = from_settings(tmp_path, host="0.0.0.0", allow_anonymous=True, hosts=["fleet.example"])
    assert options.token is None
    assert options.hosts == ("fleet.example",)


def test_a_token_makes_a_network_address_safe_under_any_name(tmp_path: Path) -> None:
    token_file(tmp_path)
    options = from_settings(tmp_path, host="0.0.0.0", token_file="token")
    assert options.token == SECRET
    assert options.hosts == ()
    assert SECRET not in repr(options)


def test_loopback_without_a_token_answers_to_its_own_names_and_those_given(tmp_path: Path) -> None:
    options = from_settings(tmp_path, public_url="https://fleet.example/x", hosts=["proxy.example"])
    assert options.token is None
    assert set(options.hosts) == {"localhost", "127.0.0.1", "[::1]", "proxy.example", "fleet.example"}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604])
def test_a_token_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    token_file(tmp_path, mode=mode)
    with pytest.raises(TokenUnusable, match="chmod 600"):
        from_settings(tmp_path, token_file="token")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "fewer than 16"),
        (b"short\n", "fewer than 16"),
        (b"two words are not one token\n", "one word"),
        (SECRET.encode() + b"\nsecond line\n", "one word"),
        (b"\xff" * 32, "one word"),
        ("sécret-sécret-sécret".encode(), "one word"),
        (b"\x00" * 32, "one word"),
        (b"x" * (MAX_TOKEN_FILE + 1), "larger than"),
    ],
)
def test_files_that_hold_no_token_are_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    token_file(tmp_path, content)
    with pytest.raises(TokenUnusable, match=problem):
        from_settings(tmp_path, token_file="token")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenUnusable, match="No such file"):
        from_settings(tmp_path, token_file="nowhere")
    (tmp_path / "token").mkdir()
    with pytest.raises(TokenUnusable, match="is not a file"):
        from_settings(tmp_path, token_file="token")
