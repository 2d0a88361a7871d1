"""What can go wrong on the device, and what a person should do next.

AgentError
├── ConfigurationInvalid    agent.toml asks for something that can't be done
├── GuardClosed             run() or flush() after close()
├── StoreUnusable           the database can't be opened or written
├── ActivationFailed        a bundle was refused or rolled back
├── LabelRefused            a label that is no class, or not one for each row
├── RequestRefused          an inference request the server can't serve (carries the HTTP status)
└── DaemonUnreachable       the command line found no running daemon
"""

from __future__ import annotations

from pathlib import Path


class AgentError(Exception):
    """Base of every error this package raises."""


class ConfigurationInvalid(AgentError):
    """A setting is missing or contradicts another."""

    def __init__(self, setting: str, problem: str, remedy: str) -> None:
        super().__init__(f"{setting}: {problem}. {remedy}")
        self.setting = setting
        self.problem = problem
        self.remedy = remedy


class GuardClosed(AgentError):
    """The guard was used after close()."""

    def __init__(self) -> None:
        super().__init__("this guard is closed; open a new one with Guard.open(...)")


class StoreUnusable(AgentError):
    """The store's file can't be opened or written."""

    def __init__(self, path: Path | str, problem: str, remedy: str) -> None:
        super().__init__(f"the store {path} can't be used: {problem}. {remedy}")
        self.path = path
        self.problem = problem
        self.remedy = remedy


class ActivationFailed(AgentError):
    """A bundle did not become the active one.

    Attributes:
        bundle: the bundle's file or id.
        step: where it failed: "verify", "self-test", "install", "start".
        rolled_back_to: id of the bundle that serves instead, or None when nothing was active before.
        differing: of a failed self-test: share of the golden calls that are answered otherwise.
    """

    def __init__(
        self,
        bundle: str,
        step: str,
        problem: str,
        rolled_back_to: str | None = None,
        differing: float = 1.0,
    ) -> None:
        after = f"; {rolled_back_to[:12]} stays active" if rolled_back_to else ""
        super().__init__(f"{bundle} was not activated: {step} failed: {problem}{after}")
        self.bundle = bundle
        self.step = step
        self.problem = problem
        self.rolled_back_to = rolled_back_to
        self.differing = differing


class LabelRefused(AgentError):
    """A label can't be counted.

    Attributes:
        label: the label, or the inference it is for.
        problem: what is wrong.
    """

    def __init__(self, label: str, problem: str) -> None:
        super().__init__(
            f"{label!r} {problem}; a label is a class's number from 0, or its name in the bundle"
        )
        self.label = label
        self.problem = problem


class RequestRefused(AgentError):
    """An inference request that can't be served; `status` is the HTTP status of the answer."""

    def __init__(self, problem: str, status: int = 400) -> None:
        super().__init__(problem)
        self.problem = problem
        self.status = status


class DaemonUnreachable(AgentError):
    """No daemon answers where the configuration says it should."""

    def __init__(self, address: str, problem: str) -> None:
        super().__init__(
            f"no agent answers at {address} ({problem}). "
            "Start it with `driftpost agent run --config agent.toml`, "
            "or see `systemctl status driftpost-agent`"
        )
        self.address = address
