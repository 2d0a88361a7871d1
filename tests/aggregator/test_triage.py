from __future__ import annotations

from collections.abc import Sequence

from driftpost_aggregator.causes import Affected, Cause, Kind
from driftpost_aggregator.triage import Incident, Open, Reopen, Resolve, Unmute, Update, plan

NOW = 1_000_000
SETTLE = 10_000
CAMERA = tuple(f"m{index}" for index in range(4))


def cause(
    *devices: str,
    kind: Kind = Kind.COVARIATE_SHIFT,
    scope: str = "device",
    members: Sequence[str] = (),
    raised: Sequence[int] = (0,),
) -> Cause:
    times = list(raised) + [raised[-1]] * (len(devices) - len(raised))
    return Cause(
        kind=kind,
        detail="shift",
        scope=scope,
        attributes=(("camera", "B"),) if scope == "cohort" else (),
        members=tuple(members) or devices,
        affected={device: Affected(at, at) for device, at in zip(devices, times, strict=True)},
        elsewhere=0,
        streams=(),
        log_e=1.0,
        bundles=("b",),
    )


def incident(
    name: str,
    *standing: str,
    kind: Kind = Kind.COVARIATE_SHIFT,
    scope: str = "device",
    members: Sequence[str] = (),
    state: str = "open",
    opened_ms: int = 0,
    resolved_ms: int | None = None,
    muted_until_ms: int | None = None,
    watched: bool = False,
) -> Incident:
    key = {"device": standing[0] if standing else "m0", "cohort": "camera=B", "fleet": ""}[scope]
    return Incident(
        name,
        kind,
        scope,
        key,
        state,
        frozenset(members or standing),
        frozenset(standing),
        opened_ms,
        resolved_ms,
        muted_until_ms,
        watched,
    )


def decide(causes: Sequence[Cause], incidents: Sequence[Incident] = (), now_ms: int = NOW) -> list[object]:
    return list(plan(causes, incidents, now_ms=now_ms, settle_ms=SETTLE, reopen_ms=50_000))


def test_a_cause_waits_until_no_device_has_joined_for_the_settling_time() -> None:
    growing = cause("m0", "m1", raised=(NOW - 15_000, NOW - 9_999))
    assert decide([growing]) == []
    assert decide([growing], now_ms=NOW + 1) == [Open(growing)]


def test_a_cause_that_keeps_growing_is_opened_after_three_settling_times() -> None:
    growing = cause("m0", "m1", raised=(NOW - 30_000, NOW))
    assert decide([growing]) == [Open(growing)]


def test_two_faults_of_one_device_s_sensor_begin_as_one_incident() -> None:
    stuck, frozen = (cause("m0", kind=Kind.SENSOR_FAULT) for _ in range(2))
    assert decide([stuck, frozen]) == [Open(stuck)]
    resolved = incident("a", "m0", kind=Kind.SENSOR_FAULT, state="resolved", resolved_ms=NOW - 1_000)
    assert decide([stuck, frozen], [resolved]) == [Reopen("a", stuck)]
    elsewhere = cause("m1", kind=Kind.SENSOR_FAULT)
    assert decide([stuck, elsewhere]) == [Open(stuck), Open(elsewhere)]


def test_an_active_incident_goes_on_at_once_without_settling() -> None:
    now = cause("m0", raised=(NOW,))
    assert decide([now], [incident("a", "m0")]) == [Update("a", now)]


def test_a_device_incident_is_widened_and_younger_ones_of_the_same_cause_absorbed() -> None:
    wide = cause(*CAMERA, scope="cohort", members=CAMERA)
    old, young = incident("old", "m1", opened_ms=5), incident("young", "m2", opened_ms=9)
    assert decide([wide], [young, old]) == [Update("old", wide, widen=True, absorb=("young",))]


def test_an_incident_with_devices_beyond_the_cause_is_not_absorbed() -> None:
    wide = cause("m0", "m1", scope="cohort", members=("m0", "m1"))
    other = incident("other", "m1", "m8", scope="cohort", members=("m1", "m8"), opened_ms=1)
    (first,) = decide([wide], [incident("mine", "m0"), other])
    assert isinstance(first, Update)
    assert (first.incident, first.absorb) == ("other", ("mine",))


def test_pieces_of_a_clearing_cohort_stay_with_its_incident() -> None:
    whole = incident("a", *CAMERA, scope="cohort", members=CAMERA)
    first, second = cause("m0"), cause("m3")
    assert decide([first, second], [whole]) == [Update("a", first, also=(second,))]


def test_a_stuck_sensor_takes_over_its_own_drift_incident_but_not_a_cohort_s() -> None:
    stuck = cause("m0", kind=Kind.SENSOR_FAULT)
    assert decide([stuck], [incident("a", "m0")]) == [Update("a", stuck, widen=True)]
    rest = cause(*CAMERA[1:], scope="cohort", members=CAMERA)
    cohort = incident("b", *CAMERA, scope="cohort", members=CAMERA)
    assert decide([rest, stuck], [cohort]) == [Update("b", rest), Open(stuck)]


def test_drift_of_a_device_with_a_model_fault_elsewhere_is_its_own_incident() -> None:
    drift, fault = cause("m0"), cause("m1", kind=Kind.MODEL_FAULT)
    assert decide([drift, fault]) == [Open(drift), Open(fault)]


def test_an_incident_ends_when_nothing_it_rests_on_stands() -> None:
    assert decide([], [incident("a", "m0")]) == [Resolve("a")]
    assert decide([cause("m5")], [incident("a", "m0")]) == [Open(cause("m5")), Resolve("a")]


def test_an_incident_that_merged_windows_still_show_goes_on() -> None:
    assert decide([], [incident("a", scope="fleet", watched=True)]) == []


def test_the_same_cause_reopens_its_incident_within_the_reopening_time_only() -> None:
    again = cause("m0")
    recent = incident("a", state="resolved", resolved_ms=NOW - 50_000)
    assert decide([again], [recent]) == [Reopen("a", again)]
    assert decide([again], [recent], now_ms=NOW + 1) == [Open(again)]
    other = cause("m0", kind=Kind.DEVICE_FAULT)
    assert decide([other], [recent]) == [Open(other)]


def test_a_mute_ends_at_its_time_and_a_muted_incident_can_end_before() -> None:
    standing = cause("m0")
    muted = incident("a", "m0", state="muted", muted_until_ms=NOW + 5)
    assert decide([standing], [muted]) == [Update("a", standing)]
    assert decide([standing], [muted], now_ms=NOW + 5) == [Update("a", standing), Unmute("a")]
    assert decide([], [muted]) == [Resolve("a")]


def test_two_alike_causes_do_not_fight_over_one_incident() -> None:
    first, second = cause("m0", "m1", scope="cohort", members=CAMERA), cause("m7")
    assert decide([first, second], [incident("a", "m0", "m1", scope="cohort", members=CAMERA)]) == [
        Update("a", first),
        Open(second),
    ]
