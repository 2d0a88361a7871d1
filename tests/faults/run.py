"""`make faults`: every fault as often as docs/durability.md says, and the table of what it cost."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agent.bundles import REFERENCE_ROWS, built, mlp, tabular_rows
from driftpost_agent.shared_memory import VARIABLE
from driftpost_models.signing import generate, save_public_key
from faults.damage import damage_pages
from faults.full_disk import fill_the_disk
from faults.kills import kill_at_random_moments
from faults.outcome import Outcome, table
from faults.power_cuts import cut_the_power

Fault = Callable[[Path], Outcome]


def faults(bundles: Path, kills: int, kill_minutes: float) -> dict[str, Fault]:
    """All faults by name, each with its full count."""
    return {
        "cuts-full": lambda folder: cut_the_power(folder, "full"),
        "cuts-normal": lambda folder: cut_the_power(folder, "normal"),
        "damage": lambda folder: damage_pages(folder, 100),
        "disk": lambda folder: fill_the_disk(folder, bundles, 10),
        "kills": lambda folder: kill_at_random_moments(
            folder, bundles, kills, seed=500, limit_s=kill_minutes * 60
        ),
    }


def bundles_in(folder: Path) -> Path:
    """The agents' bundle and its key."""
    folder.mkdir()
    key = generate()
    built(folder, "mlp", mlp(), tabular_rows(REFERENCE_ROWS), key=key, window_seconds=1.0)
    save_public_key(key, folder / "team.pub")
    return folder


def main() -> None:
    """The command behind `make faults`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of faults")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--kill-minutes", type=float, default=120.0, help="the kills end then at the latest")
    parser.add_argument("--out", type=Path, default=None, help="also write the table there")
    options = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        folder = Path(temporary)
        os.environ[VARIABLE] = temporary
        every = faults(bundles_in(folder / "bundles"), options.kills, options.kill_minutes)
        for name, fault in every.items():
            if options.only and name not in options.only:
                continue
            place = folder / name
            place.mkdir()
            begun = time.monotonic()
            outcomes.append(fault(place))
            sys.stderr.write(f"{name}: {time.monotonic() - begun:.0f} s\n{outcomes[-1].line()}\n")
            if options.out is not None:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(table(outcomes))
    sys.stdout.write(table(outcomes))


if __name__ == "__main__":
    main()
