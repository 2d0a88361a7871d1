"""The numbers of a status document in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from driftpost_agent.health import Health

# Values by labels; a label is a pair.
Samples = Mapping[tuple[tuple[str, str], ...], float]

_STATUSES = ("ok", "flagged", "abstained", "fallback")
_ACCOUNT = ("recorded", "acked", "pending", "quarantined", "merged")


class _Page:
    """Metrics, one after the other; each is declared once."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, name: str, kind: str, meaning: str, samples: Samples | float) -> None:
        if isinstance(samples, (int, float)):
            samples = {(): samples}
        self._lines.append(f"# HELP driftpost_{name} {meaning}")
        self._lines.append(f"# TYPE driftpost_{name} {kind}")
        for labels, value in samples.items():
            self._lines.append(f"driftpost_{name}{_labels(labels)} {value:.10g}")

    def histogram(self, name: str, meaning: str, facts: Mapping[str, Any]) -> None:
        self._lines.append(f"# HELP driftpost_{name} {meaning}")
        self._lines.append(f"# TYPE driftpost_{name} histogram")
        total = 0
        for bound, count in zip([*facts["bounds_s"], None], facts["counts"], strict=True):
            total += count
            text = "+Inf" if bound is None else f"{bound:g}"
            self._lines.append(f'driftpost_{name}_bucket{{le="{text}"}} {total}')
        self._lines.append(f"driftpost_{name}_sum {facts['sum_s']:.10g}")
        self._lines.append(f"driftpost_{name}_count {total}")

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def _labels(labels: tuple[tuple[str, str], ...]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _by(label: str, values: Mapping[str, float]) -> Samples:
    return {((label, name),): float(value) for name, value in values.items()}


def metrics(document: Mapping[str, Any]) -> str:
    """A scrape."""
    page = _Page()
    _agent(page, document)
    _model(page, document)
    _windows(page, document)
    _link(page, document["link"])
    _resources(page, document)
    _inputs(page, document.get("inputs", {}))
    return page.text()


def _agent(page: _Page, document: Mapping[str, Any]) -> None:
    device = document["device"]
    labels = (("version", document["version"]), ("device", device["id"]), ("fleet", device["fleet"]))
    page.add("agent_info", "gauge", "1, with who this is.", {labels: 1})
    page.add("uptime_seconds", "gauge", "Since the agent was started.", document["uptime_s"])
    state = document["health"]["state"]
    page.add(
        "health",
        "gauge",
        "1 for the state the agent is in.",
        _by("state", {health.value: health.value == state for health in Health}),
    )
    page.add("clock_good", "gauge", "Whether wall time is known to be good.", document["clock"]["wall_good"])
    findings = document["findings"]
    page.add("findings_standing", "gauge", "Findings that stand.", findings["standing"])
    page.add("findings_raised_total", "counter", "Findings this store ever raised.", findings["raised"])


def _model(page: _Page, document: Mapping[str, Any]) -> None:
    model, inferences = document["model"], document["inferences"]
    if model:
        names = ("name", "version", "bundle", "runtime", "provider")
        labels = tuple((name, str(model[name])) for name in names)
        page.add("model_info", "gauge", "1, with what is served and what computes it.", {labels: 1})
    page.add("model_alive", "gauge", "Whether the model's process runs.", bool(model.get("alive", False)))
    page.add("model_restarts_total", "counter", "Restarts of the model.", model.get("restarts", 0))
    page.add(
        "inferences_total",
        "counter",
        "Guarded calls by verdict.",
        _by("verdict", {status: inferences.get(status, 0) for status in _STATUSES}),
    )
    page.add(
        "verdict_reasons_total",
        "counter",
        "Guarded calls by reason of a bad verdict.",
        _by("reason", inferences.get("reasons", {})),
    )
    page.add("inference_rows_total", "counter", "Rows in guarded calls.", inferences.get("rows", 0))
    page.add(
        "guard_overhead_seconds",
        "gauge",
        "Mean time of a call spent in the guard and not in the model.",
        inferences.get("guard_us", 0.0) / 1e6,
    )
    page.add(
        "model_seconds",
        "gauge",
        "Mean time of a call spent in the model.",
        inferences.get("model_us", 0.0) / 1e6,
    )
    if "latency" in document:
        page.histogram(
            "request_duration_seconds", "Guarded calls from request to verdict.", document["latency"]
        )


def _windows(page: _Page, document: Mapping[str, Any]) -> None:
    windows = document["windows"]
    page.add(
        "windows",
        "gauge",
        "The ledger: windows by state; recorded is acked, pending and quarantined.",
        _by("state", {state: windows[state] for state in _ACCOUNT}),
    )
    page.add(
        "window_rows",
        "gauge",
        "The ledger in rows.",
        _by("state", {state: windows["rows"][state] for state in _ACCOUNT}),
    )
    page.add("lost_rows_total", "counter", "Rows lost when the agent was killed.", windows["lost_rows"])
    page.add("open_rows", "gauge", "Rows in the open window.", windows["open_rows"])
    page.add(
        "windows_waiting", "gauge", "Windows that wait in memory for the disk.", windows["waiting_for_store"]
    )


def _link(page: _Page, link: Mapping[str, Any]) -> None:
    page.add("link_connected", "gauge", "Whether the broker is connected.", link.get("connected", False))
    page.add("link_connects_total", "counter", "Connections the broker accepted.", link.get("connects", 0))
    page.add("sent_bytes_total", "counter", "Bytes handed to the broker.", link.get("sent_bytes", 0))
    page.add("sent_messages_total", "counter", "Bodies handed to the broker.", link.get("sent_messages", 0))
    page.add("resent_messages_total", "counter", "Bodies sent once more.", link.get("resent_messages", 0))


def _resources(page: _Page, document: Mapping[str, Any]) -> None:
    store, process = document["store"], document["process"]
    page.add("store_bytes", "gauge", "Size of the database.", store["bytes"])
    page.add("outbox_bytes", "gauge", "Bytes that wait for the aggregator.", store["pending_bytes"])
    page.add(
        "resident_bytes",
        "gauge",
        "Resident memory.",
        _by("process", {name: process[f"{name}_mb"] * 2**20 for name in ("agent", "model")}),
    )
    page.add(
        "written_bytes_total", "counter", "Bytes the agent wrote to disk.", process["written_mb"] * 2**20
    )
    budgets = document.get("budgets", {})
    for name, field, meaning in (
        ("budget_used", "used", "What the agent takes of its board, in the budget's unit."),
        ("budget_limit", "budget", "What it may take."),
    ):
        samples: Samples = {
            (("budget", key), ("unit", str(fact["unit"]))): float(fact[field])
            for key, fact in budgets.items()
        }
        page.add(name, "gauge", meaning, samples)
    board = document.get("board", {})
    page.add(
        "board",
        "gauge",
        "The board's own health, in the sensor's unit.",
        {(("sensor", name), ("unit", fact["unit"])): fact["value"] for name, fact in board.items()},
    )


def _inputs(page: _Page, inputs: Mapping[str, Any]) -> None:
    folder, topics = inputs.get("folder"), inputs.get("local_mqtt")
    if folder:
        page.add(
            "folder_files_total",
            "counter",
            "Files of the watched folder by outcome.",
            _by("outcome", {name: folder[name] for name in ("done", "failed")}),
        )
    if topics:
        page.add(
            "topic_requests_total",
            "counter",
            "Requests of the local broker by outcome.",
            _by("outcome", {name: topics[name] for name in ("answered", "refused", "ignored")}),
        )
