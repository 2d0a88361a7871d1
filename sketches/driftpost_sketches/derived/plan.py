"""The plan of a bundle's derived streams: from the probes' value matrix to the wider one that is sketched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from driftpost_sketches.derived.phase import Phase
from driftpost_sketches.derived.season import Season, Seasonal
from driftpost_sketches.derived.slice import Slice
from driftpost_sketches.errors import MalformedSketch, UnsupportedVersion
from driftpost_sketches.schema import MAX_STREAMS

VERSION = 1

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DerivedPlan:
    """What is computed from which streams; behind the given columns stand seasonal ones, then slices.

    Attributes:
        columns: names of the given columns, in order.
        season: seasonal streams; None without any.
        slices: slices of given or seasonal streams.
    """

    columns: tuple[str, ...]
    season: Season | None = None
    slices: tuple[Slice, ...] = ()

    def __post_init__(self) -> None:
        given = set(self.columns)
        needed = [one.by for one in self.slices]
        if self.season is not None:
            needed += [one.stream for one in self.season.streams]
            needed += [] if self.season.phase.context is None else [self.season.phase.context]
        missing = [name for name in needed if name not in given]
        missing += [one.stream for one in self.slices if one.stream not in given | set(self._seasonal_names)]
        if missing:
            raise MalformedSketch(f"a derived stream needs {missing[0]!r:.80}, which is none of the streams")
        names = (*self.columns, *self.names)
        if len(set(names)) != len(names) or len(names) > MAX_STREAMS:
            raise MalformedSketch("two streams have the same name, or there are too many")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the derived streams, in the order of their columns."""
        return (*self._seasonal_names, *(one.name for one in self.slices))

    @property
    def origins(self) -> dict[str, str]:
        """The given stream that each derived one is made of, by the derived one's name."""
        seasonal = () if self.season is None else self.season.streams
        found = dict(zip(self._seasonal_names, (one.stream for one in seasonal), strict=True))
        found.update({one.name: found.get(one.stream, one.stream) for one in self.slices})
        return found

    @property
    def needs_time(self) -> bool:
        """Whether any of it goes by the clock."""
        return self.season is not None and self.season.phase.context is None

    def apply(self, values: FloatArray, seconds: FloatArray | float | None = None) -> FloatArray:
        """The given columns with the derived ones behind them.

        Args:
            values: float64[rows, S].
            seconds: since 1970 by the season's clock, of each row or of the whole block; None while the clock
                is not known to be good. Seasonal streams then say nothing (NaN).

        Returns:
            float64[rows, S + D]; `values` itself where nothing is derived.
        """
        if self.season is None and not self.slices:
            return values
        given = values.shape[1]
        # Columns lie together: what follows bins stream by stream.
        out: FloatArray = np.empty((given + len(self.names), len(values))).T
        out[:, :given] = values
        end = given
        if self.season is not None:
            columns, context = self._season_columns
            end += len(columns)
            out[:, given:end] = self.season.apply(columns, context, values, seconds)
        if self.slices:
            source, by, value = self._slice_columns
            sliced = out[:, source]
            own = values[:, by] == value
            # What has no value in the whole stream has none in its slice; what is none of its rows is silent.
            absent = own & np.isnan(sliced)
            if absent.any():
                absent &= source < given
                sliced[absent] = np.inf
            out[:, end:] = np.where(own, sliced, np.nan)
        return out

    @cached_property
    def _seasonal_names(self) -> tuple[str, ...]:
        season = self.season
        return () if season is None else tuple(season.name(one.stream) for one in season.streams)

    @cached_property
    def _season_columns(self) -> tuple[list[int], int | None]:
        assert self.season is not None
        context = self.season.phase.context
        columns = [self.columns.index(one.stream) for one in self.season.streams]
        return columns, None if context is None else self.columns.index(context)

    @cached_property
    def _slice_columns(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], FloatArray]:
        place = {name: i for i, name in enumerate((*self.columns, *self._seasonal_names))}
        return (
            np.array([place[one.stream] for one in self.slices], dtype=np.int64),
            np.array([place[one.by] for one in self.slices], dtype=np.int64),
            np.array([float(one.value) for one in self.slices]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON; `from_dict` reads it back."""
        season = self.season
        return {
            "version": VERSION,
            "columns": list(self.columns),
            "season": None
            if season is None
            else {
                "by": season.phase.by,
                "count": season.phase.count,
                "edges": list(season.phase.edges),
                "categories": list(season.phase.categories),
                "local": season.local,
                "streams": [one.to_dict() for one in season.streams],
            },
            "slices": [one.to_dict() for one in self.slices],
        }

    @classmethod
    def from_dict(cls, plain: object) -> DerivedPlan:
        """Reads `to_dict`'s form.

        Raises:
            MalformedSketch: it is no plan.
            UnsupportedVersion: written by a newer format.
        """
        if not isinstance(plain, Mapping):
            raise MalformedSketch("a plan of derived streams is a table")
        version = plain.get("version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise MalformedSketch("the version of a plan of derived streams is a positive whole number")
        if version > VERSION:
            raise UnsupportedVersion("the plan of derived streams", version, VERSION)
        try:
            return cls(
                tuple(_texts(plain["columns"])),
                _season(plain["season"]),
                tuple(Slice.from_dict(one) for one in _items(plain["slices"])),
            )
        except MalformedSketch:
            raise
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise MalformedSketch(f"a plan of derived streams can not be read: {error!r:.200}") from error


def _season(plain: Any) -> Season | None:
    if plain is None:
        return None
    if not isinstance(plain["local"], bool) or not all(type(c) is int for c in plain["categories"]):
        raise MalformedSketch("a season goes by local time or not, and categories are whole numbers")
    phase = Phase(
        str(plain["by"]),
        int(plain["count"]),
        tuple(float(e) for e in plain["edges"]),
        tuple(plain["categories"]),
    )
    return Season(phase, plain["local"], tuple(Seasonal.from_dict(one) for one in _items(plain["streams"])))


def _items(plain: object) -> Sequence[Any]:
    if not isinstance(plain, (list, tuple)) or len(plain) > MAX_STREAMS:
        raise MalformedSketch(f"a list of at most {MAX_STREAMS} derived streams expected")
    return plain


def _texts(plain: object) -> Sequence[str]:
    if not all(isinstance(one, str) for one in _items(plain)):
        raise MalformedSketch("names of columns are texts")
    return _items(plain)
