"""Seasonal streams: a stream less what is usual at that hour, or in that state of a context stream.

`level + (x - usual(phase)) * factor(phase)`: the value that x would have at an average hour, in x's own unit
and range. Differences are divided by the phase's spread only where the spread itself changes with the phase
(light by day and by night); the factors then average to one over a turn, so that a lasting shift by d still
reads as d.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from driftpost_sketches.derived.phase import Phase
from driftpost_sketches.derived.profile import read
from driftpost_sketches.errors import MalformedSketch
from driftpost_sketches.schema import MAX_STREAMS

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Seasonal:
    """One stream's usual course.

    Attributes:
        stream: whose.
        usual: in the middle of each phase, the stream's unit; NaN where nothing is known.
        factor: what a difference from it is multiplied by.
        level: what is added again.
    """

    stream: str
    usual: tuple[float, ...]
    factor: tuple[float, ...]
    level: float

    def __post_init__(self) -> None:
        known = [u for u in self.usual if not math.isnan(u)]
        if not known or not all(math.isfinite(v) for v in (*known, self.level)):
            raise MalformedSketch(f"the usual course of {self.stream!r:.80} holds no numbers")
        if not all(math.isfinite(f) and f > 0 for f in self.factor):
            raise MalformedSketch(f"the factors of {self.stream!r:.80} must be positive numbers")

    def to_dict(self) -> dict[str, Any]:
        """Plain types; `from_dict` reads it back. Unknown phases are null, as JSON has no NaN."""
        usual = [None if math.isnan(u) else u for u in self.usual]
        return {"stream": self.stream, "usual": usual, "factor": list(self.factor), "level": self.level}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Seasonal:
        """Reads `to_dict`'s form; raises KeyError, TypeError or ValueError where it is none."""
        usual = tuple(math.nan if u is None else float(u) for u in plain["usual"])
        return cls(
            str(plain["stream"]), usual, tuple(float(f) for f in plain["factor"]), float(plain["level"])
        )


@dataclass(frozen=True)
class Season:
    """Streams that go by one season.

    Attributes:
        phase: what the season goes by.
        local: whether by local time (the device's own zone) instead of UTC; no matter for a context.
        streams: at least one.
    """

    phase: Phase
    local: bool
    streams: tuple[Seasonal, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.streams) <= MAX_STREAMS:
            raise MalformedSketch(f"a season has 1 to {MAX_STREAMS} streams, not {len(self.streams)}")
        for one in self.streams:
            if {len(one.usual), len(one.factor)} != {self.phase.count}:
                raise MalformedSketch(
                    f"the usual course of {one.stream!r:.80} has not a value for each phase"
                )

    def name(self, stream: str) -> str:
        """Name of a stream's seasonal form, to be read in a sentence."""
        return f"{stream} for its {self.phase.words}"

    def apply(
        self,
        columns: Sequence[int],
        context: int | None,
        values: FloatArray,
        seconds: FloatArray | float | None,
    ) -> FloatArray:
        """Seasonal values of a block.

        Args:
            columns: column of each stream.
            context: column of the context stream, None for a clock.
            values: float64[rows, S].
            seconds: since 1970 on the season's clock, of each row or of the block; None while not known.

        Returns:
            float64[rows, D]: NaN where no usual value is known, infinite where x itself is missing.
        """
        own = values[:, list(columns)]
        if context is not None:
            place = self.phase.of_values(values[:, context]).astype(np.float64)
            place[place < 0] = np.nan
        elif seconds is None:
            return np.full_like(own, np.nan)
        else:
            place = self.phase.of_seconds(np.atleast_1d(np.asarray(seconds, dtype=np.float64)))
        circular = context is None
        usual = read(self._usual, place, circular=circular).T
        factor = read(self._factor, place, circular=circular).T
        with np.errstate(invalid="ignore", over="ignore"):
            out = self._level + (own - usual) * factor
        absent = np.isnan(own)
        if absent.any():
            out[absent & ~np.isnan(usual)] = np.inf
        return np.asarray(out)

    @cached_property
    def _usual(self) -> FloatArray:
        return np.array([one.usual for one in self.streams])

    @cached_property
    def _factor(self) -> FloatArray:
        return np.array([one.factor for one in self.streams])

    @cached_property
    def _level(self) -> FloatArray:
        return np.array([one.level for one in self.streams])
