"""Choosing slices: the most frequent values of categorical streams, if the reference has enough of them."""

from __future__ import annotations

from driftpost_sketches.derived.choice import every_numeric, named
from driftpost_sketches.derived.plan import DerivedPlan
from driftpost_sketches.derived.profile import FloatArray
from driftpost_sketches.derived.slice import Slice
from driftpost_sketches.derived.wishes import SliceWish
from driftpost_sketches.errors import CalibrationError
from driftpost_sketches.schema import Schema, StreamKind

SLICE_ROWS = 500  # reference rows of a slice; with fewer hardly any change could be told from chance
MAX_SLICES = 256  # each costs what a stream of its own does, and a window must still fit into a message


def fit_slices(
    schema: Schema, plan: DerivedPlan, values: FloatArray, wish: SliceWish
) -> tuple[tuple[Slice, ...], tuple[str, ...]]:
    """The slices of a wish, and what the owner should know about them.

    A stream that a seasonal one replaces is sliced in its seasonal form.

    Args:
        schema: the given streams.
        plan: their columns, and the season.
        values: float64[n, S].
        wish: by what, and which.

    Raises:
        CalibrationError: the wish does not fit the streams.
    """
    if wish.most < 1:
        raise CalibrationError(f"{wish.most} slices are none; ask for one at least")
    season = plan.season
    seasonal = {} if season is None else {s.stream: season.name(s.stream) for s in season.streams}
    if wish.streams is None:
        chosen = every_numeric(schema)
    else:
        chosen = named(schema, wish.streams, (StreamKind.NUMERIC, StreamKind.CATEGORICAL), "slices")
    slices: list[Slice] = []
    notes = []
    for by in named(schema, wish.by, (StreamKind.CATEGORICAL,), "slices"):
        stream, column = schema.streams[schema.index(by)], values[:, plan.columns.index(by)]
        counts = {value: int((column == value).sum()) for value in stream.categories}
        rare = []
        for value in sorted(counts, key=lambda value: -counts[value])[: wish.most]:
            label = stream.bin_label(stream.categories.index(value))
            if counts[value] < SLICE_ROWS:
                rare.append(label)
                continue
            sources = [seasonal.get(name, name) for name in chosen if name != by]
            slices += [Slice(s, by, value, f"{s} where {by} is {label}") for s in sources]
        if rare:
            notes.append(f"no slices where {by} is {', '.join(rare)}: below {SLICE_ROWS} reference rows each")
    if len(slices) > MAX_SLICES:
        raise CalibrationError(
            f"{len(slices):,} slices, at most {MAX_SLICES:,} are watched: name the streams that matter"
        )
    return tuple(slices), tuple(notes)
