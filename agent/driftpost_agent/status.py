"""The status document: what `driftpost agent status` and a fleet's tests read from a running agent."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from driftpost_agent.footprint import Footprint
from driftpost_agent.meter import Reading
from driftpost_agent.serving import Serving
from driftpost_agent.store import Store
from driftpost_sync.link import LinkStatus

# Findings and activations shown; the store has the rest.
SHOWN = 10


def model_facts(serving: Serving) -> dict[str, Any]:
    """What serves now."""
    bundle, runtime = serving.bundle, serving.guard.runtime
    return {
        "bundle": bundle.id,
        "name": bundle.name,
        "version": bundle.version,
        "runtime": runtime.version,
        "provider": runtime.provider,
        "declined": str(getattr(runtime, "declined", "")),
        "streams": len(bundle.schema.streams),
        "restarts": int(getattr(runtime, "restarts", 0)),
        "alive": bool(getattr(runtime, "alive", True)),
        "pid": getattr(runtime, "pid", None),
        "fallback": serving.guard.fallback is not None,
    }


def inference_facts(reading: Reading) -> dict[str, Any]:
    """What was served since the process started."""
    return {
        "calls": reading.calls,
        "rows": reading.rows,
        **reading.statuses,
        "reasons": {name: count for name, count in reading.reasons.items() if count},
        "guard_us": round(reading.guard_us, 2),
        "model_us": round(reading.model_us, 2),
    }


def window_facts(serving: Serving | None, store: Store) -> dict[str, Any]:
    """Where this store's windows are; `recorded = acked + pending + quarantined`, in windows and in rows."""
    total = store.outbox_total()
    facts: dict[str, Any] = {
        name: getattr(total, name).windows
        for name in ("recorded", "acked", "pending", "quarantined", "merged")
    }
    facts["rows"] = {
        name: getattr(total, name).rows for name in ("recorded", "acked", "pending", "quarantined", "merged")
    }
    facts["sent"] = store.windows_sent()
    facts["lost_rows"] = total.lost_rows_at_start
    facts["open_rows"] = serving.guard.recorder.open_rows if serving else 0
    facts["given_up"] = serving.guard.checks.given_up if serving else 0
    facts["waiting_for_store"] = serving.guard.checks.waiting if serving else 0
    return facts


def finding_facts(store: Store) -> dict[str, Any]:
    """Findings of this store."""
    raised, standing = store.finding_counts()
    return {"raised": raised, "standing": standing, "latest": store.findings(limit=SHOWN)}


def link_facts(status: LinkStatus | None, address: str) -> dict[str, Any]:
    """The way to the aggregator; only `{"enabled": False}` when none is wanted."""
    if status is None:
        return {"enabled": False}
    return {"enabled": True, "broker": address, **asdict(status)}


def store_facts(store: Store, problem: str) -> dict[str, Any]:
    """The database."""
    pending = store.outbox_pending()
    return {
        "path": str(store.path),
        "bytes": store.bytes_on_disk(),
        "pending_messages": pending.messages,
        "pending_bytes": pending.bytes,
        "problem": problem,
        "set_aside": str(store.set_aside) if store.set_aside else "",
    }


def process_facts(footprint: Footprint) -> dict[str, float]:
    """What the agent takes of its board."""
    return {name: round(value, 2) for name, value in asdict(footprint).items()}
