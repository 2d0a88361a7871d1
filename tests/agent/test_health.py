"""Health in one word, from its signs."""

from __future__ import annotations

from driftpost_agent.health import LINK_PATIENCE_S, Health, Heartbeat, Signs, assess, stalled


def test_everything_well_is_ok_without_reasons() -> None:
    assert assess(Signs(serving=True)) == (Health.OK, ())


def test_before_the_model_is_loaded_it_is_starting() -> None:
    state, reasons = assess(Signs(serving=False))
    assert state is Health.STARTING
    assert "not loaded" in reasons[0]


def test_a_loop_without_progress_is_failing_and_comes_first() -> None:
    state, reasons = assess(Signs(serving=True, stalled=("recorder",), store_problem="disk full"))
    assert state is Health.FAILING
    assert reasons == ("the recorder loop makes no progress", "windows wait in memory: disk full")


def test_a_model_that_is_down_is_failing_and_one_that_came_back_degraded() -> None:
    assert assess(Signs(serving=False, model_problem="ended by SIGSEGV"))[0] is Health.FAILING
    assert assess(Signs(serving=True, model_problem="ended by SIGSEGV"))[0] is Health.DEGRADED


def test_a_short_outage_of_the_link_is_no_event_and_a_long_one_is() -> None:
    short = Signs(serving=True, link_problem="refused", link_down_s=LINK_PATIENCE_S - 1)
    long = Signs(serving=True, link_problem="refused", link_down_s=LINK_PATIENCE_S + 1)
    assert assess(short)[0] is Health.OK
    assert assess(long)[0] is Health.DEGRADED
    assert "refused" in assess(long)[1][0]


def test_a_failed_self_test_degrades() -> None:
    assert assess(Signs(serving=True, self_test_problem="differs")) == (
        Health.DEGRADED,
        ("self-test: differs",),
    )


def test_a_heartbeat_lives_until_its_limit() -> None:
    now = [0.0]
    beat = Heartbeat("server", 10.0, lambda: now[0])
    now[0] = 10.0
    assert beat.alive
    now[0] = 10.5
    assert stalled([beat]) == ("server",)
    beat.beat()
    assert stalled([beat]) == ()
