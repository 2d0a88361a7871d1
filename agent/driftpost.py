"""driftpost: the public face. Import what an application needs from here.

    import driftpost

    with driftpost.Guard.open("digits.bundle", store="guard.db") as guard:
        result = guard.run(image)
        if result.verdict.ok:
            use(result.outputs)

Names are loaded on first use, so that `import driftpost` and `driftpost --help` cost milliseconds.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from driftpost_agent.errors import (
        ActivationFailed,
        AgentError,
        ConfigurationInvalid,
        GuardClosed,
        StoreUnusable,
    )
    from driftpost_agent.guard import Guard
    from driftpost_agent.verdict import GuardedResult, Reason, Status, Verdict
    from driftpost_models.bundle import Bundle
    from driftpost_models.errors import BundleError, InputMismatch, ModelError, ModelRefused

__all__ = [
    "ActivationFailed",
    "AgentError",
    "Bundle",
    "BundleError",
    "ConfigurationInvalid",
    "Guard",
    "GuardClosed",
    "GuardedResult",
    "InputMismatch",
    "ModelError",
    "ModelRefused",
    "Reason",
    "Status",
    "StoreUnusable",
    "Verdict",
    "main",
]

_HOME = {
    "ActivationFailed": "driftpost_agent.errors",
    "AgentError": "driftpost_agent.errors",
    "Bundle": "driftpost_models.bundle",
    "BundleError": "driftpost_models.errors",
    "ConfigurationInvalid": "driftpost_agent.errors",
    "Guard": "driftpost_agent.guard",
    "GuardClosed": "driftpost_agent.errors",
    "GuardedResult": "driftpost_agent.verdict",
    "InputMismatch": "driftpost_models.errors",
    "ModelError": "driftpost_models.errors",
    "ModelRefused": "driftpost_models.errors",
    "Reason": "driftpost_agent.verdict",
    "Status": "driftpost_agent.verdict",
    "StoreUnusable": "driftpost_agent.errors",
    "Verdict": "driftpost_agent.verdict",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'driftpost' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def main() -> None:
    """Run the `driftpost` command."""
    from driftpost_agent.command_line import run  # noqa: PLC0415 - keeps `import driftpost` free of click

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
