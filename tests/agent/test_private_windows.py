"""Windows that leave under differential privacy: held, noised once, paid for, taken by the aggregator."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.bundles import REFERENCE_ROWS, built, mlp, tabular_rows
from agent.clocks import ManualClock
from driftpost import Guard
from driftpost_agent.description import description
from driftpost_agent.private_windows import SPENT, PrivacyPolicy, PrivateWindows, Spending
from driftpost_agent.settings import TABLE
from driftpost_agent.store import Store
from driftpost_models.bundle import Bundle
from driftpost_sketches.drift.marginal import MarginalDetector
from driftpost_sketches.labels.label_sketch import LabelSketch
from driftpost_sketches.privacy.release import PrivacyError
from driftpost_sketches.window import Window
from driftpost_sync.messages import FindingBody, LabelsBody, WindowBody
from driftpost_sync.settings import Settings

HOURLY = PrivacyPolicy(epsilon_per_day=8.0, release_ms=10_000)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[Store]:
    with Store.open(tmp_path / "agent.db", clock=clock, privacy=HOURLY) as opened:
        yield opened


def run(bundle: Bundle, store: Store, clock: ManualClock, windows: int, *, shift: float = 0.0) -> None:
    with Guard(bundle, store=store, clock=clock, window_seconds=1.0, threaded=False) as guard:
        for number in range(windows):
            guard.run(tabular_rows(10, seed=number, shift=shift))
            clock.advance(1_000)
            guard.tick()


def queued(store: Store, kind: str = "window") -> list[bytes]:
    with store.lock:
        return [
            bytes(row[0])
            for row in store._db.execute("select body from messages where kind = ? order by seq", (kind,))
        ]


def released(store: Store) -> list[tuple[WindowBody, Window]]:
    bodies = [WindowBody.from_bytes(body) for body in queued(store)]
    return [(body, Window.from_bytes(body.window)) for body in bodies]


def test_windows_are_held_until_a_release_is_due_and_leave_noised(
    mlp_bundle: Bundle, store: Store, clock: ManualClock
) -> None:
    run(mlp_bundle, store, clock, 9)
    assert released(store) == []
    run(mlp_bundle, store, clock, 12)
    (first, one), (second, two) = released(store)
    for body, window in ((first, one), (second, two)):
        assert window.noise > 0
        assert window.parts == 10
        assert body.evidence == b""
        window.check(mlp_bundle.schema)
        assert np.isposinf(window.low).all()
    assert one.rows == 100
    assert first.mono_end <= second.mono_start
    assert store.outbox_total().recorded.rows == 200


def test_no_exact_window_is_ever_queued(mlp_bundle: Bundle, store: Store, clock: ManualClock) -> None:
    run(mlp_bundle, store, clock, 35)
    windows = [window for _, window in released(store)]
    assert len(windows) == 3
    assert all(window.noise for window in windows)


def test_findings_about_rows_stay_on_the_device_unless_asked_for(
    mlp_bundle: Bundle, tmp_path: Path, clock: ManualClock
) -> None:
    for name, policy, sent in (
        ("strict", HOURLY, False),
        ("open", PrivacyPolicy(8.0, release_ms=10_000, send_findings=True), True),
    ):
        with Store.open(tmp_path / f"{name}.db", clock=clock, privacy=policy) as store:
            with Guard(mlp_bundle, store=store, clock=clock, window_seconds=60.0, threaded=False) as guard:
                for number in range(10):
                    guard.run(tabular_rows(200, seed=number, shift=1.5))
                    clock.advance(60_000)
                    guard.tick()
            assert store.finding_counts()[1] >= 1
            drift = [FindingBody.from_bytes(body) for body in queued(store, "finding")]
            assert any(finding.source == "drift" for finding in drift) is sent


def test_a_finding_drawn_from_rows_stays_home_from_beginning_to_end(store: Store) -> None:
    about_times = FindingBody(
        id="1-2-3", bundle="b" * 64, state="raised", kind="shift",
        streams=(("latency", 0.7), ("x.mean", 0.3)), log_e=20.0, effect=1.0, effect_natural=2.0, unit="us",
        direction="up", onset_mono=1, onset_wall=None, mono=2, wall=None, text="latency, x.mean: higher",
        source="device",
    )  # fmt: skip
    about_runtime = replace(about_times, id="4", streams=(), source="runtime", kind="model_crashed")
    for finding in (about_times, about_runtime):
        store.record_finding(finding)
        # As it is cleared when nobody watches on: without its streams.
        store.record_finding(replace(finding, state="cleared", streams=()))
    assert store.finding_counts()[1] == 0
    left = [FindingBody.from_bytes(body) for body in queued(store, "finding")]
    assert [(one.id, one.state) for one in left] == [("4", "raised"), ("4", "cleared")]


@pytest.mark.parametrize("sent", [False, True])
def test_counts_of_labels_stay_home_unless_findings_are_asked_for(
    tmp_path: Path, clock: ManualClock, sent: bool
) -> None:
    body = LabelsBody("b" * 64, 0, 1000, None, None, LabelSketch.empty(3).to_bytes(), 1)
    policy = replace(HOURLY, send_findings=sent)
    with Store.open(tmp_path / "agent.db", clock=clock, privacy=policy) as store:
        store.record_labels(body, findings=[], state=b"kept", standing="")
        assert store.label_state("b" * 64) == (b"kept", "")
        assert len(queued(store, "labels")) == sent


def test_a_restart_neither_loses_nor_repeats_what_is_held(
    mlp_bundle: Bundle, tmp_path: Path, clock: ManualClock
) -> None:
    for _ in range(5):
        with Store.open(tmp_path / "agent.db", clock=clock, privacy=HOURLY) as store:
            assert store.outbox_total().lost_rows_at_start == 0
            run(mlp_bundle, store, clock, 4)
    with Store.open(tmp_path / "agent.db", clock=clock, privacy=HOURLY) as store:
        windows = [window for _, window in released(store)]
        spending = Spending.load(store._db, HOURLY)
    assert sum(window.rows for window in windows) == 200 == 10 * sum(window.parts for window in windows)
    assert len(spending.account.recent) == len(windows)
    assert spending.elapsed_ms == 20_000


def test_a_window_too_early_for_the_budget_goes_on_growing(
    mlp_bundle: Bundle, store: Store, clock: ManualClock
) -> None:
    run(mlp_bundle, store, clock, 10)
    with store.transaction() as db:
        spending = Spending.load(db, HOURLY)
        account = spending.account
        greedy = account.charge(account.room(spending.elapsed_ms), spending.elapsed_ms, spending.elapsed_ms)
        Spending(greedy, spending.elapsed_ms).save(db)
    run(mlp_bundle, store, clock, 30)
    assert len(released(store)) == 1
    with store.lock:
        (span,) = store._db.execute("select span_ms from privacy_holds").fetchone()
    assert span == 30_000


def test_two_bundles_at_once_do_not_make_a_day_of_twelve_hours(
    mlp_bundle: Bundle, store: Store, clock: ManualClock, tmp_path: Path
) -> None:
    other = Bundle.open(built(tmp_path, "other", mlp(3), tabular_rows(REFERENCE_ROWS, seed=3)), None)
    guards = [
        Guard(bundle, store=store, clock=clock, window_seconds=1.0, threaded=False)
        for bundle in (mlp_bundle, other)
    ]
    for number in range(25):
        # The second one sleeps for a while: what is held of it began long ago.
        awake = guards if not 5 <= number < 15 else guards[:1]
        for guard in awake:
            guard.run(tabular_rows(10, seed=number))
        clock.advance(1_000)
        for guard in guards:
            guard.tick()
    with store.transaction() as db:
        spending = Spending.load(db, HOURLY)
    assert spending.elapsed_ms == 25_000
    assert [one.end_ms for one in spending.account.recent] == [10_000, 20_000, 20_000]
    assert spending.begun == {mlp_bundle.id: 20_000, other.id: 20_000}
    for guard in guards:
        guard.close()


def test_a_spent_total_keeps_windows_at_home_and_says_so_once(
    mlp_bundle: Bundle, tmp_path: Path, clock: ManualClock
) -> None:
    # A release costs about a 8,640th of a day: this total pays for a few.
    policy = PrivacyPolicy(epsilon_per_day=8.0, total_epsilon=0.17, release_ms=10_000)
    with Store.open(tmp_path / "agent.db", clock=clock, privacy=policy) as store:
        run(mlp_bundle, store, clock, 200)
        windows = released(store)
        assert 1 <= len(windows) < 20
        notes = [FindingBody.from_bytes(body) for body in queued(store, "finding")]
        assert [note.kind for note in notes if note.kind == SPENT] == [SPENT]
        assert "epsilon_total" in notes[0].text


def test_the_aggregator_takes_noised_windows_and_its_test_keeps_its_size(
    mlp_bundle: Bundle, store: Store, clock: ManualClock
) -> None:
    # The image that boards run has no aggregator.
    pytest.importorskip("sqlalchemy", reason="the aggregator's extra is not installed")
    from driftpost_aggregator.checks import check_window
    from driftpost_aggregator.registry import check
    from driftpost_aggregator.times import Sent

    run(mlp_bundle, store, clock, 100)
    known = check(description(mlp_bundle, window_seconds=1.0, budget="1 per device-year"))
    detector = MarginalDetector(
        known.schema, known.baseline, known.tau, known.n_ref, known.smallest_effect, np.log(1e4)
    )
    bodies = [WindowBody.from_bytes(body) for body in queued(store)]
    assert len(bodies) == 10
    for body in bodies:
        checked = check_window(body, known, Sent(body.mono_end, None, 1_790_000_000_000))
        assert checked.evidence is None
        assert detector.step(Window.from_bytes(body.window)) == []


def test_noise_that_leaves_nothing_is_refused_at_the_start(mlp_bundle: Bundle) -> None:
    policy = PrivacyPolicy(0.001, release_ms=1_000, rows_per_subject=1_000_000)
    with pytest.raises(PrivacyError, match="epsilon"):
        PrivateWindows(policy, mlp_bundle.schema, mlp_bundle.calibration.baseline, random.Random(0))


def test_the_settings_are_off_by_default_and_read_in_their_units(tmp_path: Path) -> None:
    def settings(text: str) -> Settings:
        path = tmp_path / "agent.toml"
        path.write_text(text)
        return TABLE.load(path)

    base = '[device]\nid = "m1"\n[model]\nbundle = "b.dpb"\n'
    assert PrivacyPolicy.from_settings(settings(base)) is None
    text = base + "[privacy]\nepsilon_per_day = 2.0\nepsilon_total = 50\nrelease_seconds = 600\n"
    policy = PrivacyPolicy.from_settings(settings(text))
    assert policy == PrivacyPolicy(2.0, 1e-6, 50.0, 600_000)
