"""Reading reference data from files: .npz, .npy, .csv, a folder of images or of raw tensors."""

from __future__ import annotations

import csv
import hashlib
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from driftpost_models.errors import ConfigError, ReferenceRefused
from driftpost_models.image_files import IMAGE_SUFFIXES, ImageReader, ImageScale
from driftpost_models.reference import Reference, fit_rows, from_arrays
from driftpost_models.reference_labels import labels_from_file, labels_from_values
from driftpost_models.reference_scale import image_scale_note, scale_note
from driftpost_models.runtime import Array, TensorSpec
from driftpost_models.times import all_seconds, regular

MISSING_WORDS = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})

# Files that lie beside data and are no data.
_COMPANIONS = frozenset({".csv", ".txt", ".md", ".json", ".toml", ".yaml", ".yml"})


@dataclass(frozen=True)
class ReferenceOptions:
    """How to read.

    Attributes:
        labels: a file with labels, or the name of a column or array in the reference itself.
        classes: class names in the order of the model's scores.
        image_scale: what black and white become; None where nothing was said.
        columns: columns to take by input name; empty for all.
        layouts: layouts of image inputs by name, where they were given.
        time: column or array of the reference that holds the time of each row.
        start: time of the first row, where no column holds it; rows then follow at `row_seconds`.
        row_seconds: seconds between rows, with `start`.
        local: read times as local ones, without their zone.
    """

    labels: str | None = None
    classes: tuple[str, ...] = ()
    image_scale: ImageScale | None = None
    columns: Mapping[str, tuple[str, ...]] | None = None
    layouts: Mapping[str, str] | None = None
    time: str | None = None
    start: str | None = None
    row_seconds: float | None = None
    local: bool = False

    def __post_init__(self) -> None:
        if (self.start is None) != (self.row_seconds is None) or None not in (self.start, self.time):
            raise ConfigError(
                "--start", "goes with --row-seconds, where no column (--time) has the times of the rows"
            )


def load_reference(path: Path, inputs: Sequence[TensorSpec], options: ReferenceOptions) -> Reference:
    """Read reference data for a model.

    Args:
        path: .npz, .npy or .csv file, or a folder.
        inputs: what the model takes.
        options: how to read.

    Raises:
        ReferenceRefused: unreadable, or it does not fit the model; says what would.
    """
    reference = _load(path, inputs, options)
    if options.start is not None and options.row_seconds is not None:
        times = regular(options.start, options.row_seconds, reference.rows, local=options.local)
        reference.set_times(times)
    if options.time is not None and reference.times is None:
        raise _without_times(path.name, options.time)
    return reference


def _without_times(name: str, wanted: str, there: Sequence[str] = ()) -> ReferenceRefused:
    has = f" (it has: {', '.join(there)})" if there else ""
    return ReferenceRefused(
        f"{name} has no column {wanted!r} with the times of its rows{has}: give one, or --start and "
        "--row-seconds"
    )


def _load(path: Path, inputs: Sequence[TensorSpec], options: ReferenceOptions) -> Reference:
    if path.is_dir():
        return _folder(path, inputs, options)
    if not path.is_file():
        raise ReferenceRefused(f"there is no reference at {path}")
    suffix = path.suffix.lower()
    if suffix in {".npz", ".npy"} and not path.stat().st_size:
        raise ReferenceRefused(
            f"{path} can not be read: it is empty; save the data again, and see that the disk has room"
        )
    try:
        if suffix == ".npz":
            return _npz(path, inputs, options)
        if suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return _arrays({path.stem: array}, _sha256(path), "npy", inputs, options)
        if suffix == ".csv":
            return _csv(path, inputs, options)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise ReferenceRefused(f"{path} can not be read: {error}") from error
    raise ReferenceRefused(
        f"{path.name}: unknown kind of reference; "
        "give .npz, .npy, .csv, or a folder of images or .bin tensors"
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _npz(path: Path, inputs: Sequence[TensorSpec], options: ReferenceOptions) -> Reference:
    # Opened here, because numpy leaves a file that is no archive open.
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        arrays = {str(name): file[name] for name in file.files}
    return _arrays(arrays, _sha256(path), "npz", inputs, options)


def _arrays(
    arrays: dict[str, Array],
    sha256: str,
    source: str,
    inputs: Sequence[TensorSpec],
    options: ReferenceOptions,
) -> Reference:
    given = dict(arrays)
    labels = None
    classes = options.classes
    if options.labels is not None and options.labels in given:
        labels, classes = labels_from_values([str(v) for v in given.pop(options.labels).tolist()], classes)
    else:
        _check_labels(options)
    times = None
    if options.time is not None:
        if options.time not in given:
            raise _without_times("the reference", options.time, tuple(given))
        times = _times(given.pop(options.time), options)
    names = [spec.name for spec in inputs]
    if not given:
        raise ReferenceRefused(
            f"the file holds no array for the model's inputs: save one as {names[0]!r}, with one row for "
            f"each inference (np.savez(path, **{{{names[0]!r}: rows}}))"
        )
    if len(inputs) == 1 and names[0] not in given:
        if len(given) != 1:
            raise ReferenceRefused(
                f"the file holds {', '.join(sorted(given))}, but no array called {names[0]!r} as the model's "
                "input; rename it, and name the labels with --labels"
            )
        given = {names[0]: next(iter(given.values()))}
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ReferenceRefused(
            f"the array {unknown[0]!r} is none of the model's inputs ({', '.join(names)}); "
            "leave it out, or name it with --labels"
        )
    steps: list[str] = []
    notes: list[str | None] = []
    rows = max((len(a) for a in given.values() if a.ndim), default=0)
    ready: dict[str, Array] = {}
    for spec in inputs:
        array = given.get(spec.name)
        if array is None:
            continue  # a state may be fed back from an output; whoever runs the model sees to it
        if array.ndim == len(spec.row_shape) and not spec.batched and array.shape[:1] != (rows,):
            # One value for the whole reference, such as a sampling rate.
            array = np.broadcast_to(array, (rows, *array.shape))
        if options.image_scale is not None and array.dtype == np.uint8:
            array = options.image_scale.apply(spec, array, steps)
            notes.append(image_scale_note(spec, options.image_scale.black, options.image_scale.white))
        notes.append(scale_note(spec, array, f"array {spec.name!r}"))
        ready[spec.name] = fit_rows(spec, array, f"array {spec.name!r}", steps)
    if not ready:
        raise ReferenceRefused(f"the file holds none of the model's inputs ({', '.join(names)})")
    reference = from_arrays(ready, sha256, source, steps, labels=labels, classes=classes)
    reference.notes.extend(note for note in notes if note)
    if times is not None:
        reference.set_times(times)
    return _with_labels(reference, options, ())


def _times(cells: Sequence[str] | Array, options: ReferenceOptions) -> npt.NDArray[np.float64]:
    try:
        return all_seconds(cells, local=options.local)
    except ValueError as error:
        raise ReferenceRefused(f"the times {options.time!r}: {error}") from error


def _check_labels(options: ReferenceOptions) -> None:
    """Refuse labels that are not in the data and no file either."""
    if options.labels is not None and not Path(options.labels).is_file():
        raise ReferenceRefused(
            f"--labels {options.labels}: neither a file nor a column or array of the reference"
        )


def _with_labels(reference: Reference, options: ReferenceOptions, names: Sequence[str]) -> Reference:
    """Add labels from a file, where they are not in the data themselves."""
    if options.labels is None or reference.labels is not None:
        return reference
    _check_labels(options)
    path = Path(options.labels)
    reference.labels, reference.classes = labels_from_file(
        path, reference.rows, names, options.classes or reference.classes
    )
    return reference


def _csv(path: Path, inputs: Sequence[TensorSpec], options: ReferenceOptions) -> Reference:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        lines = [line for line in reader if line]
    if not header or len(set(header)) != len(header):
        raise ReferenceRefused(f"{path.name} needs a header line with different names")
    if all(_is_number(name) for name in header):
        raise ReferenceRefused(f"{path.name} seems to have no header line: put the columns' names first")
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise ReferenceRefused(
                f"{path.name}, line {number}: {len(line)} fields, the header has {len(header)}"
            )
    labels = None
    classes = options.classes
    taken = list(header)
    if options.labels is not None and options.labels in header:
        at = header.index(options.labels)
        labels, classes = labels_from_values([line[at].strip() for line in lines], classes)
        taken.remove(options.labels)
    else:
        _check_labels(options)
    times = None
    if options.time is not None:
        if options.time not in header:
            raise _without_times(path.name, options.time, header)
        at = header.index(options.time)
        times = _times([line[at] for line in lines], options)
        if options.time in taken:
            taken.remove(options.time)
    steps: list[str] = []
    notes = []
    arrays = {}
    columns: tuple[str, ...] = ()
    for spec, names in _assign_columns(path, taken, inputs, options):
        indices = [header.index(name) for name in names]
        table = _numbers(path, lines, header, indices)
        notes.append(scale_note(spec, table, path.name))
        arrays[spec.name] = fit_rows(spec, table, path.name, steps)
        columns += names
    reference = from_arrays(
        arrays, _sha256(path), "csv", steps, labels=labels, classes=classes, columns=columns
    )
    reference.notes.extend(note for note in notes if note)
    if times is not None:
        reference.set_times(times)
    return _with_labels(reference, options, ())


def _assign_columns(
    path: Path, taken: list[str], inputs: Sequence[TensorSpec], options: ReferenceOptions
) -> list[tuple[TensorSpec, tuple[str, ...]]]:
    """Which columns feed which input."""
    wished = options.columns or {}
    if len(inputs) > 1:
        # Models of one input for each column, as scikit-learn's exporters make them.
        missing = [
            s.name for s in inputs if math.prod(d or 1 for d in s.row_shape) != 1 or s.name not in taken
        ]
        if missing:
            raise ReferenceRefused(
                f"the model has {len(inputs)} inputs; {path.name} has no column for {missing[0]!r} "
                "(tensors need an .npz with one array for each input)"
            )
        return [(spec, (spec.name,)) for spec in inputs]
    spec = inputs[0]
    names = wished.get(spec.name) or tuple(taken)
    absent = [name for name in names if name not in taken]
    if absent:
        raise ReferenceRefused(f"{path.name} has no column {absent[0]!r} (it has: {', '.join(taken)})")
    size = math.prod(d or 1 for d in spec.row_shape)
    if len(names) != size and None not in spec.row_shape:
        raise ReferenceRefused(
            f"{path.name} has {len(names)} columns ({', '.join(names)}), but the input {spec.name!r} takes "
            f'{size}: name those to take in a --config file, [probes.inputs."{spec.name}"] names = [...], '
            "and the label column with --labels"
        )
    return [(spec, names)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(
    path: Path, lines: list[list[str]], header: list[str], indices: list[int]
) -> npt.NDArray[np.float64]:
    table = np.empty((len(lines), len(indices)))
    for row, line in enumerate(lines):
        for column, index in enumerate(indices):
            text = line[index].strip()
            try:
                table[row, column] = math.nan if text.lower() in MISSING_WORDS else float(text)
            except ValueError as error:
                raise ReferenceRefused(
                    f"{path.name}, line {row + 2}: {text!r} in column {header[index]!r} is not a number; "
                    "encode it as the model is fed"
                ) from error
    return table


def _folder(path: Path, inputs: Sequence[TensorSpec], options: ReferenceOptions) -> Reference:
    files = [f for f in path.rglob("*") if f.is_file() and not f.name.startswith(".")]
    images = [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES]
    tensors = [f for f in files if f.suffix.lower() == ".bin"]
    if images and tensors:
        raise ReferenceRefused(f"{path} holds images and .bin tensors: give a folder with one kind")
    chosen = images or tensors
    if not chosen:
        raise ReferenceRefused(
            f"{path} holds neither images ({', '.join(sorted(IMAGE_SUFFIXES))}) nor .bin tensors"
        )
    if len(inputs) != 1:
        raise ReferenceRefused(
            f"the model has {len(inputs)} inputs, a folder feeds one: "
            "give an .npz with one array for each input"
        )
    # The name is the time: folders are classes, so their names come second.
    chosen.sort(key=lambda f: (f.name, str(f)))
    digest = hashlib.sha256()
    for file in chosen:
        digest.update(f"{file.relative_to(path).as_posix()}\0{_sha256(file)}\n".encode())
    steps: list[str] = []
    spec = inputs[0]
    read = (
        ImageReader(chosen, spec, options.image_scale, (options.layouts or {}).get(spec.name), steps).read
        if images
        else _TensorReader(chosen, spec).read
    )
    reference = Reference(
        len(chosen),
        read,
        digest.hexdigest(),
        "images" if images else "raw tensors",
        steps,
        classes=options.classes,
    )
    if images and options.image_scale is not None:
        note = image_scale_note(spec, options.image_scale.black, options.image_scale.white)
        reference.notes.extend([note] if note else [])
    others = {f.suffix.lower() for f in files} - {f.suffix.lower() for f in chosen} - _COMPANIONS
    if others:
        reference.notes.append(
            f"files of other kinds in the folder were left out ({', '.join(sorted(others))})"
        )
    folders = {f.parent for f in chosen}
    if options.labels is None and len(folders) > 1 and all(f.parent == path for f in folders):
        reference.labels, reference.classes = labels_from_values(
            [f.parent.name for f in chosen], options.classes
        )
    return _with_labels(reference, options, [f.name for f in chosen])


class _TensorReader:
    """Files that each hold exactly one row of the input, byte for byte."""

    def __init__(self, files: Sequence[Path], spec: TensorSpec) -> None:
        self._files = files
        self._spec = spec
        if None in spec.row_shape:
            raise ReferenceRefused(
                f"the input {spec.name!r} has no fixed shape ({spec.describe()}): "
                "raw bytes do not tell it; give an .npz"
            )
        self._shape = tuple(d or 0 for d in spec.row_shape)
        self._size = math.prod(self._shape) * spec.dtype.itemsize
        for file in files:
            size = file.stat().st_size
            if size != self._size:
                raise ReferenceRefused(
                    f"{file.name} has {size} bytes, but one row of {spec.name!r} ({spec.describe()}) "
                    f"has {self._size}"
                )

    def read(self, start: int, stop: int) -> dict[str, Array]:
        rows = [np.fromfile(file, self._spec.dtype).reshape(self._shape) for file in self._files[start:stop]]
        return {self._spec.name: np.stack(rows)}
