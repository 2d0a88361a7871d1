"""The demo's exit status, without its processes."""

import sys
import tempfile

import pytest

import demo
from demo import CameraFailed
from processes import ChildFailed, Interrupted


class Played:
    """Stands in for the run; `during` and `afterwards` are what its two halves raise."""

    during: Exception | None = None
    afterwards: Exception | None = None
    problems: tuple[str, ...] = ()

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, *, keep: bool) -> object:
        if self.during is not None:
            raise self.during
        return object()

    def linger(self) -> None:
        if self.afterwards is not None:
            raise self.afterwards

    def stop(self) -> list[str]:
        return list(self.problems)


@pytest.fixture
def played(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["demo.py", "--keep"])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(demo.signal, "signal", lambda *_: None)
    monkeypatch.setattr(demo, "print_summary", lambda *_: None)
    monkeypatch.setattr(demo, "passed", lambda _: True)
    monkeypatch.setattr(demo, "Demo", Played)
    for name in ("during", "afterwards"):
        monkeypatch.setattr(Played, name, None)
    return monkeypatch


def test_a_run_that_keeps_every_promise_ends_with_status_zero_and_leaves_nothing(played, tmp_path):
    assert demo.main() == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("half", ["during", "afterwards"])
@pytest.mark.parametrize(
    "failure", [ChildFailed("aggregator", "ended with status 1", "its log"), CameraFailed("no answer")]
)
def test_a_failure_counts_before_and_after_the_summary_and_leaves_the_logs(played, tmp_path, half, failure):
    played.setattr(Played, half, failure)
    assert demo.main() == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_service_that_ends_badly_after_a_kept_run_is_no_success(played):
    played.setattr(Played, "problems", ("broker ended with status 1",))
    assert demo.main() == 1


def test_an_interrupted_run_is_no_success(played):
    played.setattr(Played, "during", Interrupted())
    assert demo.main() == demo.EXIT_INTERRUPTED


def test_a_broken_promise_is_no_success(played):
    played.setattr(demo, "passed", lambda _: False)
    assert demo.main() == 1
