"""What the demo asks of driftpost: the bundles' policy, and the configuration of agents and aggregator."""

from __future__ import annotations

from layout import Layout, Ports
from scenario import FLEET, WINDOW_SECONDS, Device
from toml_text import toml_text

# The reference and the test pool hold some 500 images each, so by chance alone their means differ by up to
# about 0.2 standard deviations; smaller changes than this are not worth knowing here.
SMALLEST_EFFECT = 0.25
BUDGET = "1 per device-month"
LEDGER_SECONDS = 5.0


def bundle_toml() -> str:
    """What the bundles promise."""
    return toml_text(
        {"policy": {"budget": BUDGET, "smallest_effect": SMALLEST_EFFECT, "window_seconds": WINDOW_SECONDS}}
    )


def agent_toml(layout: Layout, ports: Ports, device: Device) -> str:
    """A device's configuration."""
    return toml_text(
        {
            "device": {"id": device.name, "fleet": FLEET, "attributes": device.attributes},
            "model": {"bundle": layout.bundle(device.runtime), "trusted_keys": [layout.public_key]},
            "server": {"port": ports.agents[device.name]},
            "store": {"path": layout.store(device)},
            "mqtt": {"host": "127.0.0.1", "port": ports.broker},
            # As everything is faster here: the dashboard's account of all windows is a few seconds old.
            "sync": {"ledger_seconds": LEDGER_SECONDS},
            # Every process reads the same clock here, synchronised or not.
            "clock": {"trust_wall": True},
        }
    )


def aggregator_toml(layout: Layout, ports: Ports) -> str:
    """The aggregator's configuration."""
    return toml_text(
        {
            "fleet": {"name": FLEET},
            "database": {"url": f"sqlite:///{layout.database}"},
            "mqtt": {"host": "127.0.0.1", "port": ports.broker},
            "rollups": {"bucket_s": round(WINDOW_SECONDS)},
            "triage": {"interval_s": 1.0},
            "web": {"port": ports.dashboard, "public_url": f"http://127.0.0.1:{ports.dashboard}"},
            "retrain.targets": [
                {
                    "name": "pipeline",
                    "url": f"http://127.0.0.1:{ports.receiver}/retrain",
                    "secret_file": layout.secret,
                    "allow_private": True,
                }
            ],
        }
    )
