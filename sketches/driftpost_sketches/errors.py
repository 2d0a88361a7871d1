"""Errors of the sketches.

SketchError (ValueError)
├── IncompatibleSketch    two sketches of different schemas were to be merged
├── MalformedSketch       bytes or a plain form that is not a sketch
│   └── UnsupportedVersion    written by a newer format than this reader knows
└── CalibrationError      reference data from which nothing can be promised
"""

from __future__ import annotations


class SketchError(ValueError):
    """Any refusal of this package."""


class IncompatibleSketch(SketchError):
    """Two sketches whose schemas differ can not be merged.

    Attributes:
        ours: schema id of the receiving sketch.
        theirs: schema id of the other.
    """

    def __init__(self, ours: bytes, theirs: bytes) -> None:
        self.ours, self.theirs = ours, theirs
        super().__init__(
            f"schema {theirs.hex()[:12]} can not merge into {ours.hex()[:12]}: "
            "sketches merge only when they were made with the same bundle's streams and bins"
        )


class MalformedSketch(SketchError):
    """Bytes or plain data that do not describe a sketch; the reason says where they go wrong."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"not a readable sketch: {reason}")


class UnsupportedVersion(MalformedSketch):
    """A format version that this reader does not know.

    Attributes:
        found: the version in the bytes.
        known: the newest version understood here.
    """

    def __init__(self, what: str, found: int, known: int) -> None:
        self.found, self.known = found, known
        super().__init__(
            f"{what} has format version {found}, this driftpost reads up to {known}; upgrade the reader"
        )


class CalibrationError(SketchError):
    """Reference data that can not carry a calibration; the message says what is needed instead."""
