"""Where everything of one run is: its folders and its loopback ports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from processes import free_ports
from scenario import DEVICES, MODEL, Device


@dataclass(frozen=True)
class Layout:
    """Where everything of one run is.

    Attributes:
        root: The run's folder.
    """

    root: Path

    @property
    def logs(self) -> Path:
        """One log for each process."""
        return self.root / "logs"

    @property
    def aggregator(self) -> Path:
        """The aggregator's folder."""
        return self.root / "aggregator"

    @property
    def database(self) -> Path:
        """The aggregator's database."""
        return self.aggregator / "fleet.db"

    @property
    def receiver(self) -> Path:
        """The receiver's folder."""
        return self.root / "receiver"

    @property
    def received(self) -> Path:
        """What arrived at the receiver."""
        return self.receiver / "received.jsonl"

    @property
    def secret(self) -> Path:
        """The webhook's secret."""
        return self.receiver / "webhook.secret"

    @property
    def bundles(self) -> Path:
        """The signed bundles and what they are built from."""
        return self.root / "bundles"

    @property
    def key(self) -> Path:
        """The key that signs bundles."""
        return self.bundles / "demo.key"

    @property
    def public_key(self) -> Path:
        """The key that the agents trust."""
        return self.bundles / "demo.key.pub"

    @property
    def bundle_config(self) -> Path:
        """What the bundles promise."""
        return self.bundles / "bundle.toml"

    @property
    def classes(self) -> Path:
        """Names of the classes."""
        return self.bundles / "classes.txt"

    def reference(self, runtime: str) -> Path:
        """The recording that a runtime's baseline is made from."""
        return self.bundles / f"reference-{runtime}.npz"

    def bundle(self, runtime: str) -> Path:
        """The signed bundle for one runtime."""
        return self.bundles / f"{MODEL}-{runtime}.bundle"

    def device(self, device: Device) -> Path:
        """A device's folder: its configuration and its store."""
        return self.root / "devices" / device.name

    def store(self, device: Device) -> Path:
        """A device's database."""
        return self.device(device) / "agent.db"


@dataclass(frozen=True)
class Ports:
    """Loopback ports of one run; those of the agents by device."""

    broker: int
    dashboard: int
    receiver: int
    agents: dict[str, int]

    @classmethod
    def choose(cls) -> Ports:
        """Free ones."""
        broker, dashboard, receiver, *agents = free_ports(3 + len(DEVICES))
        names = (device.name for device in DEVICES)
        return cls(broker, dashboard, receiver, dict(zip(names, agents, strict=True)))
