"""Where a webhook may go: the guard against requests forged onto one's own network (SSRF).

The host is resolved here, every address is judged, and the connection is made to the address that was
judged: a name that resolves differently a moment later (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio

from driftpost_aggregator.errors import TargetRefused

# Where a gateway turns IPv6 into IPv4, an address of these leads to the IPv4 address in its last bits (RFC
# 6052, RFC 8215); the library takes them for addresses like any other.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
# Deprecated, and of no use on the internet (RFC 4291, 2.5.5.1; RFC 7526). Patch releases of Python's library
# disagree on whether the second is public.
_IPV4_COMPATIBLE = ipaddress.IPv6Network("::/96")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")


@dataclass(frozen=True)
class Endpoint:
    """A target that may be called.

    Attributes:
        url: with the judged address in place of the host.
        host: the `Host` header, as in the original URL.
        server_name: name that its certificate must carry.
    """

    url: str
    host: str
    server_name: str


def is_public(address: str) -> bool:
    """Whether an IP address lies on the public internet, and any IPv4 address that it carries too."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.is_site_local or any(ip in net for net in (_IPV4_COMPATIBLE, _LOCAL_NAT64, _SIX_TO_FOUR)):
            return False
        if ip in _NAT64 and not is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF))):
            return False
        ip = ip.ipv4_mapped or ip
    return ip.is_global and not ip.is_multicast


async def endpoint(url: str, *, allow_private: bool) -> Endpoint:
    """Resolve and judge a target.

    Raises:
        TargetRefused: it is no http(s) URL, is not encrypted, carries a login, does not resolve, or
            resolves to an address that is not public, unless `allow_private`.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise TargetRefused(url, f"is no URL ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise TargetRefused(url, "is no http or https URL")
    if parts.username is not None or parts.password is not None:
        raise TargetRefused(url, "carries a login; requests are signed instead")
    if parts.scheme == "http" and not allow_private:
        raise TargetRefused(url, "is not encrypted; use https, or allow_private on one's own network")
    port = port or (443 if parts.scheme == "https" else 80)
    try:
        found = await anyio.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise TargetRefused(url, f"does not resolve ({error})") from error
    addresses = [str(entry[4][0]) for entry in found]
    hidden = [address for address in addresses if not is_public(address)]
    if not addresses or (hidden and not allow_private):
        shown = hidden[0] if hidden else "nothing"
        raise TargetRefused(
            url, f"resolves to {shown}, which is not public; set allow_private if that is meant"
        )
    address = addresses[0]
    bracketed = f"[{address}]" if ":" in address else address
    rest = parts.path or "/"
    if parts.query:
        rest += f"?{parts.query}"
    return Endpoint(
        url=f"{parts.scheme}://{bracketed}:{port}{rest}", host=parts.netloc, server_name=parts.hostname
    )
