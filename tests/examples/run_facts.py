"""What a run of the demo that went right leaves behind."""

from dataclasses import replace

from feeder import Tally
from receiver import EVENT_TYPE, Delivery
from scenario import DEVICES, FROZEN_DEVICE, cohort
from summary import Account, Facts, Finding, Incident

DRIFT_MS = 1_000_000

COHORT = Incident(
    id="i-cohort",
    scope="cohort",
    scope_key="camera=B",
    kind="covariate_shift",
    detail="shift",
    cause="brightness fell",
    state="open",
    absorbed_into="",
    devices=cohort(),
    onset_ms=DRIFT_MS,
    opened_ms=DRIFT_MS + 9_000,
)
DEVICE = replace(
    COHORT,
    id="i-device",
    scope="device",
    scope_key=FROZEN_DEVICE,
    kind="sensor_fault",
    detail="stuck",
    devices=frozenset({FROZEN_DEVICE}),
)
FINDING = Finding("meter-2", "shift", "brightness fell", DRIFT_MS + 4_000)
DELIVERY = Delivery(
    DRIFT_MS + 11_000,
    "msg_1",
    accepted=True,
    event={"type": EVENT_TYPE, "id": "msg_1", "data": {"incident": {"id": "i-cohort"}}},
)
ACCOUNT = Account(
    fed=900,
    recorded=900,
    stored=900,
    merged=900,
    windows=30,
    pending=0,
    quarantined=0,
    sent_bytes=30_000,
    guard_us=30.0,
    model_us=90.0,
    seconds=60,
)
TALLIES = {
    device.name: {"quiet": Tally(400, 390, 0, 1.0), "drift": Tally(500, 250, 300, 1.0)} for device in DEVICES
}


RIGHT = Facts(
    drift=True,
    drift_ms=DRIFT_MS,
    incidents=[COHORT, DEVICE],
    findings=[FINDING, replace(FINDING, device=FROZEN_DEVICE, kind="stuck")],
    deliveries=[DELIVERY],
    requests={"msg_1": "accepted"},
    tallies=TALLIES,
    accounts={device.name: ACCOUNT for device in DEVICES},
)
