"""All probes of one model, read as one value matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from driftpost_models.errors import ProbeError
from driftpost_models.probes.block import Block
from driftpost_models.probes.codes import Codes
from driftpost_models.probes.decimation import DECIMATED_BYTES, Decimation, Positions
from driftpost_models.probes.image import Image
from driftpost_models.probes.limits import Limits
from driftpost_models.probes.probe import Extract, Probe, StreamDraft
from driftpost_models.probes.registry import load_probe
from driftpost_models.runtime import Array, TensorSpec
from driftpost_sketches.schema import StreamKind

FORMAT_VERSION = 1

MAX_PROBES = 512
"""Probes of one model. A model with a hundred tensors has two or three for each."""


class ProbeSet:
    """Probes in the order of their streams.

    State that probes carry from block to block makes a set belong to one sequence of inferences: use `copy`
    for a second one.

    Args:
        probes: what to read.
        untracked: names of streams that detectors leave alone.
        units: units by stream name, where the owner gave them.

    Raises:
        ProbeError: two streams have one name, or a name in `untracked` or `units` belongs to none.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        untracked: Sequence[str] = (),
        units: Mapping[str, str] | None = None,
    ) -> None:
        self.probes = tuple(probes)
        self.untracked = tuple(sorted(untracked))
        self.units = dict(sorted((units or {}).items()))
        drafts = []
        names: set[str] = set()
        for probe in self.probes:
            for draft in probe.streams():
                if draft.name in names:
                    raise ProbeError(f"two streams are called {draft.name!r}: name the columns apart")
                names.add(draft.name)
                drafts.append(self._adjusted(draft))
        for name in (*self.untracked, *self.units):
            if name not in names:
                raise ProbeError(f"there is no stream {name!r} (there are: {', '.join(sorted(names))})")
        self.drafts = tuple(drafts)
        self._widths = [sum(d.kind is not StreamKind.CODES for d in p.streams()) for p in self.probes]
        self._sides = [_sides(probe) for probe in self.probes]
        self._images = _image_layouts(self.probes)

    def decimation(
        self, name: str, row_shape: Sequence[int], dtype: np.dtype[np.generic]
    ) -> Decimation | None:
        """How an input's rows may be decimated before they are recorded; None where they are needed whole.

        Args:
            name: of the input.
            row_shape: of one row.
            dtype: of the input.
        """
        layout = self._images.get(name)
        if layout is None or math.prod(row_shape) * dtype.itemsize <= DECIMATED_BYTES:
            return None
        return Decimation.of(layout, row_shape)

    def _placed(self, block: Block) -> Block:
        """The block with its large images decimated, whether they come so or whole."""
        if not self._images:
            return block
        positions = dict(block.positions)
        for name, raw in block.inputs.items():
            how = self.decimation(name, raw.shape[1:], raw.dtype) if len(raw) else None
            if how is not None:
                positions[name] = Positions(how, how.take_rows(raw))
        return replace(block, positions=positions)

    def _adjusted(self, draft: StreamDraft) -> StreamDraft:
        tracked = draft.tracked and draft.name not in self.untracked
        unit = self.units.get(draft.name, draft.unit)
        return StreamDraft(
            draft.name,
            draft.kind,
            draft.role,
            unit,
            draft.labels,
            tracked,
            draft.categories,
            draft.edges,
            draft.lowest_code,
        )

    def extract(self, block: Block) -> Extract:
        """Read a block with every probe.

        Returns:
            `float64[rows, S]`, one column for each non-codes stream in the order of `drafts`, NaN where
            missing; and raw code tensors by stream name, without the rows that have none.
        """
        rows = block.rows
        # A column in one piece, as the accumulator wants it.
        matrix = np.empty((rows, sum(self._widths)), order="F")
        codes: dict[str, Array] = {}
        if rows == 0:
            return matrix, codes
        block = self._placed(block)
        at = 0
        for probe, width, sides in zip(self.probes, self._widths, self._sides, strict=True):
            values, tensors = probe.extract(block)
            matrix[:, at : at + width] = values
            masks = [m for m in (block.received if "input" in sides else None,) if m is not None]
            masks += [m for m in (block.answered if "output" in sides else None,) if m is not None]
            for mask in masks:
                matrix[~mask, at : at + width] = np.nan
            for name, tensor in tensors.items():
                if len(tensor) != rows:
                    continue  # the block holds none: a stream without codes is left out
                kept = np.logical_and.reduce(masks) if masks else None
                chosen = tensor if kept is None else tensor[kept]
                if len(chosen):
                    codes[name] = chosen
            at += width
        return matrix, codes

    def reset(self) -> None:
        """Forget what was carried from block to block."""
        for probe in self.probes:
            probe.reset()

    def copy(self) -> ProbeSet:
        """The same probes for another sequence of inferences."""
        return ProbeSet.from_dict(self.to_dict())

    def to_dict(self) -> dict[str, object]:
        """Plain types, for JSON and msgpack."""
        return {
            "version": FORMAT_VERSION,
            "probes": [probe.to_dict() for probe in self.probes],
            "untracked": list(self.untracked),
            "units": dict(self.units),
        }

    @classmethod
    def from_dict(cls, plain: object) -> ProbeSet:
        """Inverse of `to_dict`.

        Raises:
            ProbeError: malformed, or of a newer version.
        """
        if not isinstance(plain, Mapping):
            raise ProbeError("a probe set must be a table")
        version = plain.get("version")
        if version != FORMAT_VERSION:
            raise ProbeError(f"probe set version {version!r} is not {FORMAT_VERSION}: update driftpost")
        probes, untracked, units = plain.get("probes"), plain.get("untracked"), plain.get("units")
        if not isinstance(probes, (list, tuple)) or len(probes) > MAX_PROBES:
            raise ProbeError(f"a probe set needs a list of at most {MAX_PROBES} probes")
        if not isinstance(untracked, (list, tuple)) or not all(isinstance(n, str) for n in untracked):
            raise ProbeError("`untracked` must be a list of stream names")
        if not isinstance(units, Mapping) or not all(isinstance(v, str) for kv in units.items() for v in kv):
            raise ProbeError("`units` must map stream names to units")
        return cls([load_probe(probe) for probe in probes], untracked, units)


def _image_layouts(probes: Sequence[Probe]) -> dict[str, str]:
    """Layouts of the inputs that only probes read that a decimated copy is enough for."""
    layouts = {p.tensor.name: p.layout for p in probes if isinstance(p, Image) and p.side == "input"}
    for probe in probes:
        if not isinstance(probe, (Image, Codes, Limits)):
            for spec in vars(probe).values():
                if isinstance(spec, TensorSpec):
                    layouts.pop(spec.name, None)
    return layouts


def _sides(probe: Probe) -> frozenset[str]:
    """Which sides a probe needs: rows without them are missing."""
    plain = probe.to_dict()
    if probe.kind in ("latency", "verdict"):
        return frozenset()
    if "original" in plain:
        return frozenset({"input", "output"})
    return frozenset({str(plain.get("side", "output"))})
