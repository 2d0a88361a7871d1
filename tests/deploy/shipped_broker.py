"""Real Mosquitto with the configuration of deploy/mosquitto; only its paths, port and fleet are filled in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mosquitto import running_mosquitto

SHIPPED = Path(__file__).resolve().parents[2] / "deploy" / "mosquitto"
FLEET = "harbour"


@dataclass(frozen=True)
class ShippedBroker:
    """A running broker and the folder with everyone's certificates."""

    port: int
    authority: Path


@contextmanager
def running_shipped_broker(authority: Path, home: Path) -> Iterator[ShippedBroker]:
    (home / "acl").write_text((SHIPPED / "acl").read_text().replace("FLEET", FLEET))
    for name in ("ca.crt", "broker.crt", "broker.key"):
        shutil.copy(authority / name, home / name)
    configuration = (SHIPPED / "mosquitto.conf").read_text()
    assert "\nlistener 8883\n" in configuration
    configuration = configuration.replace("/etc/mosquitto/driftpost", str(home))
    configuration = configuration.replace("listener 8883\n", "listener {port} 127.0.0.1\n")
    with running_mosquitto(configuration) as broker:
        yield ShippedBroker(broker.port, authority)
