"""Tables of streams: what changed beyond chance comes first, in words a person can judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import Engine, select, update

from busy_fleet import BUNDLE, ROWS
from driftpost_aggregator.store import tables
from driftpost_aggregator.store.database import reading, writing
from driftpost_aggregator.web import effects
from driftpost_aggregator.web.effects import Changes, largest_change, largest_changes
from driftpost_aggregator.web.incident_data import incident_window, rollup_of
from driftpost_aggregator.web.models import Model, Models
from driftpost_aggregator.web.queries import series
from driftpost_aggregator.web.queries.incidents import Contribution, Incident, incident_named
from driftpost_aggregator.web.stream_table import contribution_words, points, stream_table
from driftpost_aggregator.web.words import DASH, MINUS, TIMES
from driftpost_sketches.window import Window
from paper_fleet import NOW


@pytest.fixture
def model(engine: Engine) -> Model:
    with reading(engine) as connection:
        found = Models().get(connection, BUNDLE)
    assert found is not None
    return found


def windows(engine: Engine, scope: str, key: str, most: int = 12) -> list[Window]:
    with reading(engine) as connection:
        found = series.points(connection, scope, key, BUNDLE, from_ms=0, to_ms=NOW, most=most)
    return [point.window for point in found]


def incident(engine: Engine, name: str) -> Incident:
    with reading(engine) as connection:
        found = incident_named(connection, name)
    assert found is not None
    return found


def test_what_changed_most_beyond_chance_comes_first(engine: Engine, model: Model) -> None:
    lines = stream_table(model, windows(engine, "cohort", "camera=B"), "cohort", "camera=B")
    assert lines[0].name == "image.sharpness"
    assert {line.name for line in lines if line.size > 0.5} == {
        "image.sharpness",
        "image.brightness",
        "image.contrast",
        "output.confidence",
        "output.entropy",
    }
    watched = [line.size for line in lines if line.tracked]
    assert watched == sorted(watched, reverse=True)
    assert [line.tracked for line in lines] == [True] * len(watched) + [False] * 2
    assert "scope=cohort&key=camera%3DB" in lines[0].link


def test_chance_is_no_change(engine: Engine, model: Model) -> None:
    for camera in "AC":
        lines = stream_table(
            model, windows(engine, "cohort", f"camera={camera}"), "cohort", f"camera={camera}"
        )
        assert [line.name for line in lines if line.size > 0.05] == []


def test_a_few_rows_prove_nothing(model: Model, engine: Engine) -> None:
    (one,) = windows(engine, "device", "meter-00002", most=1)
    assert one.rows == ROWS
    assert largest_change(model, one)[0] < 0.2


def test_rows_that_depend_on_each_other_prove_less(engine: Engine, model: Model) -> None:
    (one,) = windows(engine, "device", "meter-00001", most=1)
    slow = replace(model, tau=dict.fromkeys(model.tau, 50.0))
    assert largest_change(slow, one)[0] < largest_change(model, one)[0] - 0.3


def test_changes_are_said_in_the_streams_unit_and_in_reference_sd(engine: Engine, model: Model) -> None:
    lines = {
        line.name: line for line in stream_table(model, windows(engine, "cohort", "camera=B"), "fleet", "")
    }
    assert lines["image.brightness"].change.startswith(f"{MINUS}14 level ({MINUS}0.")
    assert lines["output.class"].change.startswith("digit 8: +")
    assert lines["input.codes"].change.startswith(f"{MINUS}1")
    assert "codes" in lines["input.codes"].change
    assert lines["board.temperature"].then == "51.0 ± 5.0 °C"
    assert lines["latency"].now.endswith("µs")


def test_streams_without_values_have_no_change(model: Model) -> None:
    for line in stream_table(model, [], "fleet", ""):
        assert (line.now, line.change, line.size, line.rows) == (DASH, DASH, 0.0, 0)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (0.123, "+12.3 % of rows"),
        (-0.5, f"{MINUS}50 % of rows"),
        (0.0001, "0 % of rows"),
        (0.0, "0 % of rows"),
    ],
)
def test_changes_of_shares_are_in_percent_of_rows(change: float, shown: str) -> None:
    assert points(change) == shown


def test_contributions_are_said_by_what_says_most(engine: Engine, model: Model) -> None:
    drift = incident(engine, "inc-1")
    part = Contribution("image.brightness", 0.5, -0.9, -14.4, "level", 1.0, "down")
    assert contribution_words(model, drift, part) == f"{MINUS}14 level ({MINUS}0.9 sd)"
    assert contribution_words(None, drift, replace(part, unit="")) == f"{MINUS}0.9 sd"
    assert contribution_words(model, drift, replace(part, effect=0.01, spread=2.0)) == f"spread {TIMES}2"
    assert contribution_words(model, drift, replace(part, effect=0.01)) == "+0.01 sd"
    shares = replace(part, stream="output.class", effect=0.12)
    assert contribution_words(model, drift, shares) == "+12 % of rows"
    stuck = incident(engine, "inc-2")
    assert contribution_words(model, stuck, stuck.streams[0]) == "repeats one value"


def test_a_closed_bucket_is_measured_once_and_a_growing_one_again(
    engine: Engine, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[bytes] = []

    def counting(its: Model, packed: Sequence[bytes]) -> list[tuple[float, str]]:
        measured.extend(packed)
        return largest_changes(its, packed)

    monkeypatch.setattr(effects, "largest_changes", counting)
    changes = Changes()

    def look() -> list[effects.Change]:
        with reading(engine) as connection:
            return changes.over(connection, model, "cohort", "camera=B", from_ms=0, to_ms=NOW)

    first = look()
    assert len(first) == len(measured) == 42
    assert look() == first
    assert len(measured) == 42
    rollup = tables.rollups.c
    with writing(engine) as connection:
        newest = first[-1].start_ms
        connection.execute(
            update(tables.rollups)
            .where(rollup.scope == "cohort", rollup.scope_key == "camera=B", rollup.bucket_start_ms == newest)
            .values(updated_ms=NOW + 1)
        )
    assert look() == first
    assert len(measured) == 43
    assert [change.stream for change in first[-10:]] == ["image.sharpness"] * 10
    assert max(change.size for change in first[:20]) < 0.25


def test_the_rollup_of_an_incident_is_that_of_its_devices(engine: Engine) -> None:
    drift = incident(engine, "inc-1")
    assert rollup_of(drift) == ("cohort", "camera=B")
    assert rollup_of(incident(engine, "inc-2")) == ("device", "meter-00000")
    assert rollup_of(replace(drift, attributes=[["camera", "B"], ["site", "north"]])) is None
    build = replace(drift, attributes=[["bundle", BUNDLE[:12]]], scope_key=f"bundle={BUNDLE[:12]}")
    assert rollup_of(build) == ("fleet", "")


def test_an_incidents_window_holds_its_devices_since_its_onset(engine: Engine) -> None:
    drift = incident(engine, "inc-1")
    with reading(engine) as connection:
        window = incident_window(connection, drift, now_ms=NOW)
        own = connection.execute(
            select(tables.rollups.c.rows).where(
                tables.rollups.c.scope == "cohort",
                tables.rollups.c.scope_key == "camera=B",
                tables.rollups.c.bucket_start_ms >= drift.onset_ms,
            )
        ).scalars()
        assert window is not None
        assert window.rows == sum(own)
        assert window.rows > 4 * 10 * ROWS


def test_where_only_some_of_a_cohort_are_affected_those_are_shown(engine: Engine) -> None:
    drift = replace(incident(engine, "inc-1"), affected=2, members=4)
    with reading(engine) as connection:
        whole = incident_window(connection, replace(drift, affected=4), now_ms=NOW)
        members = incident_window(connection, drift, now_ms=NOW)
    assert whole is not None
    assert members is not None
    # All four are members; each gives its newest twelve buckets.
    assert members.rows <= whole.rows
    assert members.rows == 4 * 12 * ROWS


def test_an_incident_without_any_window_since_its_onset_has_none(engine: Engine) -> None:
    later = replace(incident(engine, "inc-2"), onset_ms=NOW + 10**9, resolved_ms=NOW + 2 * 10**9)
    with reading(engine) as connection:
        assert incident_window(connection, later, now_ms=NOW) is None


def test_bundles_are_decoded_once_and_unknown_ones_left_out(engine: Engine) -> None:
    models = Models()
    with reading(engine) as connection:
        assert models.get(connection, BUNDLE) is models.get(connection, BUNDLE)
        assert models.get(connection, "nothing") is None
        assert set(models.of(connection, [BUNDLE, "", None, "nothing", BUNDLE])) == {BUNDLE}
        (label,) = models.newest(connection)
    assert label.title == "digits 1.4"


def test_a_models_threshold_is_that_of_its_devices_budget(model: Model) -> None:
    windows_a_year = 365.25 * 86_400 / model.window_s
    assert model.log_threshold == pytest.approx(np.log(windows_a_year))
    assert "latency" not in model.tracked
