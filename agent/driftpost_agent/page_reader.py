"""Reads rows out of the pages of a damaged SQLite file, without its schema and without the pages above them.

A row lies in a leaf of its table and, where it is long, in a chain of overflow pages. Both can be read where
the schema or an inner page is damaged, which hides everything below it from SQLite. What is read is a guess
until a checksum of its own confirms it: a leaf that was given back may still hold rows that were deleted, so
pages known to be free are left out, and whoever reads has to weigh versions of the same row.

The format: https://www.sqlite.org/fileformat2.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

Value = int | float | str | bytes | None

_LEAF = 0x0D
_FILE_HEADER_BYTES = 100
_FREE = 2  # a pointer map's word for a page that is not in use
_POINTER = struct.Struct(">BI")
_WAL_HEADER = struct.Struct(">8I")
_FRAME_HEADER = struct.Struct(">6I")
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
# Bytes of a file that is read at once, and of a row: more than any store of an agent has.
_MOST_FILE_BYTES = 256 << 20
_MOST_ROW_BYTES = 1 << 20


class Pages:
    """Pages of a database as they were last committed, in the file or its log.

    Args:
        path: of the file.
        page_bytes: size of a page; the file's own word for it may be damaged.
    """

    def __init__(self, path: Path, page_bytes: int) -> None:
        self._size = page_bytes
        self._content = _read(path)
        self._logged = _logged(_read(path.with_name(path.name + "-wal")), page_bytes)
        self._count = max([len(self._content) // page_bytes, *self._logged])

    def rows(self) -> Iterator[tuple[int, list[Value]]]:
        """Row id and values of whatever looks like a row of a table, in the order of the pages."""
        free = self._free()
        for number in range(1, self._count + 1):
            if number not in free:
                yield from self._rows_of(number)

    def _page(self, number: int) -> bytes:
        return self._logged.get(number) or self._content[(number - 1) * self._size : number * self._size]

    def _rows_of(self, number: int) -> Iterator[tuple[int, list[Value]]]:
        page = self._page(number)
        start = _FILE_HEADER_BYTES if number == 1 else 0
        if len(page) < self._size or page[start] != _LEAF:
            return
        (cells,) = struct.unpack_from(">H", page, start + 3)
        if start + 8 + 2 * cells > self._size:
            return
        for (cell,) in struct.iter_unpack(">H", page[start + 8 : start + 8 + 2 * cells]):
            try:
                length, at = _varint(page, cell)
                row, at = _varint(page, at)
                values = _record(self._payload(page, at, length))
            except (IndexError, ValueError, struct.error):
                continue
            yield row, values

    def _payload(self, page: bytes, at: int, length: int) -> bytes:
        """A row's bytes, from its leaf and the chain that goes on from there."""
        if not 0 < length <= _MOST_ROW_BYTES:
            raise ValueError("no row is so long")
        size, most = self._size, self._size - 35
        if length <= most:
            local = length
        else:
            least = (size - 12) * 32 // 255 - 23
            local = least + (length - least) % (size - 4)
            local = local if local <= most else least
        if at + local > size:
            raise ValueError("the row does not lie in its page")
        parts, missing = [page[at : at + local]], length - local
        following = page[at + local : at + local + 4]
        while missing > 0:
            (number,) = struct.unpack(">I", following)
            more = self._page(number) if 1 < number <= self._count else b""
            if len(more) < size:
                raise ValueError("the row's chain is broken")
            parts.append(more[4 : 4 + min(missing, size - 4)])
            missing -= size - 4
            following = more[:4]
        return b"".join(parts)

    def _free(self) -> set[int]:
        """Pages that hold nothing any more, as far as the list of them or a pointer map says so."""
        free: set[int] = set()
        first = self._page(1)
        trunk = int.from_bytes(first[32:36], "big") if len(first) == self._size else 0
        while 1 < trunk <= self._count and trunk not in free:
            free.add(trunk)
            page = self._page(trunk)
            following, leaves = struct.unpack_from(">II", page)
            if leaves <= (self._size - 8) // 4:
                free.update(struct.unpack_from(f">{leaves}I", page, 8))
            trunk = following
        mapped = self._size // _POINTER.size
        for number in range(2, self._count + 1, mapped + 1):
            page = self._page(number)
            entries = list(_POINTER.iter_unpack(page[: mapped * _POINTER.size]))
            # A damaged map says nothing.
            if all(kind <= 5 for kind, _ in entries):
                free.update(number + 1 + i for i, (kind, _) in enumerate(entries) if kind == _FREE)
        return free


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_FILE_BYTES)
    except OSError:
        return b""


def _logged(log: bytes, page_bytes: int) -> dict[int, bytes]:
    """Pages of a log up to its last commit."""
    pages: dict[int, bytes] = {}
    if len(log) < _WAL_HEADER.size:
        return pages
    salts = _WAL_HEADER.unpack_from(log)[4:6]
    uncommitted: dict[int, bytes] = {}
    step = _FRAME_HEADER.size + page_bytes
    for at in range(_WAL_HEADER.size, len(log) - step + 1, step):
        number, size_after, *rest = _FRAME_HEADER.unpack_from(log, at)
        if tuple(rest[:2]) != salts or not 0 < number <= _MOST_FILE_BYTES // page_bytes:
            break
        uncommitted[number] = log[at + _FRAME_HEADER.size : at + step]
        if size_after:
            pages |= uncommitted
            uncommitted = {}
    return pages


def _record(payload: bytes) -> list[Value]:
    header, at = _varint(payload, 0)
    kinds = []
    while at < header:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values: list[Value] = []
    for kind in kinds:
        value, at = _value(payload, at, kind)
        values.append(value)
    if at != len(payload):
        raise ValueError("the values do not fill the row")
    return values


def _value(payload: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in {8, 9}:
        return kind - 8, at
    if kind in {10, 11}:
        raise ValueError("a kind that is not in use")
    size = _INTEGER_BYTES.get(kind, 8 if kind == 7 else (kind - 12) // 2)
    part = payload[at : at + size]
    if len(part) < size:
        raise ValueError("a value that goes beyond its row")
    if kind == 7:
        return float(struct.unpack(">d", part)[0]), at + size
    if kind < 7:
        return int.from_bytes(part, "big", signed=True), at + size
    return (part.decode() if kind % 2 else part), at + size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """SQLite's number of one to nine bytes, and where it ends."""
    value = 0
    for i in range(8):
        byte = data[at + i]
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            return value, at + i + 1
    value = value << 8 | data[at + 8]
    return value - (1 << 64) if value >= 1 << 63 else value, at + 9
