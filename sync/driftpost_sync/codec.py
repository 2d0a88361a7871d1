"""Bounded msgpack: what is read from the wire is checked before anything is built from it.

`unpack` refuses by size, depth, element count, type, duplicate key and trailing bytes; `Fields` then reads
one map field by field, so that a message class states in one line what each field may be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

import msgpack

from driftpost_sync.errors import MalformedMessage

# Containers inside containers: the deepest message of ours (a schema in a describe) has five.
MAX_DEPTH = 10
# Elements in one list or map: the largest is a stream's edges or a schema's streams, both below 5,000.
MAX_ELEMENTS = 16_384
MAX_TEXT_BYTES = 16_384

U64_MAX: Final = (1 << 64) - 1
# Incarnations live in SQLite, whose integers are signed.
MAX_INCARNATION: Final = (1 << 63) - 1
MAX_SEQ: Final = (1 << 53) - 1  # exact in every language's numbers
# 9,000 years of uptime or Unix time in ms; beyond it is damage, not time.
MAX_TIME_MS: Final = 284_000_000_000_000


def pack(value: object) -> bytes:
    """Msgpack bytes of plain types; tuples become lists."""
    packed = msgpack.packb(value, use_bin_type=True)
    assert isinstance(packed, bytes)
    return packed


def unpack(data: bytes, *, limit: int, where: str = "message") -> object:
    """Plain types from msgpack bytes of at most `limit` bytes.

    Raises:
        MalformedMessage: too large, not msgpack, too deep, too many elements, a duplicate or non-text key,
            an extension type, text that is not UTF-8, or bytes after the end.
    """
    if len(data) > limit:
        raise MalformedMessage(f"{len(data)} bytes, at most {limit} are allowed", where)
    try:
        value: object = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_unique,
            max_str_len=min(limit, MAX_TEXT_BYTES),
            max_bin_len=limit,
            max_array_len=MAX_ELEMENTS,
            max_map_len=MAX_ELEMENTS,
            max_ext_len=0,
        )
    except MalformedMessage as error:
        raise MalformedMessage(error.reason, where) from None
    except UnicodeDecodeError:
        raise MalformedMessage("text that is not UTF-8", where) from None
    # msgpack's own errors are ValueErrors but for OutOfData and StackError's C twin, which say so in text.
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        raise MalformedMessage(f"not msgpack: {str(error)[:80]}", where) from None
    _check_plain(value, where)
    return value


def _unique(pairs: Iterable[tuple[object, object]]) -> dict[object, object]:
    result: dict[object, object] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise MalformedMessage("a map key that is not text")
        if key in result:
            raise MalformedMessage(f"key {key[:40]!r} twice in one map")
        result[key] = value
    return result


def _check_plain(value: object, where: str, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise MalformedMessage(f"nested deeper than {MAX_DEPTH}", where)
    if isinstance(value, dict):
        for item in value.values():
            _check_plain(item, where, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, where, depth + 1)
    elif not (value is None or isinstance(value, bool | int | float | str | bytes)):
        raise MalformedMessage(f"a {type(value).__name__}, which this protocol does not use", where)


class Fields:
    """Reads one map of a message; keys it is not asked for are ignored (a newer minor addition).

    Raises:
        MalformedMessage: from every method, if the field is missing, of another type or out of range.
    """

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise MalformedMessage(f"must be a map, not {type(value).__name__}", where)
        self._map: dict[str, object] = value
        self._where = where

    def _fail(self, key: str, text: str) -> MalformedMessage:
        return MalformedMessage(text, f"{self._where}.{key}")

    def raw(self, key: str) -> object:
        """The field as it is."""
        if key not in self._map:
            raise self._fail(key, "missing")
        return self._map[key]

    def has(self, key: str) -> bool:
        """Whether the field is there and not nil."""
        return self._map.get(key) is not None

    def integer(self, key: str, low: int, high: int) -> int:
        """An integer from `low` to `high`, both inclusive."""
        value = self.raw(key)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._fail(key, f"must be an integer from {low} to {high}")
        return value

    def time_ms(self, key: str) -> int:
        """Milliseconds, never negative."""
        return self.integer(key, 0, MAX_TIME_MS)

    def optional_time_ms(self, key: str) -> int | None:
        """Milliseconds or nil."""
        return self.time_ms(key) if self.has(key) else None

    def number(self, key: str) -> float:
        """A finite number."""
        value = self.raw(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._fail(key, "must be a finite number")
        return float(value)

    def flag(self, key: str) -> bool:
        """A boolean."""
        value = self.raw(key)
        if not isinstance(value, bool):
            raise self._fail(key, "must be true or false")
        return value

    def text(self, key: str, limit: int, *, empty: bool = False) -> str:
        """Text of at most `limit` characters, without control characters other than newline."""
        return self._text(key, self.raw(key), limit, empty=empty)

    def _text(self, key: str, value: object, limit: int, *, empty: bool) -> str:
        if not isinstance(value, str) or len(value) > limit or not (value or empty):
            raise self._fail(key, f"must be text of {0 if empty else 1} to {limit} characters")
        if not value.isprintable() and any((ord(c) < 32 and c != "\n") or ord(c) == 127 for c in value):
            raise self._fail(key, "must not hold control characters")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        """One of the given texts."""
        value = self.raw(key)
        if value not in choices:
            raise self._fail(key, "must be one of " + ", ".join(choices))
        return str(value)

    def binary(self, key: str, limit: int, *, exactly: int | None = None) -> bytes:
        """Bytes, at most `limit` of them, or exactly so many."""
        value = self.raw(key)
        if not isinstance(value, bytes) or len(value) > limit:
            raise self._fail(key, f"must be at most {limit} bytes")
        if exactly is not None and len(value) != exactly:
            raise self._fail(key, f"must be {exactly} bytes")
        return value

    def array(self, key: str, limit: int) -> list[object]:
        """A list of at most `limit` elements."""
        value = self.raw(key)
        if not isinstance(value, list) or len(value) > limit:
            raise self._fail(key, f"must be a list of at most {limit}")
        return value

    def texts(self, key: str, limit: int, characters: int) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(self._text(key, item, characters, empty=True) for item in self.array(key, limit))

    def pairs(self, key: str, limit: int) -> list[tuple[object, object]]:
        """A list of two-element lists."""
        result: list[tuple[object, object]] = []
        for item in self.array(key, limit):
            if not isinstance(item, list) or len(item) != 2:
                raise self._fail(key, "must be a list of pairs")
            result.append((item[0], item[1]))
        return result

    def map(self, key: str, limit: int) -> dict[str, object]:
        """A map of at most `limit` entries."""
        value = self.raw(key)
        if not isinstance(value, dict) or len(value) > limit:
            raise self._fail(key, f"must be a map of at most {limit}")
        return value

    def text_map(self, key: str, limit: int, characters: int) -> dict[str, str]:
        """A map from text to text."""
        return {
            self._text(key, name, characters, empty=False): self._text(key, value, characters, empty=True)
            for name, value in self.map(key, limit).items()
        }

    def number_map(self, key: str, limit: int) -> dict[str, float]:
        """A map from text to finite numbers."""
        inner = Fields(self.map(key, limit), f"{self._where}.{key}")
        return {name: inner.number(name) for name in inner._map}
