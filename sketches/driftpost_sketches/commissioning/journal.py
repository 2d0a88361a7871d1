"""Second phase of commissioning: how rows follow each other, kept in bounded space.

Each row is kept as its drift cells and whether it repeats the row before, a byte a stream: never its
values. While they fit, a calibration fitted on the journal is that of the same rows fitted at once, to the
last digit. Beyond that, every second span of rows is let go, again and again, so that what stays is spread
evenly over all that was seen; sums of cells over longer and longer blocks keep the memory that reaches
beyond a span.

The store of a device is written sparingly: a span is handed out once, when it is complete, and only the
open one with every window.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from driftpost_sketches.binning import Binner
from driftpost_sketches.cells import CELLS
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.packing import Reader, blob_bytes
from driftpost_sketches.schema import Schema

SPAN = 512  # rows that stay or go together: longer than the memory of most chains
MAX_CELLS = 4 << 20  # bytes of rows in memory
MAX_ROWS = 1 << 17  # kept; more do not sharpen a calibration noticeably
MIN_SPANS = 8  # kept even with thousands of streams
MAX_BLOCKS = 512  # sums of cells; neighbours are added up when there are more
REPEAT, NOT_MINE = 0x20, 0x80  # bits above the cell's five
MAX_SEEN = 1 << 46  # rows; as in a window

Rows = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int64]
_HEAD = struct.Struct(
    "<QIIII"
)  # rows, stride as power of two, blocks, rows of a block as power of 2, open rows


@dataclass
class Parts:
    """What has to be stored anew: parts by name, and names of those to be forgotten.

    Attributes:
        put: bytes by name.
        drop: names, some of which may never have been stored.
    """

    put: dict[str, bytes] = field(default_factory=dict)
    drop: set[str] = field(default_factory=set)

    def add(self, later: Parts) -> None:
        """Takes in what came after."""
        self.put = {name: data for name, data in self.put.items() if name not in later.drop} | later.put
        self.drop = (self.drop | later.drop) - set(later.put)


class Journal:
    """Rows of one schema as drift cells.

    Args:
        schema: all of whose scalar streams are tracked.

    Attributes:
        schema: as given.
        rows: seen so far.
        stride: one span in this many is kept.
        spans: uint8[SPAN, streams] by span number.
        blocks: int64[streams, CELLS] each, cell counts over `block_rows` rows.
        block_rows: rows of a block.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        streams = len(schema)
        self._binner = Binner(schema)
        self._partial = np.array([s.partial for s in schema.streams], dtype=bool)
        self._most = max(min(MAX_ROWS, MAX_CELLS // max(streams, 1)) // SPAN, MIN_SPANS)
        self.rows = 0
        self.stride = 1
        self.spans: dict[int, Rows] = {}
        self.blocks: list[Sums] = []
        self.block_rows = SPAN
        self._open: list[Rows] = []
        self._open_rows = 0
        self._block = np.zeros((streams, CELLS), dtype=np.int64)
        self._block_filled = 0
        self._last = np.full(streams, np.nan)
        self._changed = Parts()

    @property
    def kept_rows(self) -> int:
        """Rows that are there one by one."""
        return len(self.spans) * SPAN + (self._open_rows if self._keeps(self.rows // SPAN) else 0)

    def update(self, values: npt.NDArray[np.float64]) -> None:
        """Takes rows in time order: float64[rows, streams]."""
        for start in range(0, len(values), SPAN):
            self._add(np.ascontiguousarray(values[start : start + SPAN].T))

    def break_sequence(self) -> None:
        """Says that the next row does not follow the last one in time."""
        self._last.fill(np.nan)

    def all_kept(self) -> Rows:
        """uint8[rows, streams]: the rows that are kept, in time order."""
        kept = [self.spans[number] for number in sorted(self.spans)]
        if self._keeps(self.rows // SPAN):
            kept += self._open
        return np.concatenate([np.zeros((0, len(self.schema)), np.uint8), *kept])

    def head(self) -> bytes:
        """What changes with every row; with the parts it is the whole state."""
        filled = np.concatenate([np.zeros((0, len(self.schema)), np.uint8), *self._open])
        return b"".join(
            [
                _HEAD.pack(self.rows, self.stride.bit_length() - 1, len(self.blocks),
                           (self.block_rows // SPAN).bit_length() - 1, self._open_rows),
                struct.pack("<I", self._block_filled),
                self._block.astype("<i8").tobytes(),
                self._last.astype("<f8").tobytes(),
                blob_bytes(zlib.compress(np.ascontiguousarray(filled.T).tobytes(), 1)),
            ]
        )  # fmt: skip

    def changes(self) -> Parts:
        """Parts that came or went since this was last asked."""
        changed, self._changed = self._changed, Parts()
        return changed

    def restore(self, head: bytes, parts: Mapping[str, bytes]) -> None:
        """Takes up a state; the row after it does not follow its last one.

        Raises:
            MalformedSketch: head and parts are no such state.
        """
        streams = len(self.schema)
        reader = Reader(head)
        rows, lg_stride, blocks, lg_block, open_rows = _HEAD.unpack(reader.take(_HEAD.size))
        (filled,) = struct.unpack("<I", reader.take(4))
        if rows > MAX_SEEN or lg_stride > 40 or lg_block > 40 or blocks > MAX_BLOCKS or open_rows >= SPAN:
            raise MalformedSketch("a journal's head contradicts itself")
        block = reader.array("<i8", streams, CELLS)
        last = reader.array("<f8", streams)
        open_ = _inflated(reader.blob(SPAN * streams + 4096), streams, open_rows)
        reader.finish()
        stride, block_rows = 1 << lg_stride, SPAN << lg_block
        wanted = range(0, rows // SPAN, stride)
        if len(wanted) > self._most or filled >= block_rows or open_rows != rows % SPAN:
            raise MalformedSketch("a journal's head contradicts itself")
        try:
            spans = {n: _inflated(parts[_span(n)], streams, SPAN) for n in wanted}
            sums = [
                np.frombuffer(_plain(parts[_block(lg_block, i)], 8 * streams * CELLS), "<i8")
                .reshape(streams, CELLS)
                .astype(np.int64)
                for i in range(blocks)
            ]
        except KeyError as error:
            raise MalformedSketch(f"a journal lacks its part {error}") from error
        if (block < 0).any() or any((each < 0).any() for each in sums):
            raise MalformedSketch("a journal counts less than nothing")
        self.rows, self.stride, self.spans = rows, stride, spans
        self.blocks, self.block_rows = sums, block_rows
        self._open, self._open_rows = ([open_] if open_rows else []), open_rows
        self._block, self._block_filled = block, filled
        self._last = last
        self._changed = Parts()

    def _keeps(self, span: int) -> bool:
        return span % self.stride == 0

    def _add(self, values: npt.NDArray[np.float64]) -> None:
        """Adds float64[streams, rows], at most a span of them."""
        finite = np.isfinite(values)
        cells = self._binner.fold(self._binner.bins(values), None if finite.all() else finite)
        before = np.concatenate([self._last[:, None], values[:, :-1]], axis=1)
        coded = cells.astype(np.uint8) | np.where(values == before, REPEAT, 0).astype(np.uint8)
        last = values[:, -1].copy()
        for i in np.flatnonzero(self._partial):
            mine = ~np.isnan(values[i])
            own = values[i, mine]
            linked = np.concatenate([self._last[i : i + 1], own])
            coded[i] = NOT_MINE
            coded[i, mine] = cells[i, mine].astype(np.uint8) | np.where(own == linked[:-1], REPEAT, 0).astype(
                np.uint8
            )
            last[i] = linked[-1]
        self._last = last
        taken = 0
        while taken < coded.shape[1]:
            room = SPAN - self._open_rows
            piece = np.ascontiguousarray(coded[:, taken : taken + room].T)
            taken += len(piece)
            self._open.append(piece)
            self._open_rows += len(piece)
            self.rows += len(piece)
            if self._open_rows == SPAN:
                self._close_span()

    def _close_span(self) -> None:
        number = self.rows // SPAN - 1
        rows = np.concatenate(self._open)
        self._open, self._open_rows = [], 0
        self._sum(rows)
        if not self._keeps(number):
            return
        self.spans[number] = rows
        data = zlib.compress(np.ascontiguousarray(rows.T).tobytes(), 6)
        self._changed.add(Parts(put={_span(number): data}))
        while len(self.spans) > self._most:
            self.stride *= 2
            gone = [n for n in self.spans if not self._keeps(n)]
            for n in gone:
                del self.spans[n]
            self._changed.add(Parts(drop={_span(n) for n in gone}))

    def _sum(self, rows: Rows) -> None:
        streams = len(self.schema)
        mine = rows < NOT_MINE
        places = (rows & (REPEAT - 1)).astype(np.int64) + np.arange(streams) * CELLS
        counts = np.bincount(places[mine], minlength=streams * CELLS)
        self._block += counts.reshape(streams, CELLS)
        self._block_filled += SPAN
        if self._block_filled < self.block_rows:
            return
        self.blocks.append(self._block)
        self._put_block(len(self.blocks) - 1)
        self._block = np.zeros_like(self._block)
        self._block_filled = 0
        if len(self.blocks) == MAX_BLOCKS:
            level = (self.block_rows // SPAN).bit_length() - 1
            self._changed.add(Parts(drop={_block(level, i) for i in range(MAX_BLOCKS)}))
            self.blocks = [a + b for a, b in zip(self.blocks[::2], self.blocks[1::2], strict=True)]
            self.block_rows *= 2
            for i in range(len(self.blocks)):
                self._put_block(i)

    def _put_block(self, i: int) -> None:
        level = (self.block_rows // SPAN).bit_length() - 1
        data = zlib.compress(self.blocks[i].astype("<i8").tobytes(), 6)
        self._changed.add(Parts(put={_block(level, i): data}))


def _span(number: int) -> str:
    return f"span-{number}"


def _block(level: int, number: int) -> str:
    return f"block-{level}-{number}"


def _inflated(data: bytes, streams: int, rows: int) -> Rows:
    """A span from its bytes: uint8[rows, streams]."""
    flat = np.frombuffer(_plain(data, streams * rows), np.uint8)
    coded = np.ascontiguousarray(flat.reshape(streams, rows).T)
    if ((coded & (REPEAT - 1)) >= CELLS).any():
        raise MalformedSketch("a journal's row lies in no cell")
    return coded


def _plain(data: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, size + 1)
    except zlib.error as error:
        raise MalformedSketch(f"a journal's part can not be decompressed: {error}") from error
    if len(plain) != size or not inflater.eof:
        raise MalformedSketch("a journal's part has another length")
    return plain
