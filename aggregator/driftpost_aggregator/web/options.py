"""What the web part needs to know from the settings, checked once."""

from __future__ import annotations

import ipaddress
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from driftpost_aggregator.web.errors import TokenUnusable, UnsafeExposure
from driftpost_sync.settings import Settings

# A shorter secret could be guessed over a network within its lifetime, characters.
MIN_TOKEN_LENGTH = 16
# A token file is one line; anything larger is some other file, bytes.
MAX_TOKEN_FILE = 4096

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


def is_loopback(host: str) -> bool:
    """Whether a host name or address reaches only programs on this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class WebOptions:
    """How the dashboard is served.

    Attributes:
        fleet: The fleet's name, shown on every page.
        host: Address or name to listen on.
        port: TCP port; 0 picks a free one.
        token: Shared secret that people (as password) and programs (as bearer token) must show, or None.
        hosts: Names that a request's Host header may carry, or () for any. Without a token a page of another
            site
            could have its own name resolve to this machine and read everything; its requests carry that name.
        secret_files: Of the retrain targets: the pipeline may sign its reports with any of their secrets.
        signed_reports: Whether it must.
        labels_expire_s: How long pushed labels wait for their device, seconds.
    """

    fleet: str
    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()
    secret_files: tuple[Path, ...] = ()
    signed_reports: bool = False
    labels_expire_s: float = 604_800.0

    @classmethod
    def from_settings(cls, settings: Settings) -> WebOptions:
        """Options from aggregator.toml.

        Raises:
            UnsafeExposure, TokenUnusable: see `checked`.
        """
        checked = cls.checked(
            fleet=settings.text("fleet.name"),
            host=settings.text("web.host"),
            port=settings.integer("web.port"),
            token_file=settings.optional("web.token_file", Path),
            allow_anonymous=settings.flag("web.allow_anonymous"),
            hosts=settings.texts("web.hosts"),
            public_url=settings.optional("web.public_url", str),
        )
        files = [entry.optional("secret_file", Path) for entry in settings.tables("retrain.targets")]
        return replace(
            checked,
            secret_files=tuple(path for path in files if path is not None),
            signed_reports=settings.flag("retrain.signed_reports"),
            labels_expire_s=settings.number("labels.expire_s"),
        )

    @classmethod
    def checked(
        cls,
        *,
        fleet: str,
        host: str,
        port: int,
        token_file: Path | None = None,
        allow_anonymous: bool = False,
        hosts: tuple[str, ...] = (),
        public_url: str | None = None,
    ) -> WebOptions:
        """Options that are safe to serve with.

        Raises:
            UnsafeExposure: the address is reachable by others, there is no token, and that was not allowed in
            words. TokenUnusable: the token file can not be read, is open to other users, or holds too short a
            secret.
        """
        if token_file is not None:
            return cls(fleet=fleet, host=host, port=port, token=read_token(token_file))
        if not is_loopback(host):
            if not allow_anonymous:
                raise UnsafeExposure(host)
            return cls(fleet=fleet, host=host, port=port, hosts=hosts)
        public = urlsplit(public_url or "").hostname
        return cls(
            fleet=fleet,
            host=host,
            port=port,
            hosts=(*_LOOPBACK_NAMES, *hosts, *((public,) if public else ())),
        )


def read_token(path: Path) -> str:
    """The secret in a file of one line.

    Raises:
        TokenUnusable: see there.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise TokenUnusable(str(path), "is not a file")
        if stat.S_IMODE(mode) & (stat.S_IRWXG | stat.S_IRWXO):
            raise TokenUnusable(
                str(path), f"may be read or changed by others (mode {stat.S_IMODE(mode):04o})"
            )
        with path.open("rb") as file:
            raw = file.read(MAX_TOKEN_FILE + 1)
    except OSError as error:
        raise TokenUnusable(str(path), error.strerror or str(error)) from error
    if len(raw) > MAX_TOKEN_FILE:
        raise TokenUnusable(str(path), f"is larger than {MAX_TOKEN_FILE} bytes")
    token = raw.decode("ascii", "replace").strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise TokenUnusable(str(path), "holds something other than one word of ASCII characters")
    if len(token) < MIN_TOKEN_LENGTH:
        raise TokenUnusable(str(path), f"holds {len(token)} characters, fewer than {MIN_TOKEN_LENGTH}")
    return token
