"""How much evidence is missing: of some devices, what was recorded and has not come.

By the devices' own ledgers (`recorded = acked + pending + quarantined`), the newest of every incarnation, and
by when each device was last heard.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, Double, cast, func, select

from driftpost_aggregator.store.tables import devices, ledgers

# Devices whose ledgers are added up; of a wider scope so many are asked, evenly by name.
MAX_DEVICES = 5_000
_NAMES_PER_QUERY = 500


@dataclass(frozen=True)
class ScopeCoverage:
    """Of the devices in a scope.

    Attributes:
        devices: asked.
        silent: of these, have sent no window since the onset.
        with_ledger: have told what they recorded.
        recorded_rows, pending_rows, quarantined_rows: inferences by their newest ledgers.
        lost_rows: that a power cut took before they were recorded.
    """

    devices: int
    silent: int
    with_ledger: int
    recorded_rows: int
    pending_rows: int
    quarantined_rows: int
    lost_rows: int

    @property
    def missing(self) -> float | None:
        """Share of what was inferred that the aggregator does not have, 0 to 1; None without a ledger."""
        inferred = self.recorded_rows + self.lost_rows
        if not inferred:
            return None
        return (self.pending_rows + self.quarantined_rows + self.lost_rows) / inferred

    def to_dict(self) -> dict[str, object]:
        """Plain types, as stored and sent."""
        missing = self.missing
        return asdict(self) | {"missing": None if missing is None else round(missing, 6)}


def coverage_of(connection: Connection, names: Iterable[str], onset_ms: int) -> ScopeCoverage:
    """Coverage of some devices.

    Args:
        connection: to read with.
        names: of the devices.
        onset_ms: who has sent no window since then is silent, Unix ms.
    """
    wanted = sorted(names)
    wanted = wanted[:: -(-len(wanted) // MAX_DEVICES) or 1]
    silent = told = 0
    sums = [0, 0, 0, 0]
    ledger = ledgers.c
    columns = (
        ledger.recorded_rows,
        ledger.pending_rows,
        ledger.quarantined_rows,
        ledger.lost_rows_at_start,
    )
    for begin in range(0, len(wanted), _NAMES_PER_QUERY):
        some = wanted[begin : begin + _NAMES_PER_QUERY]
        heard = connection.scalar(
            select(func.count()).where(devices.c.device.in_(some), devices.c.last_window_ms > onset_ms)
        )
        silent += len(some) - int(heard or 0)
        told += int(
            connection.scalar(select(func.count(func.distinct(ledger.device))).where(ledger.device.in_(some)))
            or 0
        )
        # As doubles: a device that lies with the largest counts must not make the sum overflow.
        row = connection.execute(
            select(*(func.coalesce(func.sum(cast(column, Double)), 0.0) for column in columns)).where(
                ledger.device.in_(some)
            )
        ).one()
        sums = [total + int(value) for total, value in zip(sums, row, strict=True)]
    return ScopeCoverage(len(wanted), silent, told, *sums)
