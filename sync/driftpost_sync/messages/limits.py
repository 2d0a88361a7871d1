"""Limits that every message keeps to, and the checks that belong to them."""

from __future__ import annotations

from driftpost_sync.codec import MAX_SEQ, Fields
from driftpost_sync.errors import MessageTooLarge, UnsupportedVersion

VERSION = 1
# Some clouds cut the connection above 128 KiB; 48 KiB leaves room for a broker's own framing and topics.
MAX_MESSAGE_BYTES = 48 * 1024
# A message holds at least one body beside its envelope (at most 200 bytes with the longest names).
MAX_BODY_BYTES = MAX_MESSAGE_BYTES - 1024
# What any end reads at most: larger than what is sent, so that limits can grow without a new version.
MAX_READ_BYTES = 64 * 1024
# A description decompresses to at most this: 300 streams of 20 bins are about 80 kB.
MAX_DESCRIBE_BYTES = 1 << 20
MAX_ITEMS = 512  # bodies in one envelope, ranges or reasons in one acknowledgement
MAX_STREAMS = 4_096
MAX_REASON_CHARS = 200
MAX_TEXT_CHARS = 1_000
MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE_CHARS = 200
MAX_WINDOW_BYTES = MAX_BODY_BYTES
MAX_COUNT = MAX_SEQ


def check_version(fields: Fields, where: str) -> None:
    """Refuse a message of another version.

    Raises:
        UnsupportedVersion: it is of one.
        MalformedMessage: it names none.
    """
    version = fields.integer("v", 0, 255)
    if version != VERSION:
        raise UnsupportedVersion(version, where)


def check_body_size(what: str, body: bytes) -> bytes:
    """The body, if a message has room for it.

    Raises:
        MessageTooLarge: it has not.
    """
    if len(body) > MAX_BODY_BYTES:
        raise MessageTooLarge(what, len(body), MAX_BODY_BYTES)
    return body
