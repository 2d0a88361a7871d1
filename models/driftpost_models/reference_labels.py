"""Class labels of reference rows."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from driftpost_models.errors import ReferenceRefused

Labels = npt.NDArray[np.int64]


def labels_from_values(values: Sequence[str], classes: tuple[str, ...]) -> tuple[Labels, tuple[str, ...]]:
    """Class numbers of texts: numbers as they are, names by their place in `classes` or in the alphabet.

    Returns:
        `int64[len(values)]`, -1 where the text is empty; and the class names, where they are known.

    Raises:
        ReferenceRefused: a name is none of the classes, or a number is below 0.
    """
    known = sorted({value for value in values if value != ""})
    if known and all(_whole(value) is not None for value in known):
        numbers = {value: _whole(value) or 0 for value in known}
        if min(numbers.values()) < 0:
            raise ReferenceRefused("a label is below 0; classes are counted from 0")
    else:
        names = classes or tuple(known)
        lookup = {name.casefold(): number for number, name in enumerate(names)}
        strange = [value for value in known if value.casefold() not in lookup]
        if strange:
            raise ReferenceRefused(f"the label {strange[0]!r} is none of the classes ({', '.join(names)})")
        numbers = {value: lookup[value.casefold()] for value in known}
        classes = names
    return np.array([numbers.get(value, -1) for value in values], np.int64), classes


def labels_from_file(
    path: Path, rows: int, names: Sequence[str], classes: tuple[str, ...]
) -> tuple[Labels, tuple[str, ...]]:
    """Labels from .npy, or from .csv or .txt whose last column is the label.

    Args:
        path: the file; a first column may hold file names, a first line may be a header.
        rows: how many rows the reference has.
        names: the reference's file names in order, empty where it is no folder.
        classes: class names, empty where unknown.

    Raises:
        ReferenceRefused: unreadable, or not a label for every row.
    """
    try:
        if path.suffix.lower() == ".npy":
            values = [str(v) for v in np.load(path, allow_pickle=False).reshape(-1).tolist()]
            return _counted(path, labels_from_values(values, classes), rows)
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [[cell.strip() for cell in line] for line in csv.reader(file) if line]
    except (OSError, ValueError, UnicodeDecodeError, csv.Error) as error:
        raise ReferenceRefused(f"the labels {path} can not be read: {error}") from error
    by_name = {line[0]: line[-1] for line in lines if len(line) > 1}
    if names and any(name in by_name for name in names):
        absent = [name for name in names if name not in by_name]
        if absent:
            raise ReferenceRefused(f"{path.name} has no label for {absent[0]!r} ({len(absent)} are missing)")
        return labels_from_values([by_name[name] for name in names], classes)
    values = [line[-1] for line in lines]
    if len(values) == rows + 1:
        values = values[1:]  # a header
    return _counted(path, labels_from_values(values, classes), rows)


def _counted(path: Path, found: tuple[Labels, tuple[str, ...]], rows: int) -> tuple[Labels, tuple[str, ...]]:
    if len(found[0]) != rows:
        raise ReferenceRefused(f"{path.name} has {len(found[0])} labels for {rows} rows")
    return found


def _whole(text: str) -> int | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None
