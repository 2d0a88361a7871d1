"""Streams and the schema that orders them: what a window's arrays mean."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from driftpost_sketches.errors import MalformedSketch, UnsupportedVersion

SCHEMA_VERSION = 2
CODE_BINS = 256  # every code of an 8-bit tensor
MAX_STREAMS = 4096  # far above any sane probe set; bounds what a hostile schema can allocate
MAX_BINS = 4096  # bins of one stream, likewise
MAX_NAME = 200  # characters


class StreamKind(str, Enum):
    """How a stream's values are binned."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"
    CODES = "codes"


class Role(str, Enum):
    """Where a stream comes from; triage reads causes from it."""

    INPUT = "input"
    OUTPUT = "output"
    QUALITY = "quality"
    LATENCY = "latency"
    HEALTH = "health"


@dataclass(frozen=True)
class Stream:
    """One named series and its bins.

    Attributes:
        name: unique within a schema.
        kind: numeric, categorical, or exact codes of an 8-bit tensor.
        role: where the stream comes from.
        unit: natural unit of its values, for people ("" when there is none).
        edges: numeric only: ascending interior edges; bin j holds edges[j-1] <= x < edges[j].
        categories: categorical only: known categories, one bin each; a last bin holds all others.
        labels: display names of the categories, or empty.
        center: robust location of the reference, in natural units.
        scale: robust spread of the reference, in natural units, positive.
        lowest_code: codes only: the code of bin 0 (0 for uint8, -128 for int8).
        tracked: whether detectors watch it; others are only sketched.
        partial: whether a NaN says "this row is none of this stream's" instead of "missing". Such rows are
            not counted, and the rows before and after them are neighbours. A row of the stream without a
            value holds an infinity.
    """

    name: str
    kind: StreamKind
    role: Role
    unit: str = ""
    edges: tuple[float, ...] = ()
    categories: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    center: float = 0.0
    scale: float = 1.0
    lowest_code: int = 0
    tracked: bool = True
    partial: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", StreamKind(self.kind))
        object.__setattr__(self, "role", Role(self.role))
        if not self.name or len(self.name) > MAX_NAME:
            raise MalformedSketch(f"a stream's name has 1 to {MAX_NAME} characters, not {len(self.name)}")
        if not (math.isfinite(self.center) and math.isfinite(self.scale) and self.scale > 0):
            raise MalformedSketch(f"stream {self.name!r}: center and scale must be finite, scale positive")
        if self.n_bins > MAX_BINS:
            raise MalformedSketch(f"stream {self.name!r}: {self.n_bins} bins, at most {MAX_BINS} are allowed")
        if self.kind is StreamKind.NUMERIC:
            rising = all(a < b for a, b in zip(self.edges[:-1], self.edges[1:], strict=True))
            if not rising or not all(math.isfinite(e) for e in self.edges):
                raise MalformedSketch(f"stream {self.name!r}: edges must be finite and strictly ascending")
        elif self.edges:
            raise MalformedSketch(f"stream {self.name!r}: only numeric streams have edges")
        if len(set(self.categories)) != len(self.categories):
            raise MalformedSketch(f"stream {self.name!r}: a category is listed twice")
        if self.kind is not StreamKind.CATEGORICAL and (self.categories or self.labels):
            raise MalformedSketch(f"stream {self.name!r}: only categorical streams have categories")
        if self.labels and len(self.labels) != len(self.categories):
            raise MalformedSketch(
                f"stream {self.name!r}: {len(self.labels)} labels for {len(self.categories)} categories"
            )
        if self.kind is StreamKind.CODES and (self.tracked or self.lowest_code not in (0, -128)):
            raise MalformedSketch(f"stream {self.name!r}: codes start at 0 or -128 and are never tracked")
        if self.kind is StreamKind.CODES and self.partial:
            raise MalformedSketch(f"stream {self.name!r}: codes have no rows of their own to leave out")

    @property
    def n_bins(self) -> int:
        """Number of bins of the stream's histogram."""
        if self.kind is StreamKind.NUMERIC:
            return len(self.edges) + 1
        if self.kind is StreamKind.CATEGORICAL:
            return len(self.categories) + 1
        return CODE_BINS

    def bin_label(self, index: int) -> str:
        """What bin `index` stands for, for people."""
        if self.kind is StreamKind.CODES:
            return str(index + self.lowest_code)
        if self.kind is StreamKind.CATEGORICAL:
            if index == len(self.categories):
                return "other"
            return self.labels[index] if self.labels else str(self.categories[index])
        low = f"{self.edges[index - 1]:.4g}" if index else "-inf"
        high = f"{self.edges[index]:.4g}" if index < len(self.edges) else "inf"
        return f"[{low}, {high})"

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for msgpack or JSON; `from_dict` reads it back."""
        return {
            "name": self.name,
            "kind": self.kind.value,
            "role": self.role.value,
            "unit": self.unit,
            "edges": list(self.edges),
            "categories": list(self.categories),
            "labels": list(self.labels),
            "center": self.center,
            "scale": self.scale,
            "lowest_code": self.lowest_code,
            "tracked": self.tracked,
            "partial": self.partial,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Stream:
        """Reads `to_dict`'s form.

        Raises:
            MalformedSketch: a field is missing, unknown, or of the wrong type or range.
        """
        known = set(cls.__dataclass_fields__)
        if not isinstance(plain, Mapping) or set(plain) != known:
            raise MalformedSketch("a stream's fields are " + ", ".join(sorted(known)))
        try:
            return cls(
                name=_text(plain["name"]),
                kind=StreamKind(plain["kind"]),
                role=Role(plain["role"]),
                unit=_text(plain["unit"]),
                edges=tuple(float(e) for e in plain["edges"]),
                categories=tuple(_whole(c) for c in plain["categories"]),
                labels=tuple(_text(label) for label in plain["labels"]),
                center=float(plain["center"]),
                scale=float(plain["scale"]),
                lowest_code=_whole(plain["lowest_code"]),
                tracked=_flag(plain["tracked"]),
                partial=_flag(plain["partial"]),
            )
        except MalformedSketch:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise MalformedSketch(f"a stream's field has a value that does not fit: {error}") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise MalformedSketch(f"text expected, found {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise MalformedSketch("text holds a character that can not be written as UTF-8") from error
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(1 << 53) <= value <= 1 << 53:
        # Values arrive as float64: a category beyond 2**53 could never be met exactly.
        raise MalformedSketch(f"whole number within 2**53 expected, found {value!r:.40}")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise MalformedSketch(f"true or false expected, found {type(value).__name__}")
    return value


class Schema:
    """An ordered set of streams; its id names the layout of every window made with it.

    Attributes:
        streams: the streams, in order.
        id: 16 bytes of SHA-256 over the canonical form.
        offsets: int64[S + 1], where each stream's bins begin in a window's counts.
        scalar_streams: int64 indices of the streams that have a column in the value matrix.
        tracked_streams: int64 indices of the streams that detectors watch.
        whole_streams: int64 indices of the scalar streams that every row belongs to.
        partial_streams: int64 indices of the other scalar streams.
    """

    def __init__(self, streams: tuple[Stream, ...] | list[Stream]) -> None:
        self.streams: tuple[Stream, ...] = tuple(streams)
        if not 1 <= len(self.streams) <= MAX_STREAMS:
            raise MalformedSketch(f"a schema has 1 to {MAX_STREAMS} streams, not {len(self.streams)}")
        self._index = {stream.name: i for i, stream in enumerate(self.streams)}
        if len(self._index) != len(self.streams):
            raise MalformedSketch("two streams of a schema have the same name")
        bins = [stream.n_bins for stream in self.streams]
        self.offsets: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(bins)]).astype(np.int64)
        scalar = [i for i, s in enumerate(self.streams) if s.kind is not StreamKind.CODES]
        self.scalar_streams: npt.NDArray[np.int64] = np.array(scalar, dtype=np.int64)
        self.tracked_streams: npt.NDArray[np.int64] = np.array(
            [i for i in scalar if self.streams[i].tracked], dtype=np.int64
        )
        self.whole_streams: npt.NDArray[np.int64] = np.array(
            [i for i in scalar if not self.streams[i].partial], dtype=np.int64
        )
        self.partial_streams: npt.NDArray[np.int64] = np.array(
            [i for i in scalar if self.streams[i].partial], dtype=np.int64
        )

    @cached_property
    def id(self) -> bytes:
        """16 bytes that name this layout; equal ids mean equal streams, bins and scales."""
        digest = hashlib.sha256(b"driftpost schema %d" % SCHEMA_VERSION)
        for s in self.streams:
            for text in (s.name, s.kind.value, s.role.value, s.unit, *s.labels):
                raw = text.encode()
                digest.update(struct.pack("<I", len(raw)) + raw)
            digest.update(struct.pack("<III", len(s.edges), len(s.categories), len(s.labels)))
            digest.update(struct.pack(f"<{len(s.edges) + 2}d", *s.edges, s.center, s.scale))
            digest.update(struct.pack(f"<{len(s.categories)}q", *s.categories))
            digest.update(struct.pack("<i??", s.lowest_code, s.tracked, s.partial))
        return digest.digest()[:16]

    def index(self, name: str) -> int:
        """Position of the stream called `name`.

        Raises:
            KeyError: no such stream.
        """
        return self._index[name]

    def __len__(self) -> int:
        return len(self.streams)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for msgpack or JSON; `from_dict` reads it back."""
        return {"version": SCHEMA_VERSION, "streams": [stream.to_dict() for stream in self.streams]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Schema:
        """Reads `to_dict`'s form.

        Raises:
            MalformedSketch: it is not a schema.
            UnsupportedVersion: it was written by a newer format.
        """
        if not isinstance(plain, Mapping) or set(plain) != {"version", "streams"}:
            raise MalformedSketch("a schema has the fields version and streams")
        version, streams = plain["version"], plain["streams"]
        if not isinstance(version, int) or version < 1:
            raise MalformedSketch("a schema's version is a positive whole number")
        if version > SCHEMA_VERSION:
            raise UnsupportedVersion("the schema", version, SCHEMA_VERSION)
        if not isinstance(streams, (list, tuple)) or len(streams) > MAX_STREAMS:
            raise MalformedSketch(f"a schema's streams are a list of at most {MAX_STREAMS}")
        return cls([Stream.from_dict(stream) for stream in streams])
