"""How rows of a model's tensors are laid out in blocks: one layout for each combination of shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftpost_agent.block_buffer import RowLayout, TensorLayout
from driftpost_models.probes.block import as_rows
from driftpost_models.probes.decimation import Decimation
from driftpost_models.runtime import TensorSpec

# Shapes of dynamic models whose layouts are kept; a model fed in more sizes than this gets them anew.
MAX_LAYOUTS = 64

Tensors = Mapping[str, NDArray[Any]]
# Name, shape of a row and dtype of an input, to how its rows are decimated, or None.
HowDecimated = Callable[[str, Sequence[int], np.dtype[Any]], "Decimation | None"]


class RowLayouts:
    """Layouts of one model's rows.

    Args:
        inputs, outputs: of the model.
        decimation: which inputs are decimated, and how.

    Attributes:
        fixed: whether no shape is free but the number of rows: there is then one layout for all single rows
            with an answer, and no key to compute.
        answered: that layout, once it is known.
    """

    def __init__(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], decimation: HowDecimated
    ) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._decimation = decimation
        self.fixed = not any(
            size is None for spec in (*inputs, *outputs) for size in spec.shape[spec.batched :]
        )
        self._batched_outputs = tuple(spec.name for spec in outputs if spec.batched)
        self.answered: RowLayout | None = None
        self._unanswered: RowLayout | None = None
        self._known: dict[tuple[tuple[int, ...], ...], RowLayout] = {}

    def of(self, inputs: Tensors, outputs: Tensors, rows: int) -> RowLayout:
        """The one layout object of a call's shapes.

        Args:
            inputs: as fed.
            outputs: as returned; empty where there was no answer.
            rows: of the call.
        """
        alone = self.fixed and rows == 1
        if alone:
            layout = self.answered if outputs else self._unanswered
            if layout is not None and (not outputs or self._one_row_each(outputs)):
                return layout
        key = (
            *(_row_shape(spec, inputs[spec.name], rows) for spec in self._inputs),
            *(_row_shape(spec, outputs[spec.name], rows) for spec in self._outputs if outputs),
            (len(outputs), rows),
        )
        layout = self._known.get(key)
        if layout is None:
            if len(self._known) >= MAX_LAYOUTS:
                self._known.clear()
            layout = RowLayout(
                tuple(self._recorded(one) for one in _laid_out(self._inputs, inputs, rows)),
                _laid_out(self._outputs, outputs, rows),
            )
            self._known[key] = layout
        if alone and not outputs:
            self._unanswered = layout
        elif alone and self._one_row_each(outputs):
            self.answered = layout
        return layout

    def kept(self, spec: TensorSpec, tensor: NDArray[Any], rows: int) -> NDArray[Any] | None:
        """What is recorded of an input's rows where that is not all of them."""
        value = as_rows(spec, tensor, rows)
        how = None if value is None else self._decimation(spec.name, value.shape[1:], value.dtype)
        return None if how is None or value is None else how.take_rows(value)

    def _recorded(self, tensor: TensorLayout) -> TensorLayout:
        """What is kept of an input."""
        how = self._decimation(tensor.name, tensor.row_shape, tensor.dtype)
        return tensor if how is None else TensorLayout(tensor.name, how.shape, tensor.dtype, how)

    def _one_row_each(self, outputs: Tensors) -> bool:
        """Whether outputs with a free first axis hold one row; a detector's holds one for each thing seen."""
        return all(outputs[name].shape[:1] == (1,) for name in self._batched_outputs)


def _laid_out(specs: Sequence[TensorSpec], values: Tensors, rows: int) -> tuple[TensorLayout, ...]:
    found = []
    for spec in specs:
        if spec.name in values:
            value = as_rows(spec, values[spec.name], rows)
            if value is not None:
                found.append(TensorLayout(spec.name, value.shape[1:], value.dtype))
    return tuple(found)


def _row_shape(spec: TensorSpec, value: NDArray[Any], rows: int) -> tuple[int, ...]:
    """Shape of one row as `as_rows` divides: a tensor that doesn't belong to a row each is one as a whole."""
    if spec.batched and value.shape[:1] == (rows,):
        return value.shape[1:]
    return value.shape
