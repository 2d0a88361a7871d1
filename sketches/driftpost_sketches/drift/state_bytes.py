"""A monitor's state as bytes: restored in mid-stream, it goes on exactly as if it had never stopped."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Protocol

import numpy as np

from driftpost_sketches.drift.alarm import KINDS, Alarm
from driftpost_sketches.drift.bets import FAMILIES
from driftpost_sketches.drift.monitor import MAX_PRINCIPALS, Monitor
from driftpost_sketches.drift.recent import LEVELS, PER_LEVEL
from driftpost_sketches.drift.reference import FIELDS
from driftpost_sketches.drift.standing import Standing
from driftpost_sketches.errors import IncompatibleSketch, MalformedSketch
from driftpost_sketches.packing import Reader, blob_bytes, unwrap

MAGIC = b"DPM"
VERSION = 3
MAX_BYTES = 64 << 20  # 4 kB a stream and 4,096 streams, four times over
MAX_STANDING = 4096
MAX_JOINT = 1 << 20  # bytes; a joint test takes some 20 kB
MAX_ALARM = 1 << 16  # bytes of one alarm's JSON
_HEAD = struct.Struct("<16s16sQIIII")  # schema, bets, windows, streams, width, blocks, standing
_STANDING = struct.Struct("<IQII")  # number, raised_at, patience, principals


class Restorable(Protocol):
    """What else a detector keeps beside its monitor."""

    def restore(self, data: bytes) -> None:
        """Takes up a state where it was left; nothing is changed when it is refused."""


def encode(monitor: Monitor, bets_id: bytes, joint: bytes = b"") -> bytes:
    """The state; `bets_id` (16 bytes) names the tables it belongs to, `joint` is the joint test's state."""
    streams, width = monitor.log_r.shape
    parts = [
        _HEAD.pack(monitor.reference.schema.id, bets_id, monitor.windows, streams, width,
                   len(monitor.recent.blocks), len(monitor.standing)),
        monitor.log_r.astype("<f8").tobytes(),
        monitor.climb.astype("<f8").tobytes(),
        monitor.run.astype("<i8").tobytes(),
        monitor.holder.astype("<i8").tobytes(),
    ]  # fmt: skip
    for windows, block in monitor.recent.blocks:
        parts += [struct.pack("<I", windows), block.astype("<f4").tobytes()]
    for s in monitor.standing:
        parts += [
            _STANDING.pack(s.number, s.raised_at, s.patience, len(s.principals)),
            s.principals.astype("<i8").tobytes(),
            s.changed.astype("<f8").tobytes(),
            s.pending.astype("<f8").tobytes(),
            s.back.astype("<f8").tobytes(),
            s.again.astype("<f8").tobytes(),
            s.quiet.astype("<i8").tobytes(),
            blob_bytes(alarm_bytes(s.alarm)),
        ]
    parts.append(blob_bytes(joint))
    return MAGIC + bytes([VERSION]) + zlib.compress(b"".join(parts), 1)


def restore(monitor: Monitor, bets_id: bytes, data: bytes, joint: Restorable | None = None) -> None:
    """Puts a state back; nothing is changed when it is refused.

    Raises:
        MalformedSketch: not such a state.
        UnsupportedVersion: written by a newer format.
        IncompatibleSketch: the state of another calibration or threshold.
    """
    reader = Reader(unwrap(data, MAGIC, VERSION, "a detector's state", most=MAX_BYTES, most_plain=MAX_BYTES))
    schema_id, bets, windows, streams, width, blocks, standing = _HEAD.unpack(reader.take(_HEAD.size))
    if schema_id != monitor.reference.schema.id or bets != bets_id:
        raise IncompatibleSketch(monitor.reference.schema.id, schema_id)
    if (streams, width) != monitor.log_r.shape:
        raise MalformedSketch("the state has another number of streams or bets")
    if blocks > LEVELS * PER_LEVEL + 2 or standing > MAX_STANDING:
        raise MalformedSketch("the state has too many parts")
    log_r = reader.array("<f8", streams, width)
    climb = reader.array("<f8", streams, width)
    run = reader.array("<i8", streams, width)
    holder = reader.array("<i8", streams, FAMILIES)
    recent = []
    for _ in range(blocks):
        (length,) = struct.unpack("<I", reader.take(4))
        recent.append((int(length), reader.array("<f4", streams, FIELDS)))
    stands = [_standing(reader, streams, width) for _ in range(standing)]
    beside = reader.blob(MAX_JOINT)
    reader.finish()
    if np.isnan(log_r).any() or np.isposinf(log_r).any() or not np.isfinite(climb).all():
        raise MalformedSketch("the state holds numbers that evidence can not have")
    if not set(np.unique(holder)) <= {0, *(s.number for s in stands)} or (run < 0).any():
        raise MalformedSketch("the state's parts contradict each other")
    if not all(np.isfinite(block).all() for _, block in recent) or any(n < 1 for n, _ in recent):
        raise MalformedSketch("the state's recent sums are no counts")
    if (joint is None) != (not beside):
        raise IncompatibleSketch(monitor.reference.schema.id, schema_id)
    if joint is not None:
        joint.restore(beside)
    monitor.windows = windows
    monitor.log_r, monitor.climb, monitor.run, monitor.holder = log_r, climb, run, holder
    monitor.recent.blocks = recent
    monitor.standing = stands


def _standing(reader: Reader, streams: int, width: int) -> Standing:
    number, raised_at, patience, count = _STANDING.unpack(reader.take(_STANDING.size))
    if not 1 <= count <= MAX_PRINCIPALS or number < 1:
        raise MalformedSketch("a standing alarm without streams or number")
    principals = reader.array("<i8", count)
    changed = reader.array("<f8", count, FIELDS)
    pending = reader.array("<f8", count, FIELDS)
    back = reader.array("<f8", count)
    again = reader.array("<f8", count, width)
    quiet = reader.array("<i8", count)
    if (principals < 0).any() or (principals >= streams).any():
        raise MalformedSketch("a standing alarm names a stream that does not exist")
    if not all(np.isfinite(array).all() for array in (changed, pending, back)) or np.isnan(again).any():
        raise MalformedSketch("a standing alarm's numbers are not finite")
    alarm = read_alarm(reader.blob(MAX_ALARM))
    return Standing(number, raised_at, patience, principals, alarm, changed, pending, back, again, quiet)


def alarm_bytes(alarm: Alarm) -> bytes:
    """An alarm as `read_alarm` reads it."""
    plain = {name: getattr(alarm, name) for name in Alarm.__dataclass_fields__}
    return json.dumps(plain, separators=(",", ":")).encode()


def read_alarm(data: bytes) -> Alarm:
    """A standing alarm from its bytes.

    Raises:
        MalformedSketch: not such an alarm.
    """
    try:
        plain = json.loads(data)
        alarm = Alarm(
            state=str(plain["state"]),
            streams=tuple((str(name), float(share)) for name, share in plain["streams"]),
            kind=str(plain["kind"]),
            log_e=float(plain["log_e"]),
            effect=float(plain["effect"]),
            effect_natural=float(plain["effect_natural"]),
            unit=str(plain["unit"]),
            direction=str(plain["direction"]),
            onset_windows_ago=int(plain["onset_windows_ago"]),
            text=str(plain["text"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MalformedSketch(f"a standing alarm can not be read: {error}") from error
    if alarm.kind not in KINDS or alarm.state != "raised":
        raise MalformedSketch("a standing alarm of unknown kind")
    return alarm
