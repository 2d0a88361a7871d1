"""How long the model took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from driftpost_models.probes.block import Block
from driftpost_models.probes.probe import Extract, Probe, StreamDraft
from driftpost_sketches.schema import Role, StreamKind

# Latency belongs to the board, not to the reference: five bins a decade from 10 us to 100 s fit every one.
_EDGES = tuple(float(f"{10.0 ** (1 + k / 5):.3g}") for k in range(36))


@dataclass
class Latency(Probe):
    """Microseconds of one call."""

    kind: ClassVar[str] = "latency"

    def streams(self) -> tuple[StreamDraft, ...]:
        """One stream; not tracked, because the machine that built the bundle is not the one that runs it."""
        return (
            StreamDraft("latency_us", StreamKind.NUMERIC, Role.LATENCY, "us", tracked=False, edges=_EDGES),
        )

    def extract(self, block: Block) -> Extract:
        """Hand it over."""
        return np.asarray(block.latency_us, np.float64)[:, np.newaxis], {}
