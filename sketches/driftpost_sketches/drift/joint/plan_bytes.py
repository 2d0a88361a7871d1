"""A joint plan as bytes. Byte by byte in docs/formats.md."""

from __future__ import annotations

import math
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from driftpost_sketches import packing
from driftpost_sketches.cells import CELLS
from driftpost_sketches.drift.joint.carriers import AXES, MAX_STREAMS, MOST, Carriers
from driftpost_sketches.drift.joint.features import FOURIER, Features, raw_limits
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.schema import MAX_STREAMS as MOST_STREAMS
from driftpost_sketches.window import JOINT_LIMIT, MAX_JOINT

if TYPE_CHECKING:
    from driftpost_sketches.drift.joint.plan import JointPlan

MAGIC = b"DPJ"
VERSION = 1
MAX_BYTES = 1 << 20  # a plan takes about 30 kB
_HEAD = struct.Struct("<HHHH")  # streams, axes (0: none), features, whitened directions
# mean, spread, tau, independent, charge, caution, whitening, slow, coupling, temper: most need few digits
_KINDS = ("<f8", "<f8", "<f4", "<f4", "<f4", "<f4", "<f2", "<f4", "<f2", "<f4")
_LARGEST = 1e12  # no mean, spread or correlation time of whole numbers below 2**16 comes near it


def encode(plan: JointPlan) -> bytes:
    """Bytes of a plan."""
    carriers = plan.features.carriers
    axes = carriers.axes
    parts = [
        _HEAD.pack(len(carriers.streams), 0 if axes is None else len(axes), plan.count, len(plan.whitening)),
        carriers.streams.astype("<u2").tobytes(),
        carriers.scores.tobytes(),
        b"" if axes is None else axes.tobytes(),
        carriers.stretch.astype("<f4").tobytes(),
        plan.features.directions.astype("<i2").tobytes(),
        plan.features.weights.astype("<i2").tobytes(),
    ]
    for kind, array in zip(_KINDS, plan.measured, strict=True):
        parts.append(packing.planes(array.astype(kind).ravel()))
    return MAGIC + bytes([VERSION]) + zlib.compress(b"".join(parts), 6)


def decode(data: bytes, tracked: int) -> JointPlan:
    """A plan from its bytes; see `JointPlan.from_bytes`."""
    from driftpost_sketches.drift.joint.plan import SIZES, JointPlan  # noqa: PLC0415  # one idea's two sides

    reader = packing.Reader(
        packing.unwrap(data, MAGIC, VERSION, "a joint plan", most=MAX_BYTES, most_plain=4 * MAX_BYTES)
    )
    streams, turned, count, white = _HEAD.unpack(reader.take(_HEAD.size))
    if not 2 <= streams <= MOST_STREAMS or not 1 <= count <= MAX_JOINT or not 1 <= white <= count:
        raise MalformedSketch("a joint plan of impossible size")
    if turned > AXES or (turned == 0) != (streams <= MAX_STREAMS):
        raise MalformedSketch("a joint plan turns many streams, and only those")
    places = reader.array("<u2", streams).astype(np.int64)
    scores = reader.array("i1", streams, CELLS)
    axes = reader.array("i1", turned, streams) if turned else None
    stretch = reader.array("<f4", turned)
    carriers = Carriers(places, scores, axes, stretch)
    limits = raw_limits(carriers.count)
    directions = reader.array("<i2", FOURIER, carriers.count)
    weights = reader.array("<i2", count, len(limits))
    features = Features(carriers, directions, weights)
    each = (count, 2, len(SIZES))
    shapes = ((count,),) * 4 + (each, each, (white, count), (white,), (carriers.count,) * 2, (2,))
    with np.errstate(invalid="ignore"):  # a signalling NaN complains when it is cast; it is refused below
        arrays = [
            _array(reader, kind, shape).astype(np.float64) for kind, shape in zip(_KINDS, shapes, strict=True)
        ]
    _, spread, tau, independent, charge, caution, whitening, slow, coupling, temper = arrays
    reader.finish()
    if (np.diff(places) <= 0).any() or places[-1] >= tracked:
        raise MalformedSketch("a joint plan names streams that are not there")
    largest = (np.abs(weights.astype(np.int64)) @ limits).max()
    if np.abs(scores.astype(np.int64)).max() > MOST or largest > JOINT_LIMIT:
        raise MalformedSketch("a joint plan's features are larger than a window can hold")
    # NaN fails the comparison.
    if not all((np.abs(array) < _LARGEST).all() for array in (stretch, *arrays)):
        raise MalformedSketch("a joint plan holds numbers that are none")
    if (spread <= 0).any() or (tau < 1).any() or (slow < 1).any() or (independent <= 0).any():
        raise MalformedSketch("a joint plan holds impossible spreads or correlation times")
    if (charge < 0).any() or (caution < 0).any() or (caution > 1).any() or not whitening.any(axis=1).all():
        raise MalformedSketch("a joint plan's charges are none")
    if np.abs(coupling).max() > 1.0 + 1e-9 or (temper < 0).any() or (temper > 1).any():
        raise MalformedSketch("a joint plan's correlations or tempers are none")
    return JointPlan(features, *arrays)


def rounded(kind: int, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values of the measured array `kind` as they come back from bytes."""
    return values.astype(_KINDS[kind]).astype(np.float64)


def _array(reader: packing.Reader, kind: str, shape: tuple[int, ...]) -> npt.NDArray[np.floating[Any]]:
    size = math.prod(shape)
    raw = np.frombuffer(reader.take(size * np.dtype(kind).itemsize), np.uint8)
    return np.ascontiguousarray(raw.reshape(-1, size).T).view(kind).reshape(shape)
