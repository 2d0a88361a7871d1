"""A correlation that breaks everywhere at once: from devices' joint sums to an incident in words."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import Engine, select

from driftpost_aggregator.batch import Incoming
from driftpost_aggregator.errors import BundleRejected
from driftpost_aggregator.ingest import Ingest
from driftpost_aggregator.merged_watch import standing_alarms
from driftpost_aggregator.registry import OWNER, check, register
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.store.tables import incidents, quarantine, rollups
from driftpost_aggregator.triage_round import Triage
from driftpost_aggregator.web.models import Models
from driftpost_sketches.drift.budget import Budget
from driftpost_sketches.window import Window
from driftpost_sync.messages import DescribeBody, Item
from hanging_together import calibrated, closed, factor_rows
from paper_fleet import BUNDLE, FLEET, NOW, PaperDevice

BUCKET_S = 10
START = NOW // 10_000 * 10_000
ROWS = 300
CALIBRATION = calibrated(factor_rows(np.random.default_rng(0), 6_000, 5))


def described(joint: bytes) -> DescribeBody:
    names = CALIBRATION.tracked_names
    return DescribeBody(
        bundle=BUNDLE,
        name="meter reader",
        version="1.0",
        model_sha256="c" * 64,
        schema=CALIBRATION.schema.to_dict(),
        baseline=CALIBRATION.baseline.to_bytes(),
        tau={name: CALIBRATION.tau(name) for name in names},
        n_ref={name: CALIBRATION.n_ref(name) for name in names},
        smallest_effect=dict.fromkeys(names, 0.02),
        window_s=10.0,
        budget="1 per device-year",
        joint=joint,
    )


@pytest.fixture
def plan() -> bytes:
    assert CALIBRATION.joint is not None
    return CALIBRATION.joint.to_bytes()


def test_a_description_brings_the_plan_and_a_plan_that_does_not_fit_is_refused(plan: bytes) -> None:
    known = check(DescribeBody.from_bytes(described(plan).to_bytes()))
    assert known.joint is not None
    assert known.joint.to_bytes() == plan
    assert check(described(b"")).joint is None
    with pytest.raises(BundleRejected):
        check(described(plan[:-4]))


def test_the_dashboard_reads_the_bundles_windows_together(engine: Engine, plan: bytes) -> None:
    with writing(engine) as connection:
        assert register(connection, described(plan), source=OWNER, now_ms=START)
        model = Models().get(connection, BUNDLE)
    assert model is not None
    assert model.joint is not None
    ((window, _),) = closed(CALIBRATION, factor_rows(np.random.default_rng(5), ROWS, 5), ROWS)
    assert model.joint == len(window.joint) > 0


def test_joint_sums_of_other_features_than_the_bundles_are_refused(engine: Engine, plan: bytes) -> None:
    ingest = Ingest(engine, fleet=FLEET, bucket_s=BUCKET_S, now_ms=lambda: START + 1_000)
    rng = np.random.default_rng(4)
    owner, early, liar, honest = (PaperDevice(name) for name in ("owner", "early", "liar", "honest"))
    ((window, _),) = closed(CALIBRATION, factor_rows(rng, ROWS, 5), ROWS)
    invented = replace(window, joint=np.zeros(3, dtype=np.int64))

    def send(device: PaperDevice, item: Item) -> None:
        ingest.take([Incoming(device.identity.up, device.message([item], START + 900), START + 900)])

    send(early, early.window(invented, START + 900, length_ms=800))  # nobody knows better yet
    send(owner, owner.item("describe", described(plan).to_bytes()))
    send(liar, liar.window(invented, START + 900, length_ms=800))
    send(honest, honest.window(window, START + 900, length_ms=800))
    with reading(engine) as connection:
        assert connection.execute(select(quarantine.c.device)).scalars().all() == ["liar"]
        fleet = select(rollups.c.window).where(rollups.c.scope == "fleet")
        assert [Window.from_bytes(one) for one in connection.execute(fleet).scalars()] == [window]


def test_what_no_device_told_of_becomes_an_incident_in_words(engine: Engine, plan: bytes) -> None:
    clock = [START]
    numbers = itertools.count()
    ingest = Ingest(engine, fleet=FLEET, bucket_s=BUCKET_S, now_ms=lambda: clock[0])
    triage = Triage(
        engine,
        budget=Budget.parse("1 per fleet-year"),
        bucket_s=BUCKET_S,
        settle_windows=1.0,
        reopen_s=86_400.0,
        now_ms=lambda: clock[0],
        new_id=lambda: f"inc-{next(numbers)}",
    )
    fleet = [PaperDevice(f"m{index}", {"camera": "AB"[index % 2]}) for index in range(8)]
    for device in fleet:
        ingest.take([Incoming(device.identity.state, device.presence(), START)])
    first = fleet[0]
    payload = first.message([first.item("describe", described(plan).to_bytes())], START)
    ingest.take([Incoming(first.identity.up, payload, START)])
    rng = np.random.default_rng(3)
    for bucket in range(12):
        end = START + bucket * 10_000 + 9_000
        batch = []
        for device in fleet:
            values = factor_rows(rng, ROWS, 5)
            if bucket >= 4:
                values[:, 2] *= -1.0
            ((window, _),) = closed(CALIBRATION, values, ROWS)
            item = device.window(window, end, length_ms=8_000)
            batch.append(Incoming(device.identity.up, device.message([item], end), end))
        ingest.take(batch)
        clock[0] = end + 31_000
        triage.round()
    with reading(engine) as connection:
        standing = standing_alarms(connection, BUNDLE)
        found = connection.execute(select(incidents)).mappings().all()
    assert {one.kind for one in standing} == {"joint"}
    assert "x2" in {one.stream for one in standing}
    assert {(one["scope"], one["detail"]) for one in found} == {("fleet", "joint")}
    assert "hang together differently (correlation \N{MINUS SIGN}" in found[0]["title"]
    assert "x2" in found[0]["title"]
