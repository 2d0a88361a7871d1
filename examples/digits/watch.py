"""Looks at the fleet while it runs: each agent's own status, and the aggregator's database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

import books
from camera import NORMAL, Effect
from feeder import Feeder, Tally
from layout import Layout, Ports
from progress import DeviceLine
from scenario import DEVICES, Device
from summary import Incident

STATUS_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Sight:
    """What was seen; the fields as in `progress.Snapshot`."""

    devices: Sequence[DeviceLine]
    incidents: Mapping[str, str]
    request: str


class Watch:
    """Asks every agent for its status, and reads the aggregator's database.

    Args:
        layout: Where the database is.
        ports: Where the agents answer.
    """

    def __init__(self, layout: Layout, ports: Ports) -> None:
        self._layout = layout
        self._ports = ports
        self._client = httpx.Client(timeout=STATUS_TIMEOUT_S)

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def look(self, feeders: Sequence[Feeder]) -> Sight:
        """See how everything is.

        Args:
            feeders: The cameras, in the order of `DEVICES`.
        """
        lines = [
            device_line(device, feeder, self.status(device))
            for device, feeder in zip(DEVICES, feeders, strict=True)
        ]
        found = {
            f"{one.id} {one.scope_key} {one.state}": told(one)
            for one in books.incidents(self._layout.database)
        }
        states = books.requests(self._layout.database).values()
        return Sight(lines, found, ", ".join(states) or "none")

    def statuses(self) -> dict[str, dict[str, Any]]:
        """Every agent's status document, by device."""
        return {device.name: self.status(device) for device in DEVICES}

    def status(self, device: Device) -> dict[str, Any]:
        """An agent's status document; empty if it did not answer in time."""
        try:
            answer = self._client.get(f"http://127.0.0.1:{self._ports.agents[device.name]}/status")
            document: dict[str, Any] = answer.raise_for_status().json()
        except httpx.HTTPError:
            return {}
        return document


def device_line(device: Device, feeder: Feeder, status: dict[str, Any]) -> DeviceLine:
    """One device's line from its camera's score and its agent's status document."""
    windows, findings = status.get("windows", {}), status.get("findings", {})
    return DeviceLine(
        name=device.name,
        camera=device.camera,
        runtime=device.runtime,
        effect=in_words(feeder.effect),
        fed=feeder.fed,
        accuracy=feeder.tallies.get(feeder.phase, Tally()).accuracy,
        recorded=windows.get("recorded", 0),
        sent=windows.get("sent", 0),
        acknowledged=windows.get("acked", 0),
        findings=findings.get("standing", 0),
    )


def in_words(effect: Effect) -> str:
    """What happens to a camera; empty if nothing does."""
    if effect == NORMAL:
        return ""
    return "frozen" if effect.frozen else "fogged"


def told(incident: Incident) -> str:
    """One line about an incident."""
    state = "" if incident.state == "open" else f" ({incident.state})"
    return f"{incident.cause}{state}"
