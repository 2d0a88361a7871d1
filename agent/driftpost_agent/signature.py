"""Does a call fit the model, and how many rows does it carry?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftpost_models.reasons import Reason
from driftpost_models.runtime import TensorSpec

Tensors = Mapping[str, NDArray[Any]]


class Signature:
    """What a model takes.

    A model whose batch is fixed at one row also takes several: the guard calls it row by row.

    Attributes:
        specs: the inputs.
        row_by_row: whether several rows need several calls.
    """

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self.specs = tuple(specs)
        self.names = tuple(spec.name for spec in specs)
        self.row_by_row = any(spec.batched and spec.shape[0] == 1 for spec in specs)
        # One row in the only shape a fixed model takes: the usual call needs no more than a comparison.
        self._single = tuple(
            tuple(1 if size is None and axis == 0 else size for axis, size in enumerate(spec.shape))
            for spec in specs
        )

    def fits_one_row(self, tensors: Tensors) -> bool:
        """Whether this is a call of exactly one row; quick, and False for anything unusual."""
        if len(tensors) != len(self.specs):
            return False
        for spec, shape in zip(self.specs, self._single, strict=True):
            tensor = tensors.get(spec.name)
            if tensor is None or tensor.shape != shape or tensor.dtype != spec.dtype:
                return False
        return True

    def problem(self, tensors: Tensors) -> tuple[Reason, str] | None:
        """What does not fit, as a reason and a sentence; None when everything does."""
        for spec in self.specs:
            tensor = tensors.get(spec.name)
            if tensor is None:
                return Reason.SHAPE, f"input {spec.name!r} is missing; the model takes {self._takes()}"
            if tensor.dtype != spec.dtype:
                return Reason.DTYPE, f"input {spec.name!r} is {tensor.dtype.name}; it takes {spec.describe()}"
            if not _fits(spec, tensor.shape):
                return (
                    Reason.SHAPE,
                    f"input {spec.name!r} has shape {list(tensor.shape)}; it takes {spec.describe()}",
                )
        unknown = [name for name in tensors if name not in self.names]
        if unknown:
            return Reason.SHAPE, f"there is no input {unknown[0]!r}; the model takes {self._takes()}"
        rows = {tensors[spec.name].shape[0] for spec in self.specs if spec.batched}
        if len(rows) > 1:
            return Reason.SHAPE, f"the inputs disagree on the number of rows: {sorted(rows)}"
        if rows == {0}:
            return Reason.SHAPE, "the inputs hold no row"
        return None

    def rows(self, tensors: Tensors) -> int:
        """Rows of a call that fits."""
        return next((tensors[spec.name].shape[0] for spec in self.specs if spec.batched), 1)

    def row(self, tensors: Tensors, index: int) -> dict[str, NDArray[Any]]:
        """One row of a call, as a call of its own."""
        return {
            spec.name: tensors[spec.name][index : index + 1] if spec.batched else tensors[spec.name]
            for spec in self.specs
        }

    def _takes(self) -> str:
        return ", ".join(f"{spec.name!r} {spec.describe()}" for spec in self.specs)


def _fits(spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    if len(shape) != len(spec.shape):
        return False
    wanted = (None, *spec.shape[1:]) if spec.batched else spec.shape
    return all(want is None or want == got for want, got in zip(wanted, shape, strict=True))


def joined(parts: Sequence[Tensors]) -> dict[str, NDArray[Any]]:
    """The outputs of several calls of one row, as those of one call."""
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts], axis=0) for name in parts[0]}
