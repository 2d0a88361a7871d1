"""The agent's bundles, for its faults."""

from agent.conftest import bundles, key, mlp_bundle

__all__ = ["bundles", "key", "mlp_bundle"]
