"""What else speaks for a cause, looked up once when its incident opens or widens.

The card holds the counterfactual (without the cause's devices, is there still drift?), how often the drift is
found inside against outside, the attributes that would explain it as well, and how much evidence is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from sqlalchemy import Connection

from driftpost_aggregator.causes import Cause, Kind, Rest, Surroundings
from driftpost_aggregator.comparison import Comparison
from driftpost_aggregator.coverage import coverage_of
from driftpost_aggregator.hidden_drift import device_windows, rest_of, sample
from driftpost_aggregator.registry import KnownBundle
from driftpost_sketches.drift.describe import SHARE

# Devices merged on each side of the counterfactual: more would tell the same at more cost.
MAX_SIDE = 400
# Kinds that windows of other devices can contradict.
_COMPARED = frozenset({Kind.COVARIATE_SHIFT, Kind.OUTPUT_SHIFT, Kind.LABEL_SHIFT, Kind.SENSOR_FAULT})


def with_rest(
    connection: Connection,
    cause: Cause,
    known: Mapping[str, KnownBundle],
    around: Surroundings,
    explained: Collection[str],
    *,
    bucket_s: int,
) -> Cause:
    """A cause with its counterfactual, where it has none yet and windows can tell.

    Args:
        connection: for the devices' rollups.
        cause: that is about to open or to widen an incident.
        known: the model's bundles by id.
        around: the fleet.
        explained: devices that other causes account for.
        bucket_s: length of a bucket, seconds.
    """
    if cause.rest is not None or cause.scope == "fleet" or cause.kind not in _COMPARED:
        return cause
    bundle = known.get(cause.bundles[0])
    if bundle is None or not cause.streams:
        return cause
    inside = sample(cause.affected, MAX_SIDE)
    outside = sample(
        set(around.devices) - set(cause.members) - cause.affected.keys() - set(explained), MAX_SIDE
    )
    bucket_ms = bucket_s * 1000
    since_ms = cause.onset_ms // bucket_ms * bucket_ms
    shown = device_windows(connection, bundle, [*inside, *outside], bucket_s=bucket_s, since_ms=since_ms)
    rest = rest_of(Comparison(bundle, shown), cause.streams, frozenset(inside), frozenset(outside))
    return replace(cause, rest=rest)


def card_of(connection: Connection, cause: Cause) -> dict[str, object]:
    """The card as it is stored, of plain types."""
    members = set(cause.members) | cause.affected.keys()
    return {
        "support": round(len(cause.affected) / max(len(cause.members), 1), 4),
        "heard": cause.heard,
        "unheard": cause.unheard,
        "alternatives": [[list(pair) for pair in one] for one in cause.alternatives],
        "rest": None if cause.rest is None else _plain(cause.rest),
        "coverage": coverage_of(connection, members, cause.onset_ms).to_dict(),
    }


def rest_words(rest: Mapping[str, object]) -> str:
    """The counterfactual in a sentence."""
    devices = int(str(rest["devices"]))
    outside, inside = float(str(rest["outside"])), float(str(rest["inside"]))
    what = f"{rest['stream']} is {outside:+.2f} sd from its reference there, {inside:+.2f} sd inside"
    if rest.get("unit") == SHARE:
        what = f"the share of {rest['stream']} that moved most by {outside:+.0%} there, {inside:+.0%} inside"
    others = f"the other {devices:,} devices" if devices != 1 else "the other device"
    verb = "drift too" if devices != 1 else "drifts too"
    if rest["drifts"]:
        return f"Without it there is still drift: {others} {verb} ({what})."
    calm = "show" if devices != 1 else "shows"
    return f"Without it there is no drift: {others} {calm} none, merged ({what})."


def _plain(rest: Rest) -> dict[str, object]:
    return {
        "devices": rest.devices,
        "drifts": rest.drifts,
        "stream": rest.stream,
        "inside": round(rest.inside, 4),
        "outside": round(rest.outside, 4),
        "unit": rest.unit,
    }
