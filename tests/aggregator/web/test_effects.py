"""The map's numbers are the same, however many windows they are computed for at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import busy_fleet
from driftpost_aggregator.web.effects import largest_change, largest_changes
from driftpost_aggregator.web.models import Models
from driftpost_sketches.window_batch import WindowBatch


def test_many_windows_at_once_show_the_changes_that_each_shows_alone(dashboard) -> None:
    with dashboard.engine.connect() as connection:
        model = Models().of(connection, [busy_fleet.BUNDLE])[busy_fleet.BUNDLE]
    fleet = busy_fleet.BusyFleet(dashboard.engine, 0, model.schema, model.baseline)
    generator = np.random.default_rng(4)
    windows = [
        fleet.window(int(rows), shifted=float(shift))
        for rows, shift in zip(
            generator.integers(1, 900, 40), generator.choice([0, 0.4, 1, 3], 40), strict=True
        )
    ]
    found = largest_changes(model, [window.to_bytes() for window in windows])
    expected = [largest_change(model, window) for window in windows]
    assert [name for _, name in found] == [name for _, name in expected]
    assert [size for size, _ in found] == pytest.approx([size for size, _ in expected])
    assert sum(size > 0 for size, _ in found) > 10
    assert any(size == 0 for size, _ in found)


def test_a_window_of_another_schema_shows_no_change(dashboard) -> None:
    with dashboard.engine.connect() as connection:
        model = Models().of(connection, [busy_fleet.BUNDLE])[busy_fleet.BUNDLE]
    assert largest_changes(model, [b"DPW nothing"]) == [(0.0, "")]


def test_windows_with_joint_sums_are_read_together_too(dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    with dashboard.engine.connect() as connection:
        model = Models().of(connection, [busy_fleet.BUNDLE])[busy_fleet.BUNDLE]
    fleet = busy_fleet.BusyFleet(dashboard.engine, 0, model.schema, model.baseline)
    plain = [fleet.window(200, shifted=1.0) for _ in range(5)]
    joint = [
        replace(window, joint=np.arange(3, dtype=np.int64) * window.rows, joint_rows=window.rows)
        for window in plain
    ]
    alone: list[int] = []
    monkeypatch.setattr(WindowBatch, "_read_alone", lambda _self, at: alone.append(at))
    found = largest_changes(replace(model, joint=3), [window.to_bytes() for window in joint])
    assert alone == []
    assert found == largest_changes(model, [window.to_bytes() for window in plain])
