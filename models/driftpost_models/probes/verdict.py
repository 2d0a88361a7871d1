"""The guard's word on each inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from driftpost_models.probes.block import Block
from driftpost_models.probes.probe import Extract, Probe, StreamDraft
from driftpost_models.reasons import Reason
from driftpost_sketches.schema import Role, StreamKind


@dataclass
class Verdict(Probe):
    """Why an inference was found good or bad."""

    kind: ClassVar[str] = "verdict"

    def streams(self) -> tuple[StreamDraft, ...]:
        """One stream; not tracked: the reference never met the checks that run on the device."""
        return (
            StreamDraft(
                "verdict",
                StreamKind.CATEGORICAL,
                Role.QUALITY,
                labels=tuple(reason.label for reason in Reason),
                tracked=False,
                categories=tuple(int(reason) for reason in Reason),
            ),
        )

    def extract(self, block: Block) -> Extract:
        """Hand it over."""
        return np.asarray(block.verdict, np.float64)[:, np.newaxis], {}
