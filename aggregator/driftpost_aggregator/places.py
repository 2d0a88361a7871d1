"""A batch of messages taken apart before any lock is held: envelopes, bodies, sketches.

Everything here costs processor time and nothing else, so several workers do it side by side, and SQLite's one
writer does not wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from driftpost_aggregator.checks import joint_of
from driftpost_aggregator.errors import MessageRejected
from driftpost_aggregator.registry import KnownBundle, Registry
from driftpost_aggregator.store.database import reading
from driftpost_aggregator.times import Sent
from driftpost_sketches.window_batch import WindowBatch
from driftpost_sync.errors import MalformedMessage
from driftpost_sync.messages import Body, Envelope, Item, WindowBody, decode_body


@dataclass(frozen=True)
class Incoming:
    """A message as it came from the broker; `received_ms` is our clock, Unix ms."""

    topic: str
    payload: bytes
    received_ms: int


@dataclass(frozen=True)
class Place:
    """One body of a message, and where it stood."""

    incoming: Incoming
    envelope: Envelope
    item: Item

    @property
    def device(self) -> str:
        """Who sent it."""
        return self.envelope.device

    @property
    def key(self) -> tuple[str, int]:
        """Whose sequence number it has."""
        return self.envelope.device, self.envelope.incarnation

    @property
    def sent(self) -> Sent:
        """The clocks of its message."""
        return Sent(self.envelope.mono, self.envelope.wall, self.incoming.received_ms)


@dataclass(frozen=True)
class ReadSketch:
    """A window's sketch, read together with others of its bundle.

    Attributes:
        known: its bundle.
        batch, place: where it was read to.
    """

    known: KnownBundle
    batch: WindowBatch
    place: int

    @property
    def rows(self) -> int:
        """Inferences in it."""
        return int(self.batch.rows[self.place])

    @property
    def parts(self) -> int:
        """Base windows in it."""
        return int(self.batch.parts[self.place])

    def check(self) -> None:
        """Refuse what can not have been made with its bundle.

        Raises:
            MessageRejected: with what does not fit.
        """
        reason = self.batch.refused.get(self.place)
        if reason is not None:
            raise MessageRejected(reason)


def decode(places: Sequence[Place]) -> list[Body | MalformedMessage]:
    """The body of each place, or why it has none."""
    decoded: list[Body | MalformedMessage] = []
    for place in places:
        try:
            decoded.append(decode_body(place.item.kind, place.item.body))
        except MalformedMessage as error:
            decoded.append(error)
    return decoded


def read_sketches(
    bodies: Sequence[Body | MalformedMessage], registry: Registry, engine: Engine
) -> dict[int, ReadSketch]:
    """The sketches of windows whose bundles are known, by the place of their bodies.

    Windows of unknown bundles, or with another schema than their bundle's, are left to be read by themselves.
    """
    by_bundle: dict[str, list[int]] = {}
    for index, body in enumerate(bodies):
        if isinstance(body, WindowBody):
            by_bundle.setdefault(body.bundle, []).append(index)
    if any(registry.remembered(bundle) is None for bundle in by_bundle):
        with reading(engine) as connection:
            for bundle in by_bundle:
                registry.find(connection, bundle)
    found: dict[int, ReadSketch] = {}
    for bundle, indices in by_bundle.items():
        known = registry.remembered(bundle)
        if known is None:
            continue
        fitting = [index for index in indices if _window(bodies[index]).schema_id == known.schema.id]
        together = WindowBatch.most(known.schema)
        for begin in range(0, len(fitting), together):
            part = fitting[begin : begin + together]
            batch = WindowBatch(known.schema, [_window(bodies[i]).window for i in part], joint_of(known))
            found |= {index: ReadSketch(known, batch, place) for place, index in enumerate(part)}
    return found


def _window(body: Body | MalformedMessage) -> WindowBody:
    assert isinstance(body, WindowBody)
    return body
