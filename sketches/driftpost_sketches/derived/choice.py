"""Which streams a wish is about, and what to say when it names others."""

from __future__ import annotations

from driftpost_sketches.errors import CalibrationError
from driftpost_sketches.schema import Role, Schema, StreamKind

# Timings and the device's own health are slowed by other things than the hour.
_WATCHED = (Role.INPUT, Role.OUTPUT, Role.QUALITY)
_MOST_NAMES = 20


def every_numeric(schema: Schema, but: str | None = None) -> list[str]:
    """Watched numeric inputs, outputs and qualities, without the one called `but`."""
    return [
        s.name
        for s in schema.streams
        if s.kind is StreamKind.NUMERIC and s.tracked and s.role in _WATCHED and s.name != but
    ]


def named(schema: Schema, names: tuple[str, ...], kinds: tuple[StreamKind, ...], what: str) -> list[str]:
    """The names without repetition, if each is a stream of such a kind.

    Raises:
        CalibrationError: one is not.
    """
    for name in names:
        if name not in schema:
            raise CalibrationError(f"{what}: there is no stream {name!r:.80}{_there_are(schema, kinds)}")
        if schema.streams[schema.index(name)].kind not in kinds:
            words = " or ".join(kind.value for kind in kinds)
            raise CalibrationError(f"{what}: {name!r} is not {words}{_there_are(schema, kinds)}")
    return list(dict.fromkeys(names))


def _there_are(schema: Schema, kinds: tuple[StreamKind, ...]) -> str:
    names = [s.name for s in schema.streams if s.kind in kinds]
    return f" (there are: {', '.join(names[:_MOST_NAMES])})" if names else " (there are none)"
