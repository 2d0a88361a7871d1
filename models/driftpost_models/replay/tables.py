"""Recorded data as a table that is read in blocks: CSV with a header, .npz and .npy arrays."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from driftpost_models.errors import TableRefused
from driftpost_models.reference_files import MISSING_WORDS
from driftpost_sketches.schema import MAX_NAME, MAX_STREAMS

Numbers = npt.NDArray[np.float64]
Cells = Sequence[str] | Numbers
"""One column of a block: texts as they stand in the file, or numbers."""

BLOCK_ROWS = 4096
"""Rows in memory at a time: a megabyte or two of texts for 40 columns, whatever the file's length."""

MAX_LINE = 1 << 20
"""Characters of one line. More is no table, and must not fill the memory."""

MAX_ARRAY_BYTES = 4 << 30
"""Bytes that the arrays of one .npz may unpack to; longer recordings belong into a CSV, read in blocks."""

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True)
class RowBlock:
    """Some rows.

    Attributes:
        start: number of the first one, counted from 0.
        rows: how many.
        columns: their cells by column name.
        done: how far the file has been read, in the units of `Table.size`.
    """

    start: int
    rows: int
    columns: Mapping[str, Cells]
    done: int


class Table(Protocol):
    """Rows in time order.

    Attributes:
        path: the file.
        names: of the columns, in order.
        size: length of the file in some unit, for progress.
        notes: what a person should know about how it is read.
    """

    @property
    def path(self) -> Path: ...  # noqa: D102 - described by the class
    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def notes(self) -> Sequence[str]: ...  # noqa: D102

    def blocks(self) -> Iterator[RowBlock]:
        """The rows from the first one on; may be called again.

        Raises:
            TableRefused: a line can not be read.
        """
        ...


def open_table(path: Path) -> Table:
    """Look at a file and make it readable in blocks.

    Raises:
        TableRefused: it is missing, empty, of an unknown kind, or has no usable header.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise TableRefused(path, f"{what}; give a .csv with a header line, or an .npz")
    suffix = path.suffix.lower()
    try:
        if suffix == ".npz":
            return _open_npz(path)
        if suffix == ".npy":
            return _array_table(path, {"x": np.load(path, mmap_mode="r", allow_pickle=False)})
        if suffix in (".csv", ".txt"):
            return CsvTable(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TableRefused(path, f"can not be read: {error}") from error
    raise TableRefused(
        path, "is of an unknown kind; give a .csv with a header line, an .npz, or --bundle for raw tensors"
    )


class CsvTable:
    """A CSV file in UTF-8 with a header line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.notes: list[str] = []
        with path.open("rb") as file:
            header = next(self._lines(file), None)
        if header is None:
            raise TableRefused(path, "is empty; its first line must name the columns")
        self.names = self._named([name.strip() for name in header])

    def blocks(self) -> Iterator[RowBlock]:
        """See `Table`."""
        # Whoever stops reading half-way closes this: the lines first, then the file under them.
        with self.path.open("rb") as file, closing(self._lines(file)) as lines:
            next(lines, None)
            start = 0
            pending: list[list[str]] = []
            for line in lines:
                pending.append(line)
                if len(pending) == BLOCK_ROWS:
                    yield self._block(start, pending, file.tell())
                    start += len(pending)
                    pending = []
            if pending:
                yield self._block(start, pending, file.tell())

    def _block(self, start: int, lines: list[list[str]], done: int) -> RowBlock:
        columns = dict(zip(self.names, zip(*lines, strict=True), strict=True))
        return RowBlock(start, len(lines), columns, done)

    def _lines(self, file: BinaryIO) -> Generator[list[str], None, None]:
        """Lines that are not blank, each with as many fields as the header."""
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        reader = csv.reader(_short_lines(text, self.path))
        width = 0
        try:
            for fields in reader:
                if not fields:
                    continue
                width = width or len(fields)
                if len(fields) != width:
                    raise TableRefused(self.path, _ragged(len(fields), width), line=reader.line_num)
                yield fields
        except UnicodeDecodeError as error:
            raise TableRefused(
                self.path,
                f"is not UTF-8 (byte 0x{error.object[error.start]:02x} after line {reader.line_num}); "
                "convert it, for example with: iconv -f WINDOWS-1252 -t UTF-8",
            ) from error
        except csv.Error as error:
            raise TableRefused(
                self.path, f"{error}; is a quotation mark left open?", line=reader.line_num
            ) from error
        finally:
            text.detach()

    def _named(self, header: list[str]) -> tuple[str, ...]:
        if len(header) == 1:
            for character, words in _SEPARATORS.items():
                if character in header[0]:
                    raise TableRefused(self.path, f"seems to be separated by {words}; separate it by commas")
        if all(_is_number(name) for name in header):
            raise TableRefused(self.path, "has no header line; name the columns in its first line")
        names = []
        for place, name in enumerate(header, start=1):
            if not name:
                self.notes.append(f"{self.path.name}: column {place} has no name and is called column{place}")
            names.append(name or f"column{place}")
        return _checked_names(self.path, names)


@dataclass
class ArrayTable:
    """Columns that are in memory, or mapped from a file."""

    path: Path
    arrays: Mapping[str, npt.NDArray[np.generic]]
    size: int
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """See `Table`."""
        return tuple(self.arrays)

    def blocks(self) -> Iterator[RowBlock]:
        """See `Table`."""
        for start in range(0, self.size, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, self.size)
            columns = {name: _cells(array[start:stop]) for name, array in self.arrays.items()}
            yield RowBlock(start, stop - start, columns, stop)


def numbers(cells: Cells) -> tuple[Numbers, list[int]]:
    """Cells as numbers.

    Returns:
        float64[rows], NaN where there is none; and the places of cells that are neither numbers nor missing.
    """
    if isinstance(cells, np.ndarray):
        return cells, []
    try:
        return np.array([float(cell) for cell in cells]), []
    except ValueError:
        pass  # one by one below, to see which
    values = np.empty(len(cells))
    strange = []
    for place, cell in enumerate(cells):
        try:
            values[place] = float(cell)
        except ValueError:
            values[place] = np.nan
            if not is_missing(cell):
                strange.append(place)
    return values, strange


def is_missing(cell: str) -> bool:
    """Whether a text stands for a missing value."""
    return cell.strip().lower() in MISSING_WORDS


def _short_lines(text: io.TextIOWrapper, path: Path) -> Iterator[str]:
    while line := text.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise TableRefused(path, f"has a line of more than {MAX_LINE:,} characters; it is no table")
        yield line


def _ragged(found: int, width: int) -> str:
    text = f"{found} fields, the header has {width}"
    if found == width + 1:
        return text + "; if each line begins with its number, put a name for that at the front of the header"
    return text + "; mend the line, or quote fields that hold commas"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _checked_names(path: Path, names: list[str]) -> tuple[str, ...]:
    if len(names) > MAX_STREAMS:
        raise TableRefused(path, f"has {len(names):,} columns, at most {MAX_STREAMS:,} are watched at a time")
    seen: set[str] = set()
    for name in names:
        if len(name) > MAX_NAME:
            raise TableRefused(
                path, f"has a column whose name is longer than {MAX_NAME} characters: {name[:40]!r}..."
            )
        if name in seen:
            raise TableRefused(path, f"has two columns called {name!r}; name them apart")
        seen.add(name)
    return tuple(names)


def _open_npz(path: Path) -> ArrayTable:
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > MAX_ARRAY_BYTES:
        raise TableRefused(
            path, f"unpacks to {size / 2**30:.1f} GiB, at most {MAX_ARRAY_BYTES >> 30} are read; give a .csv"
        )
    # Opened here, because numpy leaves a file that is no archive open.
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        return _array_table(path, {str(name): file[name] for name in file.files})


def _array_table(path: Path, arrays: Mapping[str, npt.NDArray[np.generic]]) -> ArrayTable:
    columns: dict[str, npt.NDArray[np.generic]] = {}
    names: list[str] = []
    notes = []
    for name, array in arrays.items():
        if array.ndim == 0:
            notes.append(f"{path.name}: {name!r} is a single value and is left out")
            continue
        if array.ndim > 2:
            raise TableRefused(
                path,
                f"the array {name!r} has rows of shape {list(array.shape[1:])}; a table has arrays of "
                "[rows] or [rows, columns]. Tensors for a model are replayed with --bundle",
            )
        if array.dtype.kind not in "biufUS":
            raise TableRefused(path, f"the array {name!r} holds {array.dtype}, neither numbers nor texts")
        flat = array[:, None] if array.ndim == 1 else array
        for place in range(flat.shape[1]):
            column = name if array.ndim == 1 else f"{name}{place}"
            names.append(column)
            columns[column] = flat[:, place]
    if not columns:
        raise TableRefused(path, "holds no arrays; save one array for each column, or one of [rows, columns]")
    _checked_names(path, names)
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        shortest, longest = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
        raise TableRefused(
            path,
            f"its arrays differ in length ({shortest!r} has {lengths[shortest]:,} rows, {longest!r} "
            f"{lengths[longest]:,}); each must have one entry for each row",
        )
    return ArrayTable(path, columns, next(iter(lengths.values())), notes)


def _cells(array: npt.NDArray[np.generic]) -> Cells:
    if array.dtype.kind == "S":
        return [bytes(cell).decode("utf-8", "replace") for cell in array.tolist()]
    if array.dtype.kind == "U":
        return [str(cell) for cell in array.tolist()]
    return np.asarray(array, dtype=np.float64)
