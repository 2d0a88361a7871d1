"""The first aggregator.toml that `driftpost aggregator init` writes."""

from __future__ import annotations

from pathlib import Path


def starter(path: Path) -> str:
    """A first aggregator.toml, with what an owner has to decide on top and comments that say why."""
    return f"""\
# {path.name}: settings of the driftpost aggregator; `driftpost aggregator settings` lists them all.

[fleet]
name = "default"            # the same as in every agent.toml; it stands in the topics
budget = "1 per fleet-month"  # false alarms that the tests on merged windows may raise

[database]
url = "sqlite:///driftpost.db"  # beside this file; for real fleets postgresql+psycopg://user@host/driftpost

[mqtt]
host = "127.0.0.1"
port = 1883
# username = "aggregator"
# password_file = "mqtt-password"
# ca = "broker-ca.pem"       # turns TLS on

[rollups]
bucket_s = 300              # merged windows of cohorts and fleet; not shorter than the devices' windows

[web]
host = "127.0.0.1"
port = 8088
# public_url = "https://driftpost.example.com"   # for links in retrain requests

[retrain]
scopes = ["cohort", "fleet"]
kinds = ["covariate_shift", "output_shift", "label_shift", "concept_shift"]
min_effect = 0.2            # reference standard deviations
min_devices = 2
min_share = 0.5             # of the scope's devices
cooldown_s = 86400
per_week = 5

# [[retrain.targets]]
# name = "pipeline"
# url = "https://pipeline.example.com/hooks/driftpost"
# secret_file = "pipeline-secret"   # make one: driftpost aggregator secret pipeline-secret
"""
