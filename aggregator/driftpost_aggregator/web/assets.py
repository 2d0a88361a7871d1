"""Static files under addresses that change with their content, so that browsers keep them for good.

plotly.min.js comes from the installed plotly package; nothing is loaded from anywhere else.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

_OURS = ("style.css", "live.js", "icon.svg")
_PLOTLY = "plotly.min.js"
_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# A year; the address names the content, so it never has to be asked for again.
_FOR_GOOD = "public, max-age=31536000, immutable"
# plotly.js is five megabytes; level 6 takes a third of a second once and comes within 1 % of level 9.
_GZIP_LEVEL = 6


@dataclass(frozen=True)
class Asset:
    """One static file in memory.

    Attributes:
        name: File name.
        version: First hex digits of its SHA-256, part of its address.
        body: Its bytes.
        packed: The same under gzip.
        media_type: For the Content-Type header.
    """

    name: str
    version: str
    body: bytes
    packed: bytes
    media_type: str

    @property
    def address(self) -> str:
        """Path under which it is served."""
        return f"/assets/{self.version}/{self.name}"


def _asset(name: str, body: bytes) -> Asset:
    return Asset(
        name=name,
        version=hashlib.sha256(body).hexdigest()[:12],
        body=body,
        packed=gzip.compress(body, _GZIP_LEVEL, mtime=0),
        media_type=_MEDIA_TYPES[name.rsplit(".", 1)[-1]],
    )


class Assets:
    """All static files by name, read and packed once."""

    def __init__(self) -> None:
        ours = resources.files("driftpost_aggregator.web") / "static"
        plotly = resources.files("plotly") / "package_data" / _PLOTLY
        self._assets = {name: _asset(name, (ours / name).read_bytes()) for name in _OURS}
        self._assets[_PLOTLY] = _asset(_PLOTLY, plotly.read_bytes())
        self.plotly_style_ids = style_ids(self._assets[_PLOTLY].body)

    def address(self, name: str) -> str:
        """Where a page finds the file."""
        return self._assets[name].address

    def serve(self, request: Request) -> Response:
        """Answer a request for a file; under another version's address there is nothing."""
        asset = self._assets.get(request.path_params["name"])
        if asset is None or asset.version != request.path_params["version"]:
            return Response("no such file; reload the page\n", 404, media_type="text/plain")
        headers = {"Cache-Control": _FOR_GOOD, "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            return Response(asset.packed, headers=headers, media_type=asset.media_type)
        return Response(asset.body, headers=headers, media_type=asset.media_type)


@lru_cache(maxsize=1)
def assets() -> Assets:
    """The one set of static files of this process."""
    return Assets()


def style_ids(plotly: bytes) -> tuple[str, ...]:
    """Ids of the style elements that plotly.js would add while it loads (for maps, which we never draw).

    It skips those that are there already. Pages carry them empty, so that the content security policy need
    not allow foreign inline styles.
    """
    found = re.findall(rb'document\.getElementById\("([0-9a-f]{64})"\)', plotly)
    return tuple(dict.fromkeys(name.decode("ascii") for name in found))
