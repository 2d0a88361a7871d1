"""Devices whose windows and reports contradict each other: they may be lying, or someone speaks for them.

A device that runs our agent tests its own windows. When what it sends stands far from the reference and from
all other devices, its own detector must have raised a finding. A device that stays silent all the same sends
invented windows, or its findings are held back. No attribute must explain it: a cohort whose findings are
missing is drift of that cohort with a broken report, and `hidden_drift.py` tells it.

What is held back by privacy contradicts nothing. Such devices are causes like any other, known by their
windows alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from driftpost_aggregator.causes import (
    Affected,
    Cause,
    Kind,
    StreamEvidence,
    Surroundings,
    drift_kind,
)
from driftpost_aggregator.census import Apart
from driftpost_aggregator.registry import KnownBundle
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.drift.ebh import e_bh
from driftpost_sketches.drift.scope import explain

# The device's own detector charges for the reference's error and for memory that we do not know of here: its
# finding is only missed when the evidence is so many times what it needs.
CERTAIN = 3.0
# Part of the fleet's false-alarm budget that devices without findings of their own may use.
SHARE = 0.25


def silent_causes(
    apart: Mapping[str, Apart],
    around: Surroundings,
    known: KnownBundle,
    spoken: Collection[str],
    *,
    budget: Budget,
    bucket_s: int,
) -> list[Cause]:
    """What devices that stand apart without a finding of their own are about.

    Args:
        apart: devices that stand apart, by name.
        around: the fleet.
        known: their bundle.
        spoken: devices that told of something themselves, or whose drift is explained.
        budget: of the fleet.
        bucket_s: every how many seconds devices are compared.
    """
    alpha = min(budget.share(SHARE).count * bucket_s / budget.period_s, 0.05)
    everyone = dict.fromkeys(around.devices, 0.0)
    everyone |= {name: one.log_e for name, one in apart.items() if name in everyone}
    named = {name for name in e_bh(everyone, alpha) if name in apart} - set(spoken)
    needed = CERTAIN * Budget.parse(known.budget).log_threshold(known.window_s)
    certain = {name for name in named if apart[name].private or apart[name].against >= needed}
    if not certain:
        return []
    told = explain(around.devices, around.attributes, {name: apart[name].log_e for name in certain})
    certain -= {name for one in told if one.scope != "device" for name in one.affected}
    causes = []
    liars = {name for name in certain if not apart[name].private}
    if liars:
        causes.append(_cause([apart[name] for name in sorted(liars)], around, known, poisoning=True))
    for name in sorted(certain - liars):
        causes.append(_cause([apart[name]], around, known, poisoning=False))
    return [replace(cause, elsewhere=len(certain) - len(cause.affected)) for cause in causes]


def _cause(chosen: Sequence[Apart], around: Surroundings, known: KnownBundle, *, poisoning: bool) -> Cause:
    scope = "device" if len(chosen) == 1 else "group"
    detail = "silent" if poisoning else "shift"
    streams = _streams(chosen, around, known)
    return Cause(
        kind=Kind.POISONING if poisoning else drift_kind(detail, scope, streams, known.inputs),
        detail=detail,
        scope=scope,
        attributes=(),
        members=tuple(one.device for one in chosen),
        affected={one.device: Affected(one.onset_ms, one.raised_ms) for one in chosen},
        elsewhere=0,
        streams=streams,
        log_e=max(one.log_e for one in chosen),
        bundles=(known.bundle,),
    )


def _streams(chosen: Sequence[Apart], around: Surroundings, known: KnownBundle) -> tuple[StreamEvidence, ...]:
    """Streams by the evidence in them; liars may pull in any direction, so sizes are of the median device."""
    shares: dict[str, float] = {}
    for one in chosen:
        for stream, share in one.streams:
            shares[stream] = shares.get(stream, 0.0) + share / len(chosen)
    units = known.units
    result = []
    for stream, share in sorted(shares.items(), key=lambda item: (-item[1], item[0])):
        seen = sorted(
            (
                (abs(part.shift[stream]), name)
                for name in (one.device for one in chosen)
                if (part := around.measured.get(name)) is not None and stream in part.shift
            ),
        )
        if not seen:
            result.append(StreamEvidence(stream, share, 0.0, 0.0, units[stream], 1.0, "none"))
            continue
        middle = around.measured[seen[len(seen) // 2][1]]
        effect = middle.shift[stream]
        result.append(
            StreamEvidence(
                stream,
                share,
                effect,
                middle.natural[stream],
                units[stream],
                middle.spread[stream],
                "up" if effect > 0 else "down",
            )
        )
    return tuple(result)
