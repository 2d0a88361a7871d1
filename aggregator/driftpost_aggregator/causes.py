"""From what devices report to why: one cause for each thing that happened in the world. Pure.

Findings are first sorted by what they can mean (`Kind`). A sensor that is stuck, missing or a model that
crashed explains whatever else its device reports, so those devices leave the search for drift. The drifting
devices are then grouped by the direction in which their streams moved (cosine between effect vectors): a
camera type that went dark and an unrelated device that got hot are two groups, though both "shifted". Each
group is explained by the simplest scope that fits: the device, the cohort of an attribute, the fleet
(`driftpost_sketches.drift.scope.explain`).

What no attribute explains must first be believed: devices differ by nature, and a finding that says no more
than that is kept for the device's page. Its device has to stand apart from the others, or to have moved
against its own past; which of all devices may be named so is decided by e-BH (`drift/ebh.py`), so that the
expected share of false names does not grow with the fleet. Believed devices that began to drift at about the
same time in the same direction are one cause, a **group**, although no attribute tells them apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from driftpost_sketches.drift.apart import log_e_either
from driftpost_sketches.drift.ebh import e_bh
from driftpost_sketches.drift.scope import Explanation, explain


class Kind(str, Enum):
    """What an incident is about."""

    COVARIATE_SHIFT = "covariate_shift"  # inputs left their reference
    OUTPUT_SHIFT = "output_shift"  # outputs moved while the inputs did not
    LABEL_SHIFT = "label_shift"  # another mix of the same classes
    CONCEPT_SHIFT = "concept_shift"  # by labels: the same inputs mean something else now
    SENSOR_FAULT = "sensor_fault"
    DATA_QUALITY = "data_quality"  # missing, non-finite, wrongly shaped
    MODEL_FAULT = "model_fault"
    POISONING = "poisoning"  # what devices send and what they report contradict each other
    DEVICE_FAULT = "device_fault"  # disk, clock, temperature, ...


# How sure a wide group is that its members share a cause: cosine between two devices' effect vectors.
MIN_COSINE = 0.5
# One component of an effect vector counts up to this many reference sd: beyond, a stream is simply "far
# off", and its exact distance says more about its tails than about the cause.
MAX_COMPONENT = 4.0
# A component smaller than this many of its own standard errors is noise.
MIN_STANDARD_ERRORS = 3.0

# An output that rests and pixels divided by 255 are no change of the world.
_FAULT_KINDS = {
    "stuck": Kind.SENSOR_FAULT,
    "frozen": Kind.SENSOR_FAULT,
    "dead": Kind.MODEL_FAULT,
    "wrong_scale": Kind.MODEL_FAULT,
    "model_fault": Kind.MODEL_FAULT,
}
# What the agent tells of the board under it, not of the model.
_BOARD_KINDS = frozenset({"board", "over_budget", "disk_short", "store_unwritable"})
_QUALITY_KINDS = {
    "missing": Kind.DATA_QUALITY,
    "shape": Kind.DATA_QUALITY,
    "dtype": Kind.DATA_QUALITY,
    "nonfinite_input": Kind.DATA_QUALITY,
    "nonfinite_output": Kind.MODEL_FAULT,
    "model_failed": Kind.MODEL_FAULT,
    "frozen": Kind.SENSOR_FAULT,
}
# On one device these speak of its sensor; shared by a cohort they speak of the world before it.
_SENSOR_DETAILS = frozenset({"saturated", "quantized", "noisy"})
# In these devices differ by nature; anything else is a fault however small.
_BY_NATURE = frozenset({"shift", "scale", "noisy", "shape", "category_share", "label_shift", "skew"})
# Expected share of false names among the single devices that incidents are opened for.
FALSE_NAMES = 0.05
# Devices that drift alike without an attribute in common are a group from this many on, if each began within
# this time of the one before.
MIN_GROUP = 3
# One affected device in so many may have begun earlier for reasons of its own.
EARLY = 10
GROUP_GAP_MS = 3_600_000


@dataclass(frozen=True)
class Finding:
    """A standing finding of one device; columns of the `findings` table under their own names."""

    device: str
    incarnation: int
    seq: int
    bundle: str
    kind: str
    source: str
    streams: tuple[tuple[str, float], ...]
    log_e: float
    effect: float
    effect_natural: float
    unit: str
    direction: str
    onset_ms: int
    received_ms: int
    text: str
    incident: str | None = None
    attributed: bool = False  # whether that incident is active

    @property
    def key(self) -> tuple[str, int, int]:
        """The message it came in."""
        return self.device, self.incarnation, self.seq

    @property
    def weight(self) -> float:
        """How much it says where findings are combined; at least 1, so that plain checks count."""
        return max(self.log_e, 1.0)


@dataclass(frozen=True)
class StreamEvidence:
    """One stream's part in a cause.

    Attributes:
        stream: its name.
        share: its share of the evidence, 0 to 1.
        effect: signed shift in reference sd (or difference of shares), median over affected devices.
        effect_natural: the same in `unit`.
        unit: the stream's unit.
        spread: ratio of live to reference standard deviation, 1 where unknown.
        direction: "up", "down" or "none".
    """

    stream: str
    share: float
    effect: float
    effect_natural: float
    unit: str
    spread: float
    direction: str

    def to_dict(self) -> dict[str, object]:
        """Plain types, as stored and sent."""
        return {
            "stream": self.stream,
            "share": round(self.share, 4),
            "effect": round(self.effect, 4),
            "effect_natural": float(f"{self.effect_natural:.6g}"),
            "unit": self.unit,
            "spread": round(self.spread, 4),
            "direction": self.direction,
        }


@dataclass(frozen=True)
class Measured:
    """Effects of one device (or cohort) against its baseline, over the rows since the onset.

    Attributes:
        shift: signed, reference sd, per stream.
        natural: the same in natural units.
        spread: ratio of standard deviations.
        error: standard error of `shift` (autocorrelation and reference size included).
        moved: ln e-value against not having moved since before the onset; 0 where that is not known.
    """

    shift: Mapping[str, float]
    natural: Mapping[str, float]
    spread: Mapping[str, float]
    error: Mapping[str, float]
    moved: float = 0.0


@dataclass(frozen=True)
class Affected:
    """One device's part in a cause: when its change began, and when we learned of it, Unix ms."""

    onset_ms: int
    raised_ms: int


@dataclass(frozen=True)
class Rest:
    """The counterfactual: without the cause's devices, is there still drift?

    Attributes:
        devices: outside the scope whose windows were merged.
        drifts: whether these, merged so that no few of them can bend it, show the same change clearly.
        stream: that was looked at: the cause's first.
        inside, outside: its change inside and outside, reference sd (or difference of shares).
        unit: the stream's, "share" where these are differences of shares.
    """

    devices: int
    drifts: bool
    stream: str
    inside: float
    outside: float
    unit: str = ""


@dataclass(frozen=True)
class Cause:
    """One thing that happened, as far as the evidence says.

    Attributes:
        kind: what it is about.
        detail: the finding kind that weighs most ("stuck", "shift", ...).
        scope: "device", "group", "cohort" or "fleet".
        attributes: the (key, value) pairs that explain it, empty for the fleet and a device.
        members: all devices in the scope.
        affected: those of them that report it.
        elsewhere: devices outside the scope that report the same.
        heard: devices outside the scope that have sent a window since the onset.
        unheard: devices outside the scope that have not: they may be affected, too.
        streams: by share of the evidence, largest first.
        log_e: largest ln e-value among its findings.
        findings: keys of the findings it rests on.
        bundles: ids of the bundles it is seen on, most devices first.
        risk_ratio, risk_ratio_low: of being affected inside against outside, with its lower bound; None for
        a device.
        alternatives: other attributes that explain the same devices equally well.
        rest: what the devices outside the scope show of the same; None where nobody looked.
    """

    kind: Kind
    detail: str
    scope: str
    attributes: tuple[tuple[str, str], ...]
    members: tuple[str, ...]
    affected: Mapping[str, Affected]
    elsewhere: int
    streams: tuple[StreamEvidence, ...]
    log_e: float
    bundles: tuple[str, ...]
    findings: tuple[tuple[str, int, int], ...] = ()
    risk_ratio: float | None = None
    risk_ratio_low: float | None = None
    text: str = ""
    heard: int = 0
    unheard: int = 0
    alternatives: tuple[tuple[tuple[str, str], ...], ...] = ()
    rest: Rest | None = None

    @property
    def scope_key(self) -> str:
        """The device's name, "key=value" (several joined by " & "), or "" for the fleet.

        Of a group, the first of the devices that began it.
        """
        if self.scope in ("device", "group"):
            return min(self.affected, key=lambda device: (self.affected[device].onset_ms, device))
        return " & ".join(f"{key}={value}" for key, value in self.attributes)

    @property
    def onset_ms(self) -> int:
        """When it began: a tenth of the affected devices may have been different before."""
        onsets = sorted(part.onset_ms for part in self.affected.values())
        return onsets[len(onsets) // EARLY]

    @property
    def first_raised_ms(self) -> int:
        """When we first learned of it."""
        return min(part.raised_ms for part in self.affected.values())

    @property
    def last_raised_ms(self) -> int:
        """When we last learned of another device in it."""
        return max(part.raised_ms for part in self.affected.values())


def kind_of(finding: Finding) -> Kind | None:
    """What a finding means by itself; None for drift, whose meaning depends on who shares it."""
    if finding.source == "device":
        return Kind.DEVICE_FAULT
    if finding.source == "runtime":
        return Kind.DEVICE_FAULT if finding.kind in _BOARD_KINDS else Kind.MODEL_FAULT
    if finding.source == "quality":
        return _QUALITY_KINDS.get(finding.kind)
    if finding.kind == "missing":
        return Kind.DATA_QUALITY
    if finding.kind == "concept":
        return Kind.CONCEPT_SHIFT
    return _FAULT_KINDS.get(finding.kind)


# A device with one of these has its drift explained by it.
_EXPLAINS_DRIFT = (Kind.SENSOR_FAULT, Kind.DATA_QUALITY, Kind.MODEL_FAULT)


@dataclass(frozen=True)
class Surroundings:
    """What is known beside the findings, of the devices that run one model.

    Attributes:
        devices: all of them.
        attributes: key to value, per device.
        measured: effects per device since its onset, where its windows allow it.
        inputs: names of the streams that describe inputs; None while no bundle of the model is described.
        units: natural unit per stream.
        last_window_ms: end of the newest window of each device that ever sent one, Unix ms.
        apart: ln e-value of each device that stands apart from the others by what it sends.
        compared: devices that were compared with the others lately, in populations that show how much
            devices differ.
    """

    devices: Sequence[str]
    attributes: Mapping[str, Mapping[str, str]]
    measured: Mapping[str, Measured] = field(default_factory=dict)
    inputs: frozenset[str] | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    last_window_ms: Mapping[str, int] = field(default_factory=dict)
    apart: Mapping[str, float] = field(default_factory=dict)
    compared: Collection[str] = frozenset()

    def with_others(self, cause: Cause) -> Cause:
        """A cause with how many devices outside its scope were heard since its onset, and how many not."""
        outside = set(self.devices) - set(cause.members) - cause.affected.keys()
        heard = sum(self.last_window_ms.get(device, -1) > cause.onset_ms for device in outside)
        return replace(cause, heard=heard, unheard=len(outside) - heard)


def find_causes(findings: Sequence[Finding], around: Surroundings) -> list[Cause]:
    """Group the standing findings of one model by cause.

    Args:
        findings: what stands now.
        around: the fleet they come from; findings of devices that it does not know are left out.

    Returns:
        Causes, those with most affected devices first.
    """
    known = set(around.devices)
    by_kind: dict[Kind, list[Finding]] = {}
    drifting: list[Finding] = []
    for finding in findings:
        if finding.device not in known:
            continue
        kind = kind_of(finding)
        if kind is None:
            drifting.append(finding)
        else:
            by_kind.setdefault(kind, []).append(finding)
    causes: list[Cause] = []
    spoiled: set[str] = set()
    for kind in Kind:
        group = by_kind.get(kind, [])
        # Different faults of one kind (a stuck sensor, a frozen picture) are different causes.
        for detail in sorted({finding.kind for finding in group}):
            causes += _explained([one for one in group if one.kind == detail], around, kind)
        if kind in _EXPLAINS_DRIFT:
            spoiled |= {finding.device for finding in group}
    sound = replace(around, devices=[device for device in around.devices if device not in spoiled])
    drifting = [finding for finding in drifting if finding.device not in spoiled]
    for cluster in clusters(drifting, around.measured):
        causes += _explained([one for one in drifting if one.device in cluster], sound, None)
    return sorted(causes, key=lambda cause: (-len(cause.affected), cause.scope_key, cause.detail))


def _explained(findings: Sequence[Finding], around: Surroundings, kind: Kind | None) -> list[Cause]:
    """Causes of findings that are alike: what a cohort or the fleet explains, and one for each other."""
    scores: dict[str, float] = {}
    for finding in findings:
        scores[finding.device] = max(scores.get(finding.device, 0.0), finding.weight)
    explanations = explain(around.devices, around.attributes, scores) if len(scores) > 1 else []
    alone = set(scores)
    causes = []
    for explanation in explanations:
        affected = alone & set(explanation.affected)
        if explanation.scope == "device" or not affected:
            continue
        alone -= affected
        cause = _cause([one for one in findings if one.device in affected], around, kind, explanation)
        causes.append(replace(cause, elsewhere=len(scores) - len(affected)))
    believed = _believed([one for one in findings if one.device in alone], around)
    told = len(believed) + len(scores) - len(alone)
    for members in together(findings, believed, by_stream=kind is not None):
        chosen = [one for one in findings if one.device in members]
        causes.append(replace(_cause(chosen, around, kind, None), elsewhere=told - len(members)))
    return causes


def _believed(findings: Sequence[Finding], around: Surroundings) -> set[str]:
    """Devices whose findings say more than that devices differ by nature."""
    plain: set[str] = set()
    doubtful: dict[str, float] = {}
    for finding in findings:
        if finding.kind in _BY_NATURE and finding.device in around.compared and not finding.attributed:
            moved = around.measured.get(finding.device, _NOTHING).moved
            doubtful[finding.device] = log_e_either(around.apart.get(finding.device, 0.0), moved)
        else:
            plain.add(finding.device)
    if not doubtful:
        return plain
    everyone = dict.fromkeys(around.devices, 0.0) | doubtful
    return plain | (set(e_bh(everyone, FALSE_NAMES)) & doubtful.keys())


def together(findings: Sequence[Finding], devices: Collection[str], *, by_stream: bool) -> list[set[str]]:
    """Devices that began to drift at about the same time as one group, all others each by itself.

    Args:
        findings: of one kind, or of devices that moved in one direction.
        devices: to be grouped.
        by_stream: whether only devices that name the same stream first can be one group.
    """
    onsets: dict[str, int] = {}
    leads: dict[str, str] = {}
    for finding in findings:
        if finding.device in devices:
            before = onsets.get(finding.device, finding.onset_ms)
            onsets[finding.device] = min(before, finding.onset_ms)
            lead = finding.streams[0][0] if by_stream and finding.streams else ""
            leads.setdefault(finding.device, lead)
    groups: list[set[str]] = []
    for lead in sorted(set(leads.values())):
        chain: list[str] = []
        for device in sorted(
            (one for one in onsets if leads[one] == lead), key=lambda one: (onsets[one], one)
        ):
            if chain and onsets[device] - onsets[chain[-1]] > GROUP_GAP_MS:
                groups += _split(chain)
                chain = []
            chain.append(device)
        groups += _split(chain)
    return groups


def _split(chain: Sequence[str]) -> list[set[str]]:
    return [set(chain)] if len(chain) >= MIN_GROUP else [{device} for device in chain]


def _cause(
    findings: Sequence[Finding], around: Surroundings, kind: Kind | None, explanation: Explanation | None
) -> Cause:
    affected: dict[str, Affected] = {}
    weights: dict[str, float] = {}
    for finding in findings:
        weights[finding.kind] = weights.get(finding.kind, 0.0) + finding.weight
        part = affected.get(finding.device)
        affected[finding.device] = Affected(
            finding.onset_ms if part is None else min(part.onset_ms, finding.onset_ms),
            finding.received_ms if part is None else min(part.raised_ms, finding.received_ms),
        )
    detail = max(sorted(weights), key=lambda name: weights[name])
    streams = stream_evidence(findings, around)
    alone = "device" if len(affected) == 1 else "group"
    scope = alone if explanation is None else explanation.scope
    return Cause(
        kind=kind if kind is not None else drift_kind(detail, scope, streams, around.inputs),
        detail=detail,
        scope=scope,
        attributes=() if explanation is None else tuple(explanation.attributes),
        members=tuple(affected) if explanation is None else tuple(explanation.members),
        affected=affected,
        elsewhere=0,
        streams=streams,
        log_e=max(finding.log_e for finding in findings),
        bundles=_by_devices(findings),
        findings=tuple(finding.key for finding in findings),
        risk_ratio=None if explanation is None else explanation.risk_ratio,
        risk_ratio_low=None if explanation is None else explanation.risk_ratio_low,
        text=next((finding.text for finding in findings if finding.kind == detail), ""),
        alternatives=() if explanation is None else explanation.alternatives,
    )


def _by_devices(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Bundles of some findings, those of most devices first."""
    users: dict[str, set[str]] = {}
    for finding in findings:
        users.setdefault(finding.bundle, set()).add(finding.device)
    return tuple(sorted(users, key=lambda bundle: (-len(users[bundle]), bundle)))


def drift_kind(
    detail: str, scope: str, streams: Sequence[StreamEvidence], inputs: frozenset[str] | None
) -> Kind:
    """What drift is about, once it is known who shares it."""
    if scope in ("device", "group") and detail in _SENSOR_DETAILS:
        return Kind.SENSOR_FAULT
    if detail == "label_shift":
        return Kind.LABEL_SHIFT
    if inputs is not None and streams and not any(part.stream in inputs for part in streams):
        return Kind.OUTPUT_SHIFT
    return Kind.COVARIATE_SHIFT


def stream_evidence(findings: Sequence[Finding], around: Surroundings) -> tuple[StreamEvidence, ...]:
    """The streams of some findings by contribution, with their effects.

    Shares are averaged over the findings, weighted by evidence. Effects are medians over the devices that
    measured the stream, so that one device can not speak for a cohort; where none did, the finding that
    leads with the stream lends its own.
    """
    shares: dict[str, float] = {}
    reported: dict[str, Finding] = {}
    for finding in findings:
        for position, (stream, share) in enumerate(finding.streams):
            shares[stream] = shares.get(stream, 0.0) + share * finding.weight
            if position == 0 and (
                stream not in reported or abs(finding.effect) > abs(reported[stream].effect)
            ):
                reported[stream] = finding
    total = sum(shares.values()) or 1.0
    devices = {finding.device for finding in findings}
    units = {stream: finding.unit for stream, finding in reported.items()} | dict(around.units)
    result = []
    for stream, share in sorted(shares.items(), key=lambda item: (-item[1], item[0])):
        seen = [
            around.measured[device]
            for device in devices
            if stream in around.measured.get(device, _NOTHING).shift
        ]
        lead = reported.get(stream)
        if seen:
            effect = float(np.median([part.shift[stream] for part in seen]))
            natural = float(np.median([part.natural[stream] for part in seen]))
            spread = float(np.median([part.spread[stream] for part in seen]))
            direction = "up" if effect > 0 else "down" if effect < 0 else "none"
        elif lead is not None:
            sign = -1.0 if lead.direction == "down" else 1.0
            effect, natural = sign * abs(lead.effect), sign * abs(lead.effect_natural)
            spread, direction = 1.0, lead.direction
        else:
            effect, natural, spread, direction = 0.0, 0.0, 1.0, "none"
        result.append(
            StreamEvidence(stream, share / total, effect, natural, units.get(stream, ""), spread, direction)
        )
    return tuple(result)


_NOTHING = Measured({}, {}, {}, {})


def clusters(findings: Iterable[Finding], measured: Mapping[str, Measured]) -> list[set[str]]:
    """Devices grouped by the direction in which their streams moved, largest group first.

    Greedy around leaders, strongest evidence first: a device joins the group whose summed vector is nearest
    by cosine, if that is at least `MIN_COSINE`, else it leads a new one.
    """
    by_device: dict[str, list[Finding]] = {}
    for finding in findings:
        by_device.setdefault(finding.device, []).append(finding)
    order = sorted(
        by_device, key=lambda device: (-max(finding.weight for finding in by_device[device]), device)
    )
    names = sorted(
        {stream for parts in by_device.values() for finding in parts for stream, _ in finding.streams}
        | {stream for device in by_device for stream in measured.get(device, _NOTHING).shift}
    )
    column = {name: index for index, name in enumerate(names)}
    sums: list[NDArray[np.float64]] = []
    groups: list[set[str]] = []
    for device in order:
        vector = _signature(by_device[device], measured.get(device), column)
        near = [float(vector @ total / (np.linalg.norm(total) or 1.0)) for total in sums]
        if near and max(near) >= MIN_COSINE:
            best = near.index(max(near))
            groups[best].add(device)
            sums[best] += vector
        else:
            groups.append({device})
            sums.append(vector.copy())
    return sorted(groups, key=lambda group: (-len(group), min(group)))


def _signature(
    findings: Sequence[Finding], measured: Measured | None, column: Mapping[str, int]
) -> NDArray[np.float64]:
    """Unit vector of a device's shifts and spreads, float64[2 * streams]; zero where it is noise."""
    vector = np.zeros(2 * len(column))
    if measured is not None:
        for stream, shift in measured.shift.items():
            error = measured.error.get(stream, 0.0)
            if abs(shift) > MIN_STANDARD_ERRORS * error:
                vector[2 * column[stream]] = np.clip(shift, -MAX_COMPONENT, MAX_COMPONENT)
            # The standard error of a log ratio of deviations is about that of a mean in sd, over sqrt(2).
            spread = np.log(max(measured.spread.get(stream, 1.0), 1e-3))
            if abs(spread) > MIN_STANDARD_ERRORS * error / np.sqrt(2):
                vector[2 * column[stream] + 1] = np.clip(spread, -MAX_COMPONENT / 2, MAX_COMPONENT / 2)
    if not vector.any():
        for finding in findings:
            sign = -1.0 if finding.direction == "down" else 1.0
            for stream, share in finding.streams:
                vector[2 * column[stream]] += sign * share * finding.weight
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector
