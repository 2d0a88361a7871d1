"""Which bundles served here, and what became of each attempt to activate one."""

from __future__ import annotations

from dataclasses import dataclass

from driftpost_agent.store_connection import StoreConnection


@dataclass(frozen=True)
class Activation:
    """One line of the activation history; `number` grows from line to line."""

    bundle: str
    name: str
    version: str
    outcome: str
    detail: str
    wall: int | None
    number: int = 0


class ActivationLog(StoreConnection):
    """The activation history."""

    def record_activation(self, bundle: str, name: str, version: str, outcome: str, detail: str = "") -> None:
        """Add a line to the activation history."""
        with self.transaction() as db:
            db.execute(
                "insert into activations (bundle, name, version, outcome, detail, incarnation, mono, wall)"
                " values (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    bundle,
                    name,
                    version,
                    outcome,
                    detail,
                    self.incarnation,
                    self._clock.mono_ms(),
                    self._clock.wall_ms(),
                ),
            )

    def activations(self, limit: int = 20) -> list[Activation]:
        """The activation history, newest first."""
        with self.lock:
            found = self._db.execute(
                "select bundle, name, version, outcome, detail, wall, id from activations"
                " order by id desc limit ?",
                (limit,),
            ).fetchall()
        return [Activation(*row) for row in found]
