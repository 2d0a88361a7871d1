"""Static files: versioned, packed, kept for good, and nothing from anywhere else."""

from __future__ import annotations

import gzip
import re
from importlib import resources

import pytest
from starlette.testclient import TestClient

from driftpost_aggregator.web.assets import assets, style_ids

NAMES = ["style.css", "live.js", "icon.svg", "plotly.min.js"]
TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_served_for_good_under_its_versions_address(client: TestClient, name: str) -> None:
    answer = client.get(assets().address(name))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == TYPES[name.rsplit(".", 1)[1]]
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.content


def test_a_client_that_knows_no_gzip_gets_the_file_as_it_is(client: TestClient) -> None:
    address = assets().address("plotly.min.js")
    plain = client.get(address, headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert "Accept-Encoding" in plain.headers["vary"]
    assert plain.content == (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()


def test_packed_files_unpack_to_themselves() -> None:
    for name in NAMES:
        asset = assets()._assets[name]
        assert gzip.decompress(asset.packed) == asset.body


@pytest.mark.parametrize(
    "address", ["/assets/000000000000/live.js", "/assets/x/%2e%2e", "/assets/x/app.py", "/assets/x/y/z"]
)
def test_other_versions_and_files_are_not_there(client: TestClient, address: str) -> None:
    assert client.get(address).status_code == 404


def test_pages_name_the_current_versions(client: TestClient) -> None:
    html = client.get("/").text
    for name in NAMES:
        assert assets().address(name) in html


@pytest.mark.parametrize("name", ["style.css", "live.js"])
def test_our_files_ask_for_nothing_elsewhere(name: str) -> None:
    text = assets()._assets[name].body.decode()
    assert not re.findall(r"https?://|//[a-z]+\.|@import|url\(", text)


def test_the_style_elements_that_plotly_would_add_are_found_in_it() -> None:
    script = b'x;if(!document.getElementById("' + b"a1" * 32 + b'")){};document.getElementById("id")'
    assert style_ids(script * 2) == ("a1" * 32,)
    assert style_ids(b"") == ()


def test_pages_carry_those_style_elements_empty(client: TestClient) -> None:
    html = client.get("/").text
    for identifier in assets().plotly_style_ids:
        assert f'<style id="{identifier}"></style>' in html
