"""Findings: what devices reported."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select, tuple_

from driftpost_aggregator.store import tables
from driftpost_aggregator.web.cursor import Page, decode, encode

_finding = tables.findings.c


@dataclass(frozen=True)
class Finding:
    """One finding as its device reported it; times in Unix milliseconds, corrected for bad clocks.

    Attributes:
        streams: [[name, share of the evidence], ...], largest first.
        effect: Reference standard deviations, or difference of shares.
        effect_natural: In the stream's unit.
        cleared_ms: Of a raised one, when the device took it back.
    """

    device: str
    incarnation: int
    seq: int
    id: str
    bundle: str
    state: str
    kind: str
    source: str
    streams: list[list[str | float]]
    log_e: float
    effect: float
    effect_natural: float
    unit: str
    direction: str
    onset_ms: int
    at_ms: int
    received_ms: int
    text: str
    incident: str | None
    cleared_ms: int | None


_COLUMNS = tuple(_finding[name] for name in Finding.__dataclass_fields__)


def list_findings(
    connection: Connection,
    *,
    device: str = "",
    incident: str = "",
    limit: int,
    cursor: str | None = None,
) -> Page[Finding]:
    """Findings, newest first, of one device, of one incident, or of all.

    Raises:
        BadParameter: the cursor is none of ours.
    """
    key = (_finding.at_ms, _finding.device, _finding.incarnation, _finding.seq)
    query = select(*_COLUMNS).order_by(*(column.desc() for column in key)).limit(limit + 1)
    if device:
        query = query.where(_finding.device == device)
    if incident:
        query = query.where(_finding.incident == incident)
    if cursor:
        query = query.where(tuple_(*key) < tuple_(*decode(cursor, int, str, int, int)))
    found = [Finding(*row) for row in connection.execute(query)]
    last = found[limit - 1] if len(found) > limit else None
    following = encode(last.at_ms, last.device, last.incarnation, last.seq) if last else None
    return Page(found[:limit], following)
