"""State of a `ConceptDetector` as bytes, so that a restart changes nothing."""

from __future__ import annotations

import dataclasses
import json
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from driftpost_sketches import packing
from driftpost_sketches.drift.alarm import KINDS, Alarm
from driftpost_sketches.errors import IncompatibleSketch, MalformedSketch
from driftpost_sketches.labels.dependence import LEVELS
from driftpost_sketches.labels.error_rate import StandingConcept

if TYPE_CHECKING:
    from driftpost_sketches.labels.concept import ConceptDetector

MAGIC = b"DPE"
VERSION = 1
MAX_BYTES = 1 << 18
MAX_ALARM = 1 << 14
_ARRAYS = ("log_r", "climb", "run")


def encode(detector: ConceptDetector) -> bytes:
    """The whole state, a few kB."""
    dependence = detector.dependence
    body = detector.id
    for name in _ARRAYS:
        body += getattr(detector, name).astype("<f8").tobytes()
    body += detector.since.astype("<f8").tobytes() + detector.total.astype("<f8").tobytes()
    body += dependence.moves.astype("<f8").tobytes() + dependence.levels.astype("<f8").tobytes()
    raised = detector.raised
    body += bytes([raised is not None])
    if raised is not None:
        alarm = json.dumps(dataclasses.asdict(raised.alarm), separators=(",", ":")).encode()
        body += struct.pack("<Idd", raised.group, raised.changed, raised.back) + packing.blob_bytes(alarm)
    return MAGIC + bytes([VERSION]) + zlib.compress(body, 6)


def restore(detector: ConceptDetector, data: bytes) -> None:
    """Takes up a state where it was left; the detector is unchanged where that is refused.

    Raises:
        MalformedSketch: the bytes are no such state.
        UnsupportedVersion: written by a newer format.
        IncompatibleSketch: of another reference, threshold or version of the bets; start afresh then.
    """
    plain = packing.unwrap(
        data, MAGIC, VERSION, "a label detector's state", most=MAX_BYTES, most_plain=MAX_BYTES
    )
    reader = packing.Reader(plain)
    identity = reader.take(16)
    if identity != detector.id:
        raise IncompatibleSketch(detector.id, identity)
    shape = detector.log_r.shape
    arrays = {name: reader.array("<f8", *shape) for name in _ARRAYS}
    since, total = reader.array("<f8", 4, *shape), reader.array("<f8", 2)
    moves = reader.array("<f8", 2, 2)
    levels = reader.array("<f8", *detector.dependence.levels.shape)
    raised = _raised(reader, len(detector.usual)) if reader.take(1)[0] else None
    reader.finish()
    numbers = [arrays["climb"], arrays["run"], since, total, moves, levels]
    if not all(np.isfinite(part).all() and (part >= 0).all() for part in numbers):
        raise MalformedSketch("a label detector's state holds numbers that it can not have come to")
    if np.isnan(arrays["log_r"]).any() or np.isposinf(arrays["log_r"]).any() or len(levels) != LEVELS:
        raise MalformedSketch("a label detector's evidence is no number")
    for name, array in arrays.items():
        setattr(detector, name, array)
    detector.since, detector.total, detector.raised = since, total, raised
    detector.dependence.moves, detector.dependence.levels = moves, levels


def _raised(reader: packing.Reader, groups: int) -> StandingConcept:
    group, changed, back = struct.unpack("<Idd", reader.take(20))
    if group >= groups or not (0.0 <= changed <= 1.0 and 0.0 <= back < np.inf):
        raise MalformedSketch("a standing alarm on labels is out of range")
    try:
        plain = json.loads(reader.blob(MAX_ALARM))
        plain["streams"] = tuple((str(name), float(share)) for name, share in plain["streams"])
        alarm = Alarm(**plain)
        numbers = [alarm.log_e, alarm.effect, alarm.effect_natural]
        sound = bool(np.isfinite(np.array(numbers, dtype=np.float64)).all())
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MalformedSketch(f"a standing alarm can not be read: {error}") from error
    texts = (alarm.text, alarm.unit, alarm.direction)
    if (
        not sound
        or alarm.kind not in KINDS
        or alarm.state != "raised"
        or type(alarm.onset_windows_ago) is not int
    ):
        raise MalformedSketch("a standing alarm on labels that is none")
    if not alarm.streams or not all(isinstance(text, str) for text in texts):
        raise MalformedSketch("a standing alarm on labels without streams or text")
    return StandingConcept(alarm, int(group), float(changed), float(back))
