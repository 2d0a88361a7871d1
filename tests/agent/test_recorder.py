"""Blocks and windows: nothing lost, nothing twice, bounded memory, closed on time."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from agent.bundles import FEATURES, tabular_rows
from agent.clocks import ManualClock
from driftpost_agent.block_buffer import MAX_BYTES, MAX_IMAGES, MAX_ROWS, BlockBuffer, RowLayout, TensorLayout
from driftpost_agent.recorder import MAX_REFUSED, ClosedWindow, Passes, Recorder
from driftpost_models.bundle import Bundle
from driftpost_models.probes.block import Block
from driftpost_models.probes.decimation import Decimation
from driftpost_models.probes.probe import Extract

FLOAT = np.dtype(np.float32)
LAYOUT = RowLayout((TensorLayout("x", (FEATURES,), FLOAT),), (TensorLayout("p", (10,), FLOAT),))
ANSWER = np.full(10, 0.1, np.float32).tobytes()


def recorder(bundle: Bundle, closed: list[ClosedWindow], clock: ManualClock, **options: Any) -> Recorder:
    return Recorder(
        bundle.probes.copy(), bundle.schema, clock=clock, window_ms=1_000, on_window=closed.append, **options
    )


def append(into: Recorder, count: int, layout: RowLayout = LAYOUT, latency_us: float = 5.0) -> None:
    for row in tabular_rows(count):
        into.append(layout, (row.tobytes(), ANSWER), latency_us, 0)


def test_a_block_holds_a_thousand_rows_or_256_decimated_images_within_a_megabyte() -> None:
    assert LAYOUT.capacity == MAX_ROWS
    how = Decimation.of("nhwc", (96, 96, 3))
    assert how is not None
    assert RowLayout((TensorLayout("image", how.shape, np.dtype(np.int8), how),), ()).capacity == MAX_IMAGES
    frame = RowLayout((TensorLayout("image", (224, 224, 3), FLOAT),), ())
    assert frame.capacity == MAX_BYTES // (224 * 224 * 3 * 4)
    huge = RowLayout((TensorLayout("image", (4000, 4000, 3), FLOAT),), ())
    assert huge.capacity == 1


def test_rows_come_out_of_a_block_as_they_went_in() -> None:
    block = BlockBuffer(LAYOUT)
    rows = tabular_rows(3)
    for number, row in enumerate(rows):
        assert not block.append((row.tobytes(), ANSWER), float(number), number)
    np.testing.assert_array_equal(block.inputs["x"][:3], rows)
    assert block.latency_us[:3].tolist() == [0.0, 1.0, 2.0]
    assert block.verdict[:3].tolist() == [0, 1, 2]


def test_tensors_without_elements_or_axes_are_recorded_too() -> None:
    layout = RowLayout((TensorLayout("rate", (), np.dtype(np.int64)), TensorLayout("none", (0,), FLOAT)), ())
    block = BlockBuffer(layout)
    block.append((np.int64(16_000).tobytes(), b""), 1.0, 0)
    assert block.inputs["rate"][0] == 16_000
    assert block.inputs["none"].shape == (MAX_ROWS, 0)


def test_an_input_and_an_output_may_have_the_same_name() -> None:
    layout = RowLayout((TensorLayout("t", (1,), FLOAT),), (TensorLayout("t", (1,), FLOAT),))
    block = BlockBuffer(layout)
    block.append((np.float32(1).tobytes(), np.float32(2).tobytes()), 1.0, 0)
    assert (block.inputs["t"][0, 0], block.outputs["t"][0, 0]) == (1.0, 2.0)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
def test_every_row_is_in_exactly_one_window(mlp_bundle: Bundle, count: int) -> None:
    closed: list[ClosedWindow] = []
    clock = ManualClock()
    records = recorder(mlp_bundle, closed, clock)
    append(records, count // 2)
    clock.advance(1_000)
    records.tick()
    append(records, count - count // 2)
    assert records.open_rows == count - count // 2
    records.close_window()
    assert sum(window.window.rows for window in closed) == count
    assert records.open_rows == 0
    assert records.rows_recorded == count


def test_windows_lie_on_multiples_of_their_length_and_follow_each_other(mlp_bundle: Bundle) -> None:
    closed: list[ClosedWindow] = []
    clock = ManualClock(1_700, wall_ms=5_000_000)
    records = recorder(mlp_bundle, closed, clock)
    for pause in (299, 1, 1_000, 3_400, 600):
        append(records, 1)
        clock.advance(pause)
        records.tick()
    spans = [(window.mono_start, window.mono_end) for window in closed]
    # The third round came late, as after a sleep: one window covers what it missed, the next is on time.
    assert spans == [(1_700, 2_000), (2_000, 3_000), (3_000, 6_400), (6_400, 7_000)]
    assert [window.wall_start for window in closed][1:] == [window.wall_end for window in closed][:-1]


def test_an_empty_window_is_not_recorded(mlp_bundle: Bundle) -> None:
    closed: list[ClosedWindow] = []
    clock = ManualClock()
    records = recorder(mlp_bundle, closed, clock)
    clock.advance(10_000)
    records.tick()
    records.close_window()
    assert closed == []


def test_the_wall_clock_may_jump_without_moving_a_window(mlp_bundle: Bundle) -> None:
    closed: list[ClosedWindow] = []
    clock = ManualClock(0, wall_ms=0)
    records = recorder(mlp_bundle, closed, clock)
    append(records, 1)
    clock.wall = 1_900_000_000_000
    clock.advance(500)
    records.tick()
    assert closed == []
    clock.wall = None
    clock.advance(500)
    records.tick()
    assert (closed[0].mono_end, closed[0].wall_end) == (1_000, None)


def test_refused_rows_count_with_their_verdict_and_miss_everything_else(mlp_bundle: Bundle) -> None:
    closed: list[ClosedWindow] = []
    records = recorder(mlp_bundle, closed, ManualClock())
    append(records, 2)
    records.append_refused(1, rows=3)
    records.close_window()
    window, schema = closed[0].window, mlp_bundle.schema
    assert window.rows == 5
    assert int(window.missing[schema.index("x0")]) == 3
    verdicts = window.summary(schema, schema.index("verdict"))
    assert {
        schema.streams[schema.index("verdict")].bin_label(i): int(n)
        for i, n in enumerate(verdicts.counts)
        if n
    } == {
        "ok": 2,
        "shape": 3,
    }


def test_a_block_that_can_not_be_read_counts_without_its_values_and_troubles_no_caller(
    mlp_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[ClosedWindow] = []
    into = recorder(mlp_bundle, closed, ManualClock(), passes=Passes.CALLER)
    extract, troubles = into._probes.extract, [MemoryError("no room for a block")]

    def once(block: Block) -> Extract:
        if troubles:
            raise troubles.pop()
        return extract(block)

    monkeypatch.setattr(into._probes, "extract", once)
    append(into, 2 * MAX_ROWS)
    into.close_window()
    (window,) = [one.window for one in closed]
    assert window.rows == into.rows_recorded == 2 * MAX_ROWS
    assert f"{MAX_ROWS} rows could not be sketched" in caplog.text
    missing = np.asarray(window.missing)[mlp_bundle.schema.tracked_streams]
    assert missing.max() == MAX_ROWS


def test_a_flood_of_refused_rows_does_not_grow_in_memory(mlp_bundle: Bundle) -> None:
    records = recorder(mlp_bundle, [], ManualClock())
    for _ in range(MAX_REFUSED + 10):
        records.append_refused(2)
    assert len(records._refused) <= MAX_REFUSED
    assert records.open_rows == MAX_REFUSED + 10


def test_a_change_of_shape_starts_another_block_and_loses_no_row(mlp_bundle: Bundle) -> None:
    closed: list[ClosedWindow] = []
    records = recorder(mlp_bundle, closed, ManualClock())
    other = RowLayout(LAYOUT.inputs, LAYOUT.outputs)
    for _ in range(20):
        append(records, 3)
        append(records, 2, other)
    records.close_window()
    assert closed[0].window.rows == 100


def test_with_a_thread_to_sketch_a_full_block_wakes_it_and_callers_only_help_when_it_lags(
    mlp_bundle: Bundle,
) -> None:
    woken: list[int] = []
    records = recorder(mlp_bundle, [], ManualClock(), passes=Passes.THREAD, wake=lambda: woken.append(1))
    append(records, MAX_ROWS)
    assert woken == [1]
    assert len(records._full) == 1
    append(records, 5 * MAX_ROWS)
    assert len(records._full) <= 2
    assert records.open_rows == 6 * MAX_ROWS


@pytest.mark.parametrize(("latency_us", "waiting"), [(5.0, 0), (500.0, 1)])
def test_left_to_itself_a_full_block_goes_to_the_thread_only_where_the_model_is_slow(
    mlp_bundle: Bundle, latency_us: float, waiting: int
) -> None:
    woken: list[int] = []
    records = recorder(mlp_bundle, [], ManualClock(), passes=Passes.AUTO, wake=lambda: woken.append(1))
    append(records, MAX_ROWS, latency_us=latency_us)
    assert (len(woken), len(records._full)) == (waiting, waiting)


def test_no_caller_waits_for_a_slow_disk_while_there_is_a_free_block(mlp_bundle: Bundle) -> None:
    writing, written = threading.Event(), threading.Event()

    def write(window: ClosedWindow) -> None:
        writing.set()
        assert written.wait(10)

    records = Recorder(
        mlp_bundle.probes.copy(), mlp_bundle.schema, clock=ManualClock(), window_ms=1_000, on_window=write
    )
    append(records, 1)
    closer = threading.Thread(target=records.close_window, name="closer")
    closer.start()
    assert writing.wait(10)
    append(records, MAX_ROWS + 1)
    assert len(records._full) == 1
    written.set()
    closer.join()
    append(records, 1)
    assert len(records._full) == 0
    assert records.open_rows == MAX_ROWS + 2


def test_threads_that_append_while_windows_close_lose_nothing(mlp_bundle: Bundle) -> None:
    closed: list[ClosedWindow] = []
    records = recorder(mlp_bundle, closed, ManualClock(), passes=Passes.THREAD, window_rows=100)
    threads = [
        threading.Thread(target=append, args=(records, 700), name=f"appender-{number}") for number in range(3)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        records.tick()
        records.close_window()
    for thread in threads:
        thread.join()
    records.close_window()
    assert sum(window.window.rows for window in closed) == 2100
