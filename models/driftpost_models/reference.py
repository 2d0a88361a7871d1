"""Reference data: what the model saw when all was well, row by row, in time order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from driftpost_models.errors import ReferenceRefused
from driftpost_models.runtime import Array, TensorSpec

MAX_ROWS = 2_000_000
"""Rows. The value matrix of 40 streams then takes 640 MB on the machine that builds the bundle."""


@dataclass
class Reference:
    """Reference data ready to be fed.

    Attributes:
        rows: number of rows.
        read: `read(start, stop)` gives rows of every input that the data hold, `[stop - start, ...]` in the
            model's dtype, by input name.
        sha256: hex digest of the data as they were on disk.
        source: what was read, such as `npz`, `csv`, `images`, `raw tensors`.
        preprocessing: every step between the file and the tensor, in words, in order.
        labels: `int64[rows]`, class of each row, -1 where unknown; None without labels.
        classes: class names where the data name them.
        columns: names of the columns of a table.
        notes: what a person should know about how the data were read.
        times: `float64[rows]`, seconds since 1970 of each row by the season's clock; None where not known.
    """

    rows: int
    read: Callable[[int, int], dict[str, Array]]
    sha256: str
    source: str
    preprocessing: list[str] = field(default_factory=list)
    labels: npt.NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    times: npt.NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if self.rows < 2:
            raise ReferenceRefused(
                f"the reference has {self.rows} rows; a baseline needs at least some hundred"
            )
        if self.rows > MAX_ROWS:
            raise ReferenceRefused(
                f"the reference has {self.rows} rows, at most {MAX_ROWS} are read: give its newest part"
            )
        if self.labels is not None and len(self.labels) != self.rows:
            raise ReferenceRefused(f"there are {len(self.labels)} labels for {self.rows} rows")

    def set_times(self, times: npt.NDArray[np.float64]) -> None:
        """Take the times of the rows.

        Raises:
            ReferenceRefused: another number of times, or rows that are not in the order of time.
        """
        if len(times) != self.rows:
            raise ReferenceRefused(f"there are {len(times)} times for {self.rows} rows")
        late = np.flatnonzero(np.diff(times) < 0)
        if len(late):
            raise ReferenceRefused(
                f"rows are not in the order of time: row {late[0] + 1:,} is earlier than the one before "
                f"({len(late):,} such rows); sort the reference by time"
            )
        self.times = times


def fit_rows(spec: TensorSpec, data: Array, name: str, steps: list[str]) -> Array:
    """Bring an array to `[rows, *row_shape]` in the input's dtype, without guessing.

    Args:
        spec: the input.
        data: one row for each first index.
        name: what to call the array in errors.
        steps: every change that is made is added here, in words.

    Raises:
        ReferenceRefused: shape or dtype do not fit.
    """
    return convert(spec, reshape(spec, data, name), name, steps)


def reshape(spec: TensorSpec, data: Array, name: str) -> Array:
    """Rows in the input's row shape; only dimensions of one may differ.

    Raises:
        ReferenceRefused: the shapes differ otherwise.
    """
    want = spec.row_shape
    if data.ndim == 0:
        raise ReferenceRefused(f"{name} is a single number; its first axis must count rows")
    if _fits(want, data.shape[1:]):
        return data
    given = [d for d in data.shape[1:] if d != 1]
    asked = [d for d in want if d != 1]
    if len(given) == len(asked) and all(w is None or w == g for w, g in zip(asked, given, strict=True)):
        left = iter(given)
        return data.reshape(len(data), *(1 if d == 1 else next(left) for d in want))
    hint = ""
    if sorted(given) == sorted(d or 0 for d in asked):
        hint = "; the axes seem to stand in another order (channels first or last?): transpose them"
    raise ReferenceRefused(
        f"rows of {name} have shape {list(data.shape[1:])}, but the input {spec.name!r} takes "
        f"{['?' if d is None else d for d in want]}{hint}"
    )


def _fits(want: Sequence[int | None], given: Sequence[int]) -> bool:
    return len(want) == len(given) and all(w is None or w == g for w, g in zip(want, given, strict=True))


def convert(spec: TensorSpec, data: Array, name: str, steps: list[str]) -> Array:
    """Rows in the input's dtype.

    Real numbers for a quantized input are quantized; whole numbers become floats where the input is float.

    Raises:
        ReferenceRefused: the conversion would change what the numbers mean.
    """
    if data.dtype == spec.dtype:
        return data
    if data.dtype.kind not in "biuf":
        raise ReferenceRefused(f"{name} holds {data.dtype}, not numbers")
    if spec.quantized and data.dtype.kind == "f":
        _once(
            steps, f"{name}: quantized by the input's scale {spec.scale:g} and zero point {spec.zero_point}"
        )
        return quantize(spec, data)
    if spec.dtype.kind == "f":
        if data.dtype != np.float64:
            _once(steps, f"{name}: {data.dtype} converted to {spec.dtype}")
        return data.astype(spec.dtype)
    whole = np.rint(data) if data.dtype.kind == "f" else data
    info = np.iinfo(spec.dtype.str) if spec.dtype.kind in "iu" else None
    if (
        info is not None
        and np.array_equal(whole, data)
        and whole.min() >= info.min
        and whole.max() <= info.max
    ):
        if spec.quantized:
            _once(steps, f"{name}: {data.dtype} taken as {spec.dtype} codes")
        return whole.astype(spec.dtype)
    raise ReferenceRefused(
        f"{name} holds {data.dtype} from {data.min()} to {data.max()}, but the input {spec.name!r} takes "
        f"{spec.describe()}: save the tensors as the model is fed"
        + (", or as real numbers, which are then quantized" if spec.quantized else "")
    )


def quantize(spec: TensorSpec, real: Array) -> Array:
    """Codes of real values, rounded to even and clipped to the dtype's limits."""
    info = np.iinfo(spec.dtype.str)
    codes = np.rint(real.astype(np.float64) / (spec.scale or 1.0)) + (spec.zero_point or 0)
    if not np.isfinite(codes).all():
        raise ReferenceRefused(f"the input {spec.name!r} is quantized and has no code for missing values")
    clipped: Array = np.clip(codes, info.min, info.max).astype(spec.dtype)
    return clipped


def _once(steps: list[str], step: str) -> None:
    if step not in steps:
        steps.append(step)


def from_arrays(
    arrays: Mapping[str, Array],
    sha256: str,
    source: str,
    steps: list[str],
    *,
    labels: npt.NDArray[np.int64] | None = None,
    classes: tuple[str, ...] = (),
    columns: tuple[str, ...] = (),
) -> Reference:
    """A reference over arrays that are in memory (or mapped), all with as many rows.

    Raises:
        ReferenceRefused: the arrays differ in length.
    """
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise ReferenceRefused(
            "the arrays differ in their number of rows: "
            + ", ".join(f"{name} has {rows}" for name, rows in lengths.items())
        )

    def read(start: int, stop: int) -> dict[str, Array]:
        return {name: np.ascontiguousarray(array[start:stop]) for name, array in arrays.items()}

    return Reference(next(iter(lengths.values())), read, sha256, source, steps, labels, classes, columns)
