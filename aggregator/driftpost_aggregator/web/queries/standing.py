"""What "stands now" means, in one place, and which incidents each device is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, select

from driftpost_aggregator.store import tables

# Incidents that still want something from a person.
STANDING_STATES = ("open", "acknowledged", "muted")

# A raised finding that its device has not taken back; the table has a partial index on exactly this.
STANDING = (tables.findings.c.state == "raised") & tables.findings.c.cleared_ms.is_(None)

# A device in more incidents than this shows the first ones; its own page lists all.
_PER_DEVICE = 4


@dataclass(frozen=True)
class Standing:
    """One finding that stands, as much as a list shows of it.

    Attributes:
        kind: Shift, stuck, ...
        text: The device's own sentence.
        incident: The incident it belongs to, or None until triage has decided.
        onset_ms: When it began.
    """

    kind: str
    text: str
    incident: str | None
    onset_ms: int


def standing_findings(connection: Connection, devices: Sequence[str]) -> dict[str, list[Standing]]:
    """Standing findings of these devices, by device, newest onset first, a few each."""
    if not devices:
        return {}
    finding = tables.findings.c
    rows = connection.execute(
        select(finding.device, finding.kind, finding.text, finding.incident, finding.onset_ms)
        .where(STANDING, finding.device.in_(devices))
        .order_by(finding.onset_ms.desc())
        .limit(len(devices) * 16)
    )
    found: dict[str, list[Standing]] = {}
    for device, kind, text, incident, onset_ms in rows:
        held = found.setdefault(device, [])
        if len(held) < _PER_DEVICE:
            held.append(Standing(kind, text, incident, onset_ms))
    return found
