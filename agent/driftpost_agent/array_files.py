"""Inputs in files: .npy, .npz and .csv, read with a bound on what they may unpack to.

Nothing in a file is believed before it is checked: not the size in its header, not the number of its arrays.
Pickles are never loaded.
"""

from __future__ import annotations

import csv
import io
import lzma
import math
import tokenize
import zipfile
import zlib
from array import array as packed_array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from driftpost_models.runtime import TensorSpec

SUFFIXES = (".npy", ".npz", ".csv")
# An archive with more arrays than a model has inputs is something else.
MAX_ARRAYS = 256
# Columns of a table; a wider one is an image, and belongs into a .npy.
MAX_COLUMNS = 100_000
# Characters of a table's line: that many columns of numbers as long as they are ever written.
MAX_LINE_CHARS = 32 * MAX_COLUMNS
# Begins each entry of an archive's directory, which is read as a whole before anybody can count it.
_ENTRY = b"PK\x01\x02"
# What numpy and zipfile are known to raise on content that was damaged, or made to do damage.
_DAMAGE = (
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    EOFError,
    OSError,
    SyntaxError,
    MemoryError,
    RuntimeError,  # also RecursionError and NotImplementedError
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


class FileRefused(Exception):
    """A file that holds no input of this model; the text says why, for a person."""


def read_inputs(
    name: str, content: bytes, specs: Sequence[TensorSpec], max_bytes: int
) -> dict[str, NDArray[Any]]:
    """The model's inputs out of a file.

    A .npy is the only input of a model that has one, a .npz has an array for each input by its name, a .csv
    has a row for each inference and a column for each feature of a model with one input of rows. A single row
    may come without its batch dimension.

    Args:
        name: the file's, for its suffix.
        content: of the file.
        specs: the model's inputs.
        max_bytes: that the arrays may have together.

    Raises:
        FileRefused: it is malformed, too large, or does not fit the model.
    """
    suffix = name[name.rfind(".") :].lower()
    if suffix == ".npy":
        arrays = {_only(specs).name: _array(io.BytesIO(content), len(content), max_bytes)}
    elif suffix == ".npz":
        arrays = _archive(content, max_bytes)
    elif suffix == ".csv":
        arrays = {_only(specs).name: _table(content, _only(specs), max_bytes)}
    else:
        raise FileRefused(f"files must end in {', '.join(SUFFIXES)}")
    known = {spec.name: spec for spec in specs}
    return {name: _with_batch(array, known.get(name)) for name, array in arrays.items()}


def _only(specs: Sequence[TensorSpec]) -> TensorSpec:
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise FileRefused(f"the model has {len(specs)} inputs: give an .npz with {names}")
    return specs[0]


def _array(file: io.BytesIO | Any, size: int, max_bytes: int) -> NDArray[Any]:
    """One array, its header checked against what there is before anything is allocated."""
    try:
        version = npy.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = npy.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, _, dtype = npy.read_array_header_2_0(file)
        else:
            raise FileRefused(f"the array has format version {version}; save it with numpy.save")
    except _DAMAGE as error:
        raise FileRefused(f"it is no array: {_words(error)}") from error
    if dtype.hasobject or dtype.kind not in "biuf":
        raise FileRefused(f"it holds {dtype}, not numbers")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > max_bytes:
        raise FileRefused(
            f"the array has {wanted} bytes, more than the {max_bytes} allowed (folder.max_file_mb)"
        )
    there = size - file.tell()
    if wanted > there:
        raise FileRefused(f"the array should have {wanted} bytes and there are {there}: it was cut short")
    try:
        file.seek(0)
        found: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except _DAMAGE as error:
        raise FileRefused(f"the array can't be read: {_words(error)}") from error
    return found


def _archive(content: bytes, max_bytes: int) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    # Twice as many: compressed bytes may happen to look like an entry.
    if (entries := content.count(_ENTRY)) > 2 * MAX_ARRAYS:
        raise FileRefused(f"the archive has about {entries} members; at most {MAX_ARRAYS} are read")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if len(members) > MAX_ARRAYS:
                raise FileRefused(f"the archive has {len(members)} members; at most {MAX_ARRAYS} are read")
            left = max_bytes
            for member in members:
                if not member.filename.endswith(".npy"):
                    raise FileRefused(f"the archive holds {member.filename[:80]!r}, which is no array")
                # Headers of an archive may lie: no more is unpacked than is allowed.
                if member.file_size > left + 4096:
                    raise FileRefused(
                        f"the archive unpacks to more than {max_bytes} bytes (folder.max_file_mb)"
                    )
                with archive.open(member) as stream:
                    unpacked = stream.read(left + 4097)
                array = _array(io.BytesIO(unpacked), len(unpacked), left)
                left -= array.nbytes
                name = member.filename.removesuffix(".npy")
                if name in arrays:
                    raise FileRefused(f"the archive has {name[:80]!r} twice")
                arrays[name] = array
    except _DAMAGE as error:
        raise FileRefused(f"it is no archive of arrays: {_words(error)}") from error
    if not arrays:
        raise FileRefused("the archive is empty")
    return arrays


def _table(content: bytes, spec: TensorSpec, max_bytes: int) -> NDArray[Any]:
    """Rows of numbers, with or without a line of names before them; an empty cell is a missing value."""
    rows = packed_array("d")  # a list of numbers takes four times as much
    width: int | None = None
    cells = max_bytes // max(1, spec.dtype.itemsize)
    try:
        for number, cell_texts in enumerate(csv.reader(_lines(content), strict=True), 1):
            if not cell_texts:
                continue
            try:
                row = [float(cell) if cell.strip() else math.nan for cell in cell_texts]
            except ValueError:
                if rows or width is not None:
                    raise FileRefused(f"line {number} holds something that is no number") from None
                width = len(cell_texts)
                continue
            width = len(row) if width is None else width
            if len(row) != width or width > MAX_COLUMNS:
                raise FileRefused(f"line {number} has {len(row)} columns, those before it {width}")
            rows.extend(row)
            if len(rows) > cells:
                raise FileRefused(f"the table has more than {cells} cells (folder.max_file_mb)")
    except csv.Error as error:
        raise FileRefused(f"it is no table: {error}") from error
    except UnicodeDecodeError as error:
        raise FileRefused(f"it is not UTF-8 text: byte {error.start}") from error
    if not rows or width is None:
        raise FileRefused("the table has no rows")
    table = np.frombuffer(rows, np.float64).reshape(-1, width)
    if spec.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return table.astype(spec.dtype)
    limits = np.iinfo(spec.dtype.str) if spec.dtype.kind in "iu" else None
    if limits is None or not (np.isfinite(table).all() and (table == np.round(table)).all()):
        raise FileRefused(f"the model takes {spec.dtype.name}, and the table has other numbers")
    if table.min() < limits.min or table.max() > limits.max:
        raise FileRefused(f"the table has numbers outside of {spec.dtype.name}")
    return table.astype(spec.dtype)


def _lines(content: bytes) -> Iterator[str]:
    """The lines of a text, without a second copy of it; one that never ends is refused before it is split."""
    with io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="") as text:
        while line := text.readline(MAX_LINE_CHARS + 1):
            if len(line) > MAX_LINE_CHARS:
                raise FileRefused(f"a line has more than {MAX_LINE_CHARS} characters")
            yield line


def _with_batch(array: NDArray[Any], spec: TensorSpec | None) -> NDArray[Any]:
    if spec is not None and spec.batched and array.ndim == len(spec.shape) - 1:
        return array[np.newaxis]
    return array


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
