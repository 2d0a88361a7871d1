"""What became of a fault that was made many times: one line of the table in docs/durability.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """Counts what faults cost.

    Attributes:
        fault: what was done, in a few words.
        times: how often.
        lost: what was lost, in words and numbers; "nothing" is a claim that was checked.
        twice: what was stored or counted twice.
        recovery_s: seconds from the end of each fault to normal work.
        notes: what else a person should know.
    """

    fault: str
    times: int = 0
    lost: str = "nothing"
    twice: str = "nothing"
    recovery_s: list[float] = field(default_factory=list)
    notes: str = ""

    def line(self) -> str:
        """A line of a Markdown table."""
        if self.recovery_s:
            ordered = sorted(self.recovery_s)
            recovery = f"{_seconds(ordered[len(ordered) // 2])}, at most {_seconds(ordered[-1])}"
        else:
            recovery = "at once"
        return f"| {self.fault} | {self.times} | {self.lost} | {self.twice} | {recovery} | {self.notes} |"


def table(outcomes: Iterable[Outcome]) -> str:
    """All outcomes, for people."""
    head = "| fault | times | lost | twice | time to recover (median, worst) | what happens |\n"
    return head + "| --- | --: | --- | --- | --- | --- |\n" + "\n".join(o.line() for o in outcomes) + "\n"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 0.1 else f"{value * 1000:.0f} ms"
