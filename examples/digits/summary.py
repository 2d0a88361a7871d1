"""What the demo proved: facts from the stores, the database and the receiver, and the checks on them.

Everything here is a pure function of `Facts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from feeder import Tally, total
from receiver import Delivery
from scenario import DEVICES, DRIFTED_ATTRIBUTE, FROZEN_DEVICE, WINDOW_SECONDS, cohort


@dataclass(frozen=True)
class Incident:
    """An incident as the aggregator's database has it.

    Attributes:
        id: Its name.
        scope: `device`, `cohort` or `fleet`.
        scope_key: Which one: a device's name, or `key=value`.
        kind: What it is about, such as `sensor_fault`.
        detail: The dominant kind of finding, such as `stuck`.
        cause: One readable sentence.
        state: `open`, `resolved`, `absorbed`, ...
        absorbed_into: The incident of the same cause that it ended in; empty if it did not.
        devices: Devices that it holds.
        onset_ms: When the change began, by the evidence; Unix milliseconds.
        opened_ms: When it was opened; Unix milliseconds.
    """

    id: str
    scope: str
    scope_key: str
    kind: str
    detail: str
    cause: str
    state: str
    absorbed_into: str
    devices: frozenset[str]
    onset_ms: int
    opened_ms: int


@dataclass(frozen=True)
class Finding:
    """A device's own alarm as the aggregator's database has it, whether or not an incident came of it.

    Attributes:
        device: Who raised it.
        kind: What it is about, such as `stuck`.
        text: In the device's words.
        at_ms: When it was raised; Unix milliseconds.
    """

    device: str
    kind: str
    text: str
    at_ms: int


@dataclass(frozen=True)
class Account:
    """One device's rows and bytes, each number counted where it says.

    Attributes:
        fed: Frames that its camera got an answer for.
        recorded: Rows in the ledger of the agent's own store.
        stored: Rows of its windows in the aggregator's database.
        merged: Rows of its merged windows in the aggregator's database.
        windows: Windows in the aggregator's database.
        pending: Rows that the agent knows no acknowledgement of.
        quarantined: Rows and messages of it that were refused.
        lost: Rows that the agent knows to have lost in a crash.
        unsent_findings: Findings that the agent knows no acknowledgement of.
        sent_bytes: Bytes that the agent handed to the broker.
        guard_us: Mean time of a call spent in the guard, by the agent's own meter, microseconds.
        model_us: Mean time of a call spent in the model, across its process boundary, microseconds.
        seconds: How long it was fed.
    """

    fed: int
    recorded: int
    stored: int
    merged: int
    windows: int
    pending: int
    quarantined: int
    lost: int = 0
    unsent_findings: int = 0
    sent_bytes: int = 0
    guard_us: float = 0.0
    model_us: float = 0.0
    seconds: float = 0.0

    @property
    def arrived(self) -> bool:
        """Whether every inference is in the database, once."""
        return self.fed == self.recorded == self.stored == self.merged

    @property
    def exact(self) -> bool:
        """Whether nothing was lost on the way, nothing counted twice, and both ends know it."""
        return self.arrived and not any((self.pending, self.quarantined, self.lost, self.unsent_findings))


@dataclass(frozen=True)
class Overhead:
    """What the guard adds to a model call, measured side by side in one process; microseconds."""

    runtime: str
    bare_us: float
    guarded_us: float


@dataclass(frozen=True)
class Facts:
    """All that the run left behind.

    Attributes:
        drift: Whether anything was injected.
        drift_ms: When the second phase began; Unix milliseconds.
        incidents: Every incident in the database, whatever its state.
        findings: Every finding in the database, also those that no incident came of.
        deliveries: Everything that arrived at the receiver.
        requests: State of each retrain request at the aggregator, by id.
        tallies: Score by device and phase.
        accounts: Rows and bytes by device.
        failures: What ended a camera or a process early, or badly when it was to end.
        overheads: Cost of the guard, one for each runtime.
    """

    drift: bool
    drift_ms: int
    incidents: Sequence[Incident]
    findings: Sequence[Finding]
    deliveries: Sequence[Delivery]
    requests: Mapping[str, str]
    tallies: Mapping[str, Mapping[str, Tally]]
    accounts: Mapping[str, Account]
    failures: Sequence[str] = ()
    overheads: Sequence[Overhead] = field(default_factory=tuple)


@dataclass(frozen=True)
class Check:
    """One promise, whether it was kept, and the numbers behind that."""

    promise: str
    kept: bool
    detail: str


def windows_after(moment_ms: int, incident: Incident) -> int:
    """How many windows of the change had ended, at least in part, when an incident was opened."""
    return max(0, math.ceil((incident.opened_ms - moment_ms) / (WINDOW_SECONDS * 1000)))


def cohort_incidents(facts: Facts) -> list[Incident]:
    """Incidents of the cohort that was fogged."""
    return _incidents(facts, "cohort", "=".join(DRIFTED_ATTRIBUTE))


def device_incidents(facts: Facts) -> list[Incident]:
    """Incidents of the device whose sensor was frozen."""
    return _incidents(facts, "device", FROZEN_DEVICE)


def _incidents(facts: Facts, scope: str, scope_key: str) -> list[Incident]:
    return [
        one
        for one in facts.incidents
        if one.scope == scope and one.scope_key == scope_key and one.state != "absorbed"
    ]


def _early(incident: Incident, of_cohort: Sequence[Incident]) -> bool:
    """Whether it is of a fogged device that alarmed windows before its cohort, and ended in the cohort's."""
    return (
        incident.state == "absorbed"
        and incident.absorbed_into in {one.id for one in of_cohort}
        and incident.scope == "device"
        and incident.scope_key in cohort()
        and incident.devices <= {incident.scope_key}
    )


def is_stuck(incident: Incident) -> bool:
    """Whether an incident says that the sensor repeats itself."""
    return incident.kind == "sensor_fault" and incident.detail in {"stuck", "frozen"}


def checks(facts: Facts) -> list[Check]:
    """Every promise of the demo, judged."""
    incidents = [one for one in facts.incidents if one.opened_ms < facts.drift_ms]
    findings = [one for one in facts.findings if one.at_ms < facts.drift_ms]
    told = [f"{one.scope} {one.scope_key}: {one.cause}" for one in incidents]
    told += [f"{one.device} found {one.kind}: {one.text}" for one in findings]
    result = [Check("no alarm in the quiet stretch", not told, "; ".join(told) or "none")]
    result += _drift_checks(facts) if facts.drift else _calm_checks(facts)
    result += _exactness(facts)
    return result


def _drift_checks(facts: Facts) -> list[Check]:
    key, value = DRIFTED_ATTRIBUTE
    of_cohort, of_device = cohort_incidents(facts), device_incidents(facts)
    right = {one.id for one in (*of_cohort, *of_device)}
    others = [one for one in facts.incidents if one.id not in right and not _early(one, of_cohort)]
    healthy = {device.name for device in DEVICES} - cohort() - {FROZEN_DEVICE}
    false = [one for one in facts.findings if one.device in healthy]
    right_cohort = len(of_cohort) == 1 and of_cohort[0].devices == cohort() and not is_stuck(of_cohort[0])
    right_device = len(of_device) == 1 and of_device[0].devices == {FROZEN_DEVICE} and is_stuck(of_device[0])
    good = [one for one in facts.deliveries if one.accepted and not one.duplicate]
    about = {str(one.event.get("data", {}).get("incident", {}).get("id", "")) for one in good}
    right_request = (
        len(good) == 1
        and all(one.accepted for one in facts.deliveries)
        and about == {one.id for one in of_cohort}
        and set(facts.requests) == {good[0].webhook_id}
    )
    return [
        Check(
            f"one incident of the cohort {key}={value}, holding its {len(cohort())} devices",
            right_cohort,
            _told(of_cohort),
        ),
        Check(f"one incident of {FROZEN_DEVICE}, a stuck sensor", right_device, _told(of_device)),
        Check("no other incident", not others, _told(others)),
        Check("no finding of a device that nothing happened to", not false, _found(false)),
        Check(
            "one retrain request, about the cohort, signature and CloudEvent verified by the receiver",
            right_request,
            "; ".join(
                f"{one.webhook_id}: {one.problem or 'verified'}{', again' if one.duplicate else ''}"
                for one in facts.deliveries
            )
            or "none arrived",
        ),
        Check(
            "the pipeline's answer reached the aggregator",
            bool(facts.requests) and set(facts.requests.values()) == {"accepted"},
            ", ".join(f"{name}: {state}" for name, state in facts.requests.items()) or "no request",
        ),
    ]


def _calm_checks(facts: Facts) -> list[Check]:
    return [
        Check("no incident at all", not facts.incidents, _told(facts.incidents)),
        Check("no finding at all, settled or not", not facts.findings, _found(facts.findings)),
        Check(
            "no retrain request",
            not facts.deliveries and not facts.requests,
            f"{len(facts.deliveries)} deliveries, {len(facts.requests)} requests",
        ),
    ]


def drift_found(facts: Facts) -> bool:
    """Whether everything that the drift must lead to has come."""
    return all(check.kept for check in _drift_checks(facts))


def _exactness(facts: Facts) -> list[Check]:
    wrong = {name: one for name, one in facts.accounts.items() if not one.exact or one.fed == 0}
    missing = [device.name for device in DEVICES if device.name not in facts.accounts]
    fed = sum(one.fed for one in facts.accounts.values())
    return [
        Check(
            "every process and camera ran to the end, and ended well when asked",
            not facts.failures,
            "; ".join(facts.failures) or "all did",
        ),
        Check(
            "every inference counted once: fed = recorded on the device = stored = merged",
            not wrong and not missing,
            "; ".join(
                f"{name}: fed {one.fed}, recorded {one.recorded}, stored {one.stored}, merged {one.merged}, "
                f"pending {one.pending}, refused {one.quarantined}, lost {one.lost}, "
                f"findings not sent {one.unsent_findings}"
                for name, one in wrong.items()
            )
            or (
                f"no account of {', '.join(missing)}"
                if missing
                else f"{fed} inferences on {len(facts.accounts)} devices"
            ),
        ),
    ]


def _told(incidents: Sequence[Incident]) -> str:
    return (
        "; ".join(
            f"{one.scope} {one.scope_key} ({one.kind}, {one.detail}) on {', '.join(sorted(one.devices))}"
            for one in incidents
        )
        or "none"
    )


def _found(findings: Sequence[Finding]) -> str:
    return "; ".join(f"{one.device}: {one.kind}, {one.text}" for one in findings) or "none"


def accuracy(facts: Facts, phase: str, devices: frozenset[str]) -> float:
    """Share of right answers in a phase over some devices; NaN if there were none."""
    return total(
        [facts.tallies[name][phase] for name in devices if phase in facts.tallies.get(name, {})]
    ).accuracy


def passed(facts: Facts) -> bool:
    """Whether every promise was kept."""
    return all(check.kept for check in checks(facts))
