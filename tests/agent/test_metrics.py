"""The metrics are what a foreign parser takes, and say what the status document says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from agent.bundles import tabular_rows
from agent.daemons import running
from driftpost_agent.latency import BOUNDS_S, LatencyHistogram
from driftpost_agent.metrics import metrics


def scraped(text: str) -> dict[str, Any]:
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families), "each is declared once"
    for family in families:
        assert family.documentation
        assert family.type != "unknown"
    return {family.name: family for family in families}


def value(families: dict[str, Any], name: str, /, **labels: str) -> float:
    (found,) = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return float(found)


def test_a_running_agents_metrics_say_what_its_status_says(tmp_path: Path, bundles: Path) -> None:
    folder = {"path": tmp_path / "in"}
    sections = {"folder": folder, "windows": {"seconds": 600}}
    with running(tmp_path, bundles / "mlp.bundle", bundles / "team.pub", **sections) as agent:
        for count in (1, 2, 3):
            agent.infer("mlp", "x", tabular_rows(count))
        bad = tabular_rows(1)
        bad[0, 0] = float("nan")
        agent.infer("mlp", "x", bad)
        agent.wait(lambda: bool(agent.status()["budgets"]["memory"]["used"]), "the budgets were measured")
        document = agent.status()
        families = scraped(agent.get("/metrics")[1])
    assert value(families, "driftpost_inferences_total", verdict="ok") == 3
    assert value(families, "driftpost_inferences_total", verdict="flagged") == 1
    assert value(families, "driftpost_verdict_reasons_total", reason="nonfinite_input") == 1
    assert value(families, "driftpost_inference_rows_total") == 7
    assert value(families, "driftpost_request_duration_seconds_count") == 4
    assert value(families, "driftpost_request_duration_seconds_bucket", le="+Inf") == 4
    assert 0 < value(families, "driftpost_request_duration_seconds_sum") < 20
    assert value(families, "driftpost_model_info", provider="CPUExecutionProvider", name="mlp") == 1
    assert value(families, "driftpost_windows", state="recorded") == document["windows"]["recorded"]
    assert value(families, "driftpost_window_rows", state="pending") == 0
    assert value(families, "driftpost_findings_standing") == 0
    assert value(families, "driftpost_health", state="ok") == 1
    assert value(families, "driftpost_folder_files_total", outcome="done") == 0
    budgets = {sample.labels["budget"] for sample in families["driftpost_budget_used"].samples}
    assert budgets == set(document["budgets"]) == {"memory", "disk", "flash", "message", "uplink", "cpu"}
    assert value(families, "driftpost_budget_limit", budget="memory") == 384 * 2**20
    assert value(families, "driftpost_board", sensor="disk_free") > 0


def document(**changes: Any) -> dict[str, Any]:
    tally = dict.fromkeys(("recorded", "acked", "pending", "quarantined", "merged"), 0)
    base: dict[str, Any] = {
        "version": "1",
        "uptime_s": 1.0,
        "device": {"id": 'odd "name"\\\n', "fleet": "f", "attributes": {}},
        "health": {"state": "starting", "reasons": []},
        "model": {},
        "inferences": {},
        "windows": {**tally, "rows": tally, "lost_rows": 0, "open_rows": 0, "waiting_for_store": 0},
        "findings": {"standing": 0, "raised": 0},
        "link": {"enabled": False},
        "store": {"bytes": 0, "pending_bytes": 0},
        "process": {"agent_mb": 0.0, "model_mb": 0.0, "written_mb": 0.0},
        "clock": {"wall_good": False},
    }
    return {**base, **changes}


def test_an_agent_that_has_just_begun_has_metrics_and_names_are_escaped() -> None:
    families = scraped(metrics(document()))
    (info,) = families["driftpost_agent_info"].samples
    assert info.labels["device"] == 'odd "name"\\\n'
    assert value(families, "driftpost_health", state="starting") == 1
    assert "driftpost_model_info" not in families


def test_numbers_keep_their_digits() -> None:
    families = scraped(metrics(document(store={"bytes": 1_234_567_890, "pending_bytes": 1})))
    assert value(families, "driftpost_store_bytes") == 1_234_567_890


def test_a_latency_falls_into_the_first_bucket_that_holds_it() -> None:
    histogram = LatencyHistogram()
    for seconds in (0.0, BOUNDS_S[0], 0.0011, 9.99, 10.0, 60.0):
        histogram.add(seconds)
    facts = histogram.facts()
    assert facts["counts"][0] == 2
    assert facts["counts"][2] == 1
    assert facts["counts"][-2:] == [2, 1]
    families = scraped(metrics(document(latency=facts)))
    assert value(families, "driftpost_request_duration_seconds_bucket", le="10") == 5
    assert value(families, "driftpost_request_duration_seconds_count") == 6
