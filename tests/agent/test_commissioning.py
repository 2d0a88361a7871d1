"""A device learns its own normal: skew once, drift against the site, kept over restarts and bundles."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from agent.bundles import built as built_bundle
from agent.bundles import mlp, tabular_rows
from agent.clocks import ManualClock
from agent.daemons import running
from driftpost import Guard
from driftpost_agent.cli import agent as command
from driftpost_agent.store import Store
from driftpost_models.build import build_bundle
from driftpost_models.bundle import Bundle
from driftpost_models.signing import PrivateKey
from driftpost_models.site_policy import SitePolicy
from driftpost_sync.messages import FindingBody

WINDOW_ROWS = 200


def sited(bundle: Bundle, commission: str = "4,000 rows", **changes: object) -> Bundle:
    site = SitePolicy(baseline=True, commission=commission, **changes)  # type: ignore[arg-type]  # a test's
    return dataclasses.replace(bundle, policy=dataclasses.replace(bundle.policy, site=site))


class Device:
    """A guard over a store, fed by windows on a clock of its own; it can be killed and started again."""

    def __init__(self, bundle: Bundle, path: Path) -> None:
        self.bundle, self.path = bundle, path
        self.clock = ManualClock()
        self.seed = 0
        self.start()

    def start(self) -> None:
        self.store = Store.open(self.path, clock=self.clock)
        self.guard = Guard(
            self.bundle, store=self.store, clock=self.clock, window_seconds=60.0, threaded=False
        )

    def run(self, windows: int, shift: float = 0.0, rows: int = WINDOW_ROWS) -> None:
        for _ in range(windows):
            self.seed += 1
            batch = tabular_rows(rows, seed=self.seed)
            batch[:, 0] += np.float32(shift)
            self.guard.run(batch)
            self.clock.advance(60_000)
            self.guard.tick()

    def kill(self) -> None:
        """As SIGKILL leaves it: what is in memory is gone."""
        self.store.close()

    def stop(self) -> None:
        self.guard.close()
        self.store.close()

    def findings(self) -> list[FindingBody]:
        with self.store.lock:
            rows = self.store._db.execute(
                "select body from messages where kind = 'finding' order by id"
            ).fetchall()
        return [FindingBody.from_bytes(row[0]) for row in rows]

    def site(self) -> dict[str, object]:
        return self.guard.checks.site()


@pytest.fixture
def device(mlp_bundle: Bundle, tmp_path: Path) -> Device:
    return Device(sited(mlp_bundle), tmp_path / "agent.db")


def test_an_offset_from_the_first_row_on_is_one_skew_and_a_later_one_a_drift_from_the_site(
    device: Device,
) -> None:
    device.run(30, shift=1.0)
    found = device.findings()
    assert [(f.kind, f.state, f.baseline) for f in found] == [("skew", "raised", "training")]
    assert found[0].streams[0][0] == "x0"
    assert found[0].effect == pytest.approx(1.0, abs=0.25)
    assert device.site()["mode"] == "watching"
    assert device.site()["baseline"] == "site"

    device.run(20, shift=2.0)
    later = device.findings()[1:]
    assert later
    assert {(f.state, f.baseline) for f in later} == {("raised", "site")}
    assert "own normal" in later[0].text
    assert later[0].effect == pytest.approx(1.0, abs=0.4)
    # Back at its own normal the drift is over, and the skew stays.
    device.run(60, shift=1.0)
    last = device.findings()[-1]
    assert (last.state, last.id) == ("cleared", later[0].id)
    assert [row["kind"] for row in device.store.findings(standing=True)] == ["skew"]
    device.stop()


def test_status_says_how_far_the_learning_is(device: Device) -> None:
    device.run(1)
    first = device.site()
    assert (first["mode"], first["phase"], first["baseline"]) == ("learning", "ranges", "training")
    assert (first["rows"], first["rows_wanted"]) == (200, 4_000)
    assert first["seconds_left"] == pytest.approx(19 * 60.0)
    device.run(5)
    assert device.site()["phase"] == "chains"
    assert device.site()["rows"] == 1_200
    device.stop()


def test_a_kill_while_it_learns_loses_no_closed_window(device: Device) -> None:
    for _ in range(8):
        device.run(3)
        device.kill()
        device.start()
    assert device.site()["mode"] == "watching"
    assert device.store.outbox_total().recorded.rows == 24 * WINDOW_ROWS
    device.run(3)
    assert not device.findings()
    with device.store.lock:
        parts = device.store._db.execute("select name from site_parts").fetchall()
    assert parts == [("calibration",)]
    device.stop()


def test_an_alarm_that_begins_while_it_learns_stops_the_learning_until_someone_accepts_it(
    device: Device,
) -> None:
    device.run(8)
    device.run(30, shift=3.0)
    raised = device.findings()
    assert [(f.state, f.baseline) for f in raised] == [("raised", "training")] * len(raised)
    held = device.site()
    assert held["mode"] == "held"
    assert held["held_by"]
    rows = held["rows"]
    device.run(5, shift=3.0)
    assert device.site()["rows"] == rows
    device.kill()
    device.start()
    assert device.site()["mode"] == "held"

    assert device.guard.checks.decide(accept=True)
    assert {f.state for f in device.findings()[len(raised) :]} == {"cleared"}
    assert (device.site()["mode"], device.site()["rows"]) == ("learning", 0)
    device.run(23, shift=3.0)
    assert device.site()["mode"] == "watching"
    standing = device.store.findings(standing=True)
    assert [row["kind"] for row in standing] == ["skew"]
    device.stop()


def test_a_device_can_be_told_to_learn_anew(device: Device) -> None:
    device.run(25, shift=1.0)
    assert device.site()["mode"] == "watching"
    assert device.guard.checks.decide(accept=False)
    assert device.site()["mode"] == "learning"
    assert [f.state for f in device.findings()] == ["raised", "cleared"]
    device.kill()
    device.start()
    assert (device.site()["mode"], device.site()["rows"]) == ("learning", 0)
    device.stop()


@pytest.mark.parametrize("keep", [True, False])
def test_a_new_bundle_of_the_same_streams_keeps_what_was_learnt_if_the_policy_says_so(
    mlp_bundle: Bundle, tmp_path: Path, keep: bool
) -> None:
    device = Device(sited(mlp_bundle, keep=keep), tmp_path / "agent.db")
    device.run(25, shift=1.0)
    device.guard.close()
    device.guard.checks.abandon("another bundle was activated instead")
    device.store.close()
    device.bundle = dataclasses.replace(device.bundle, id="f" * 64)
    device.start()
    assert device.site()["mode"] == ("watching" if keep else "learning")
    assert bool(device.site()["taken_over"]) is keep
    device.run(5, shift=1.0)
    assert [f for f in device.findings() if f.bundle == "f" * 64] == []
    device.stop()


def test_what_can_not_be_read_is_learnt_anew(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    device.run(10)
    with device.store.transaction() as db:
        db.execute("update site_states set head = x'00'")
    device.kill()
    device.start()
    assert device.site()["rows"] == 0
    assert "anew" in caplog.text
    device.run(25)
    assert device.site()["mode"] == "watching"
    device.stop()


def test_a_calibration_is_made_in_the_background_and_stops_with_the_guard(
    mlp_bundle: Bundle, tmp_path: Path
) -> None:
    with Store.open(tmp_path / "agent.db", clock=ManualClock()) as store:
        guard = Guard(sited(mlp_bundle, "1,000 rows"), store=store, window_seconds=3600.0)
        for seed in range(40):
            guard.run(tabular_rows(100, seed=seed))
            guard.flush()
            if guard.checks.site()["mode"] == "fitting":
                break
        assert guard.checks.site()["mode"] == "fitting"
        thread = guard.checks._site._fitting  # type: ignore[union-attr]  # the test's own site
        assert thread is not None
        assert thread.name == "driftpost-commissioning"
        thread.join(60.0)
        assert not thread.is_alive()
        guard.run(tabular_rows(100, seed=99))
        guard.flush()
        assert guard.checks.site()["mode"] == "watching"
        guard.close()


def test_a_bundle_without_reference_watches_by_what_the_device_learnt(tmp_path: Path) -> None:
    (tmp_path / "mlp.onnx").write_bytes(mlp())
    (tmp_path / "config.toml").write_text('[policy]\n[policy.site]\ncommission = "4,000 rows"\n')
    built = build_bundle(
        tmp_path / "mlp.onnx", None, tmp_path / "mlp.bundle", config=tmp_path / "config.toml"
    )
    device = Device(built.bundle, tmp_path / "agent.db")
    device.run(12)
    device.kill()
    device.start()
    device.run(12)
    assert device.site()["mode"] == "watching"
    assert not device.findings()
    device.run(10, shift=2.0)
    found = device.findings()
    assert found
    assert {f.baseline for f in found} == {"site"}
    assert found[0].streams[0][0] == "x0"
    assert found[0].kind == "shift"
    assert device.guard.checks.evidence().size == 0
    device.stop()


def test_a_running_agent_tells_what_it_has_learnt_and_takes_a_persons_word(
    tmp_path: Path, bundles: Path, key: PrivateKey
) -> None:
    (tmp_path / "site.toml").write_text('[policy.site]\nbaseline = true\ncommission = "1,000 rows"\n')
    path = built_bundle(
        tmp_path,
        "sited",
        mlp(),
        tabular_rows(4_000),
        key=key,
        window_seconds=1.0,
        config=tmp_path / "site.toml",
    )
    with running(tmp_path, path, bundles / "team.pub") as agent:
        for seed in range(12):
            agent.infer("sited", "x", tabular_rows(100, seed=seed) + np.float32(1.0))
        agent.wait(lambda: agent.status()["site"]["rows"] > 0, "the first window is learnt")
        said = CliRunner().invoke(command, ["site", "show", "--config", str(agent.config)])
        assert said.exit_code == 0, said.output
        assert "site" in said.output
        done = CliRunner().invoke(command, ["site", "again", "--config", str(agent.config)])
        assert "takes it up now" in done.output
        agent.wait(lambda: agent.status()["site"]["rows"] == 0, "the request is taken up")
        agent.wait(lambda: not list((tmp_path / "state").glob("site-request*")), "the request is removed")
        (tmp_path / "state" / "site-request.json").write_text("{")
        agent.wait(lambda: not list((tmp_path / "state").glob("site-request*")), "nonsense is removed")


def test_a_word_that_nobody_needs_is_refused(tmp_path: Path, bundles: Path) -> None:
    with running(tmp_path, bundles / "mlp.bundle", bundles / "team.pub") as agent:
        done = CliRunner().invoke(command, ["site", "accept", "--config", str(agent.config)])
        assert done.exit_code == 1
        assert "site.baseline = true" in done.output
        said = CliRunner().invoke(command, ["site", "show", "--config", str(agent.config)])
        assert "no site baseline" in said.output


def test_without_a_site_baseline_nothing_is_learnt(mlp_bundle: Bundle, tmp_path: Path) -> None:
    device = Device(mlp_bundle, tmp_path / "agent.db")
    device.run(2)
    assert device.site() == {"baseline": "training", "mode": "off"}
    assert not device.guard.checks.decide(accept=True)
    device.stop()
