"""What a probe is, and how its configuration is written down."""

from __future__ import annotations

import dataclasses
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from driftpost_models.errors import ProbeError
from driftpost_models.probes.block import Block
from driftpost_models.runtime import Array, TensorSpec
from driftpost_sketches.schema import Role, StreamKind

Values = npt.NDArray[np.float64]
Extract = tuple[Values, dict[str, Array]]

MAX_LIST = 4096
"""Items of a stored list. Names of the columns of the widest table that is still probed column by column."""


@dataclass(frozen=True)
class StreamDraft:
    """A stream before its bins are known.

    Attributes:
        name: unique in the probe set.
        kind: numeric, categorical or codes.
        role: what it speaks of.
        unit: natural unit, empty where it has none.
        labels: display names of `categories`, or of the categories 0, 1, 2 ... where the data decide on them.
        tracked: whether detectors watch it.
        categories: fixed categories; empty where the reference decides.
        edges: fixed interior bin edges; empty where the reference decides.
        lowest_code: for codes streams: the code of the first bin.
    """

    name: str
    kind: StreamKind
    role: Role
    unit: str = ""
    labels: tuple[str, ...] = ()
    tracked: bool = True
    categories: tuple[int, ...] = ()
    edges: tuple[float, ...] = ()
    lowest_code: int = 0


class Probe(ABC):
    """Turns some tensors of a block into streams.

    A subclass is a dataclass whose fields are its whole configuration: strings, numbers, flags, tuples of
    them and `TensorSpec`s. State that it carries between blocks is set up in `reset`.
    """

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        self.reset()

    @abstractmethod
    def streams(self) -> tuple[StreamDraft, ...]:
        """The streams that it delivers, in the order of its columns; codes streams may stand anywhere."""

    @abstractmethod
    def extract(self, block: Block) -> Extract:
        """Read a block.

        Returns:
            `float64[rows, number of non-codes streams]`, NaN where missing; raw code tensors by stream name.
        """

    def reset(self) -> None:  # noqa: B027 - most probes carry nothing
        """Forget what was carried from block to block."""

    def to_dict(self) -> dict[str, object]:
        """The configuration in plain types."""
        plain: dict[str, object] = {"kind": self.kind}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, field.name)
            if isinstance(value, TensorSpec):
                value = value.to_dict()
            elif isinstance(value, tuple):
                value = list(value)
            plain[field.name] = value
        return plain


ProbeT = TypeVar("ProbeT", bound=Probe)


def probe_from_dict(cls: type[ProbeT], plain: Mapping[str, object]) -> ProbeT:
    """Inverse of `Probe.to_dict` for one kind.

    Raises:
        ProbeError: a field is missing, unknown or of another type.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]  # every subclass is one
    unknown = set(plain) - set(names) - {"kind"}
    if unknown:
        raise ProbeError(
            f"probe {cls.kind!r}: unknown field {sorted(map(str, unknown))[0]!r}; update driftpost"
        )
    values = {}
    for name in names:
        if name not in plain:
            raise ProbeError(f"probe {cls.kind!r}: field {name!r} is missing")
        values[name] = _checked(cls.kind, name, hints[name], plain[name])
    try:
        return cls(**values)
    except ValueError as error:
        raise ProbeError(f"probe {cls.kind!r}: {error}") from error


def _checked(kind: str, name: str, hint: object, value: object) -> object:
    wrong = ProbeError(f"probe {kind!r}: field {name!r} has a wrong value: {value!r:.80}")
    if hint is TensorSpec:
        if not isinstance(value, Mapping):
            raise wrong
        try:
            return TensorSpec.from_dict(value)
        except ValueError as error:
            raise wrong from error
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        if not isinstance(value, (list, tuple)) or len(value) > MAX_LIST:
            raise wrong
        return tuple(_checked(kind, name, item, each) for each in value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint in (str, int, bool) and type(value) is hint:
        return value
    raise wrong


def numeric(name: str, role: Role, unit: str = "", *, tracked: bool = True) -> StreamDraft:
    """Draft of a numeric stream."""
    return StreamDraft(name, StreamKind.NUMERIC, role, unit, tracked=tracked)


def tensor_rows(block: Block, spec: TensorSpec, side: str) -> Array | None:
    """The tensor's rows in a block, None where the block has none."""
    return (block.inputs if side == "input" else block.outputs).get(spec.name)


def values_of(block: Block, spec: TensorSpec, side: str) -> Array | None:
    """The tensor's rows where order and place of values do not matter: decimated where images are."""
    found = block.positions.get(spec.name) if side == "input" else None
    return tensor_rows(block, spec, side) if found is None else found.values


def missing(rows: int, columns: int) -> Values:
    """A value matrix in which everything is missing."""
    return np.full((rows, columns), np.nan)


def role_of(side: str) -> Role:
    """Role of streams of an input or an output."""
    return Role.INPUT if side == "input" else Role.OUTPUT
