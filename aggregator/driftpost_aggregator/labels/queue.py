"""Labels that wait for their device: queued by device in parts that fit a message, each part once.

A part's id is made of its device and its labels. Pushing a file twice therefore queues nothing twice, and a
device that is asked twice recognises the id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine, insert, select, update

from driftpost_aggregator import audit
from driftpost_aggregator.labels.reading import Given, Refused, counted
from driftpost_aggregator.store import locks
from driftpost_aggregator.store.database import writing
from driftpost_aggregator.store.tables import devices, label_batches, label_pushes
from driftpost_sync.messages.given_labels import MAX_GIVEN, MAX_LABEL_CHARS, GivenLabel, GivenLabels
from driftpost_sync.messages.limits import MAX_BODY_BYTES

# Bytes of a part, so that its request fits a message.
_MAX_PART_BYTES = MAX_BODY_BYTES - 512
_NAMES_PER_QUERY = 1_000
UNKNOWN_DEVICE = "no such device is known"
TOO_LARGE = "its labels are larger than a message; name the classes by number, or label a smaller batch"


@dataclass(frozen=True)
class Pushed:
    """What became of a push.

    Attributes:
        push: its id.
        labels: inferences that were labelled, refused ones included.
        queued: of them on their way to their devices.
        already: of them pushed before in the very same parts.
        refused: reason to how many.
        lines: (line, reason) of the first that were refused.
    """

    push: str
    labels: int
    queued: int
    already: int
    refused: dict[str, int]
    lines: list[tuple[int, str]] = field(default_factory=list)


# Refused lines that an answer names; the counts tell of the others.
MAX_LINES = 50


def push_labels(
    engine: Engine, found: Sequence[Given | Refused], *, push: str, actor: str, now_ms: int, expire_s: float
) -> Pushed:
    """Queue labels for their devices.

    Args:
        engine: the database.
        found: as read.
        push: id of this push.
        actor: who pushes.
        now_ms: Unix ms.
        expire_s: how long a part waits for its device, seconds.
    """
    refused = [one for one in found if isinstance(one, Refused)]
    given = [one for one in found if isinstance(one, Given)]
    with writing(engine) as connection:
        locks.hold(connection, locks.LABELS)
        names = sorted({one.device for one in given})
        known: set[str] = set()
        for begin in range(0, len(names), _NAMES_PER_QUERY):
            chosen = names[begin : begin + _NAMES_PER_QUERY]
            query = select(devices.c.device).where(devices.c.device.in_(chosen))
            known |= set(connection.execute(query).scalars())
        by_device: dict[str, list[GivenLabel]] = {}
        for one in given:
            if one.device not in known:
                refused.append(Refused(one.line, UNKNOWN_DEVICE))
            elif _too_large(one.label):
                refused.append(Refused(one.line, TOO_LARGE))
            else:
                by_device.setdefault(one.device, []).append(one.label)
        queued = already = 0
        for device, labels in sorted(by_device.items()):
            for part, body in _parts(labels):
                batch = batch_id(device, body)
                values = {
                    "push": push,
                    "state": "waiting",
                    "created_ms": now_ms,
                    "expires_ms": now_ms + round(expire_s * 1000),
                    "attempts": 0,
                    "next_attempt_ms": now_ms,
                    "body": body,
                }
                before = connection.execute(
                    select(label_batches.c.state).where(label_batches.c.batch == batch)
                ).scalar()
                if before is None:
                    connection.execute(
                        insert(label_batches).values(
                            batch=batch,
                            device=device,
                            labels=len(part),
                            counted=0,
                            twice=0,
                            unknown=0,
                            refused=0,
                            detail="",
                            **values,
                        )
                    )
                elif before == "expired":
                    # It never reached the device: this is a new beginning.
                    connection.execute(
                        update(label_batches)
                        .where(label_batches.c.batch == batch)
                        .values(settled_ms=None, detail="", **values)
                    )
                else:
                    already += len(part)
                    continue
                queued += len(part)
        refused.sort(key=lambda one: one.line)
        pushed = Pushed(
            push,
            len(found),
            queued,
            already,
            counted(one.reason for one in refused),
            [(one.line, one.reason) for one in refused[:MAX_LINES]],
        )
        connection.execute(
            insert(label_pushes).values(
                push=push,
                at_ms=now_ms,
                actor=actor,
                labels=pushed.labels,
                queued=queued,
                already=already,
                refused=pushed.refused,
            )
        )
        audit.append(
            connection,
            at_ms=now_ms,
            actor=actor,
            action="labels pushed",
            subject=push,
            words=f"{queued} of {pushed.labels} labels queued for {len(by_device)} devices, "
            f"{already} known already, {len(refused)} refused",
        )
    return pushed


def batch_id(device: str, body: bytes) -> str:
    """The id of a part: the same for the same labels of the same device."""
    return "lb-" + hashlib.sha256(device.encode("ascii") + b"\n" + body).hexdigest()[:32]


def _too_large(label: GivenLabel) -> bool:
    """Whether one inference's labels fit no message: names of many rows may not."""
    if len(label.labels) * (MAX_LABEL_CHARS * 4 + 5) < _MAX_PART_BYTES // 2:
        return False
    return len(GivenLabels((label,)).to_bytes()) > _MAX_PART_BYTES


def _parts(labels: Sequence[GivenLabel]) -> Iterator[tuple[Sequence[GivenLabel], bytes]]:
    """Labels in parts that fit a message, with their bytes."""
    begin = 0
    while begin < len(labels):
        end = min(begin + MAX_GIVEN, len(labels))
        body = GivenLabels(tuple(labels[begin:end])).to_bytes()
        while len(body) > _MAX_PART_BYTES and end - begin > 1:
            end = begin + (end - begin) // 2
            body = GivenLabels(tuple(labels[begin:end])).to_bytes()
        yield labels[begin:end], body
        begin = end
