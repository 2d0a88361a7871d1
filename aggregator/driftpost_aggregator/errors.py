"""Everything the aggregator raises on purpose.

AggregatorError
 +-- ConfigurationError     aggregator.toml can not be used as it is
 +-- DatabaseUnusable       the database can not be opened, or is newer than this program
 +-- BundleRejected         a bundle's description can not be registered
 +-- MessageRejected        one message from a device is malformed or impossible; it goes to quarantine
 +-- UnknownIncident        no incident of that id
 +-- UnknownRequest         no retrain request of that id
 +-- NotPossible            the change asked for does not follow from the present state
 +-- TargetRefused          a webhook target that must not be called
 +-- LabelsUnreadable       a push of labels is not of its format, or too large
 +-- PushFailed             labels could not be pushed from here
 +-- AuditBroken            the audit log's chain does not hold
"""

from __future__ import annotations


class AggregatorError(Exception):
    """Base of all errors of this package."""


class ConfigurationError(AggregatorError):
    """A setting is missing or makes no sense.

    Attributes:
        setting: Its dotted name in aggregator.toml.
    """

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"{setting}: {problem}")
        self.setting = setting


class DatabaseUnusable(AggregatorError):
    """The database can not be used.

    Attributes:
        url: Where it is, without its password.
    """

    def __init__(self, url: str, problem: str, remedy: str) -> None:
        super().__init__(f"database {url}: {problem}; {remedy}")
        self.url = url


class BundleRejected(AggregatorError):
    """A bundle's description is malformed or contradicts itself.

    Attributes:
        bundle: Its id, as far as known.
    """

    def __init__(self, bundle: str, problem: str) -> None:
        super().__init__(f"bundle {bundle[:12] or '(unnamed)'}: {problem}")
        self.bundle = bundle


class MessageRejected(AggregatorError):
    """One message can not be counted.

    Attributes:
        reason: Short and stable in its first words; the device stores it and people read it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnknownIncident(AggregatorError):
    """There is no such incident."""

    def __init__(self, incident: str) -> None:
        super().__init__(f"no incident {incident!r}; list them with `driftpost incidents list --state all`")
        self.incident = incident


class UnknownRequest(AggregatorError):
    """There is no such retrain request."""

    def __init__(self, request: str) -> None:
        super().__init__(f"no retrain request {request!r}; its id is the CloudEvent's id")
        self.request = request


class NotPossible(AggregatorError):
    """What was asked for does not follow from the present state.

    Attributes:
        state: The state it is in.
        wanted: The change that was asked for.
    """

    def __init__(self, subject: str, state: str, wanted: str, problem: str = "") -> None:
        already = f"is {state} already" if state == wanted else f"is {state} and can not become {wanted}"
        super().__init__(f"{subject} {problem or already}")
        self.subject = subject
        self.state = state
        self.wanted = wanted


class TargetRefused(AggregatorError):
    """A webhook target must not be called.

    Attributes:
        url: The target.
    """

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"target {url}: {problem}")
        self.url = url
        self.problem = problem


class LabelsUnreadable(AggregatorError):
    """A push of labels can not be read at all."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"the push {problem}; see docs/labels.md for what is taken")
        self.problem = problem


class PushFailed(AggregatorError):
    """Labels could not be pushed; what was queued before it stays queued."""


class AuditBroken(AggregatorError):
    """The audit log was changed after it was written.

    Attributes:
        row: The first row whose hash does not follow from what stands before it.
    """

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(
            f"audit row {row}: {problem}; restore the database from a backup taken before the change"
        )
        self.row = row
