"""Which bundle the daemon serves when the one that was asked for can't be: in process, with real models."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent.bundles import tabular_rows
from driftpost_agent import daemon as daemon_module
from driftpost_agent.activation import Activation
from driftpost_agent.cli import agent
from driftpost_agent.daemon import Daemon
from driftpost_agent.errors import ActivationFailed, RequestRefused
from driftpost_agent.settings import TABLE
from driftpost_agent.store import Store
from driftpost_models import keeper
from driftpost_models.bundle import Bundle
from driftpost_models.errors import ModelRefused
from driftpost_models.runtime import Runtime, load_model
from driftpost_models.signing import load_public_key
from driftpost_sync.clock import SystemClock
from driftpost_sync.messages import FindingBody
from driftpost_sync.systemd import Notifier
from mosquitto import free_port
from wire import wait_until


class Board:
    """A device whose runtime refuses some bundles."""

    def __init__(self, folder: Path, bundles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bundles = bundles
        self.config = folder / "agent.toml"
        self.refused: set[str] = set()
        self.port = free_port()
        self.configure(bundles / "mlp.bundle")
        self.activation = Activation(
            folder / "bundles",
            [load_public_key(bundles / "team.pub")],
            allow_unsigned=False,
            start=lambda bundle: load_model(bundle.model_bytes),
        )
        monkeypatch.setattr(daemon_module, "loader", lambda settings, announce: self.start)

    def configure(self, bundle: Path) -> None:
        self.config.write_text(
            f'[device]\nid = "d"\nfleet = "f"\n[model]\nbundle = "{bundle}"\nisolated = false\n'
            f'trusted_keys = ["{self.bundles / "team.pub"}"]\n[server]\nport = {self.port}\n'
            f'[store]\npath = "{self.config.parent / "agent.db"}"\n[sync]\nenabled = false\n'
            # What the tests' process has used before is none of this daemon's budgets.
            "[budget]\nmemory_mb = 65536\nflash_mb_per_day = 1048576\n"
        )

    def start(self, bundle: Bundle) -> Runtime:
        if bundle.id in self.refused:
            raise ModelRefused("this runtime lacks an operator of it", "")
        return load_model(bundle.model_bytes)

    def daemon(self) -> Daemon:
        settings = TABLE.load(self.config)
        return Daemon(
            settings, clock=SystemClock(), exit_event=threading.Event(), notifier=Notifier(environment={})
        )

    @contextmanager
    def serving(self) -> Iterator[Daemon]:
        daemon = self.daemon()
        thread = threading.Thread(target=daemon.run, name="daemon-under-test")
        thread.start()
        try:
            wait_until(lambda: daemon.ready() and daemon.status()["server"]["port"], "the daemon is ready")
            yield daemon
        finally:
            daemon._exit.set()
            thread.join(10)


@pytest.fixture
def board(tmp_path: Path, bundles: Path, monkeypatch: pytest.MonkeyPatch) -> Board:
    return Board(tmp_path, bundles, monkeypatch)


def kinds(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(finding["kind"], finding["state"]) for finding in document["findings"]["latest"]]


def test_a_bundle_that_is_refused_at_the_start_gives_way_to_its_predecessor(board: Board) -> None:
    one = board.activation.activate(board.bundles / "mlp.bundle", configured=True)
    two = board.activation.activate(board.bundles / "mlp2.bundle")
    board.refused.add(two.id)
    with board.serving() as daemon:
        document = daemon.status()
        assert document["model"]["bundle"] == one.id
        assert kinds(document) == [("rolled_back", "raised")]
        assert document["health"]["state"] == "degraded"
        assert document["health"]["reasons"][0].startswith("mlp 1 serves instead: ")
        assert "lacks an operator" in document["health"]["reasons"][0]
        history = [(entry["bundle"], entry["outcome"]) for entry in document["activations"]]
        assert history == [(one.id, "started"), (two.id, "rolled back")]
    # The next start has nothing to go back from, and still another bundle serves than was asked for.
    with board.serving() as daemon:
        document = daemon.status()
        assert document["model"]["bundle"] == one.id
        assert document["health"]["state"] == "degraded"
        assert "lacks an operator" in document["health"]["reasons"][0]
    board.refused.clear()
    board.activation.activate(board.bundles / "mlp2.bundle")
    with board.serving() as daemon:
        document = daemon.status()
        assert document["model"]["bundle"] == two.id
        assert document["health"]["state"] == "ok"


def test_a_runtime_that_answers_the_golden_inputs_otherwise_is_a_model_fault_in_store_and_wire(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The board's runtime was updated since the activation: it serves, and says what that is worth."""
    one = board.activation.activate(board.bundles / "mlp.bundle", configured=True)
    other = Bundle.open(board.bundles / "mlp2.bundle", None)
    monkeypatch.setattr(board, "start", lambda bundle: load_model(other.model_bytes))
    with board.serving() as daemon:
        document = daemon.status()
        assert document["model"]["bundle"] == one.id
        assert kinds(document) == [("model_fault", "raised")]
        assert document["health"]["reasons"][0].startswith("self-test: output 'p' of golden call")
        store = daemon._store
        (finding,) = store.findings(standing=True)
        assert (finding["unit"], finding["source"]) == ("share", "runtime")
        assert 0 < finding["effect"] <= 1
        assert "golden calls get another best class" in finding["text"]
        with store.outbox_transaction() as outbox:
            batch = outbox.next_batch(1 << 20, now=0)
        assert batch is not None
        (sent,) = (FindingBody.from_bytes(item.body) for item in batch.rows if item.kind == "finding")
        assert (sent.kind, sent.bundle, sent.text) == ("model_fault", one.id, finding["text"])
    monkeypatch.undo()
    with board.serving() as daemon:
        assert kinds(daemon.status()) == [("model_fault", "cleared")]


def test_without_a_predecessor_the_start_fails_with_the_reason(board: Board) -> None:
    one = board.activation.activate(board.bundles / "mlp.bundle", configured=True)
    board.refused.add(one.id)
    with pytest.raises(ActivationFailed, match=r"lacks an operator.*no earlier bundle"):
        board.daemon().run()


def test_a_refused_bundle_can_be_activated_again_and_each_attempt_tells_its_own_outcome(
    board: Board,
) -> None:
    two = Bundle.open(board.bundles / "mlp2.bundle", None)
    command = ["activate", str(board.bundles / "mlp2.bundle"), "--config", str(board.config)]
    with board.serving() as daemon:
        board.refused.add(two.id)
        for _ in range(2):
            refused = CliRunner().invoke(agent, command)
            assert refused.exit_code == 1
            assert "lacks an operator" in refused.output
        outcomes = [entry["outcome"] for entry in daemon.status()["activations"]]
        assert outcomes == ["rolled back", "rolled back", "started"]
        assert "mlp 1 serves instead" in daemon.status()["health"]["reasons"][0]
        board.refused.clear()
        accepted = CliRunner().invoke(agent, command)
        assert accepted.exit_code == 0, accepted.output
        assert daemon.status()["model"]["bundle"] == two.id
        assert daemon.status()["health"] == {"state": "ok", "reasons": []}
        assert kinds(daemon.status()) == [("rolled_back", "cleared")]


def test_a_configured_bundle_that_is_gone_shows_in_the_health(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    one = board.activation.activate(board.bundles / "mlp.bundle", configured=True)
    board.configure(board.config.parent / "gone.bundle")
    with board.serving() as daemon:
        document = daemon.status()
        assert document["model"]["bundle"] == one.id
        assert document["health"]["state"] == "degraded"
        assert "gone.bundle" in document["health"]["reasons"][0]
        assert kinds(document) == [("rolled_back", "raised")]
    assert any("gone.bundle" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("wanted", ["../stray", "stray", "/etc/x", "A" * 64, "0" * 63, "\0", "x\n" * 200])
def test_only_a_bundles_id_is_looked_up_when_the_aggregator_asks_for_a_description(
    board: Board, caplog: pytest.LogCaptureFixture, wanted: str
) -> None:
    for folder in (board.config.parent, board.config.parent / "bundles"):
        folder.mkdir(exist_ok=True)
        (folder / "stray.bundle").write_bytes((board.bundles / "mlp2.bundle").read_bytes())
    with board.serving() as daemon:
        before = daemon.status()["store"]["pending_messages"]
        daemon._describe_again(wanted)
        assert daemon.status()["store"]["pending_messages"] == before
    assert "no bundle's id" in caplog.text
    assert "\n\n" not in caplog.text


def test_a_stop_while_a_model_takes_its_time_to_load_ends_the_start_and_blames_nobody(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = board.activation.activate(board.bundles / "mlp.bundle", configured=True)
    two = board.activation.activate(board.bundles / "mlp2.bundle")
    monkeypatch.undo()  # the real loader, whose models start in processes of their own
    board.config.write_text(board.config.read_text().replace("isolated = false", "isolated = true"))
    loading = threading.Event()

    def slow() -> keeper.Child:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", "import time; time.sleep(600)", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stderr=subprocess.PIPE,
            )
        loading.set()
        return keeper.Child(process, ours, 0.0)

    monkeypatch.setattr(keeper, "spawn", slow)
    daemon = board.daemon()
    thread = threading.Thread(target=daemon.run, name="daemon-under-test")
    thread.start()
    assert loading.wait(20)
    begun = time.monotonic()
    daemon._exit.set()
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - begun < 5.0
    pointer = board.activation.pointer()
    assert pointer is not None
    assert (pointer.active, pointer.previous, pointer.problem) == (two.id, one.id, "")
    with Store.open(board.config.parent / "agent.db", clock=SystemClock()) as store:
        assert store.finding_counts() == (0, 0)
        assert store.activations() == []


def test_a_model_in_a_crash_loop_stops_serving_where_the_owner_wants_that(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    text = board.config.read_text().replace("isolated = false", "isolated = true")
    board.config.write_text(text.replace("[model]\n", '[model]\ncrash_limit = 2\non_crash_loop = "stop"\n'))
    with board.serving() as daemon:
        runtime = daemon._now_serving().guard.runtime
        for crash in range(1, 3):
            pid = getattr(runtime, "pid", None)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not getattr(runtime, "alive", True), "it is gone")
            with suppress(RequestRefused):
                daemon.infer({"x": tabular_rows(1)}, "")  # starts it again, or is told to wait
            wait_until(lambda crash=crash: daemon._watch._crashes == crash, "counted once")
        wait_until(lambda: bool(daemon._watch.stopped), "given up")
        assert not daemon.ready()
        with pytest.raises(RequestRefused, match="crashed 2 times"):
            daemon.infer({"x": tabular_rows(1)}, "")
        document = daemon.status()
        assert document["health"]["state"] == "failing"
        assert ("crash_loop", "raised") in kinds(document)
