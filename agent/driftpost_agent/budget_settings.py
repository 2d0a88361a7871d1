"""The `[budget]` section: what the agent may take of its board, each with what happens beyond it."""

from __future__ import annotations

from driftpost_sync.settings import Setting

BUDGET_SETTINGS: tuple[Setting, ...] = (
    Setting(
        "budget.memory_mb",
        float,
        384.0,
        "MiB",
        "resident memory of agent and model; beyond it caches are given back, then the health is degraded",
        minimum=16,
        maximum=65_536,
    ),
    Setting(
        "budget.disk_mb",
        float,
        256.0,
        "MiB",
        "everything in the store's folder; beyond it history is removed, then waiting windows are coarsened",
        minimum=4,
        maximum=1_048_576,
    ),
    Setting(
        "budget.flash_mb_per_day",
        float,
        64.0,
        "MiB",
        "written to disk in any 24 hours; beyond it windows wait in memory and are written merged",
        minimum=0.5,
        maximum=1_048_576,
    ),
    Setting(
        "budget.uplink_mb_per_day",
        float,
        64.0,
        "MiB",
        "sent to the broker in any 24 hours; beyond it windows wait in the outbox, findings still go",
        minimum=0.05,
        maximum=1_048_576,
    ),
    Setting(
        "budget.cpu_percent",
        float,
        100.0,
        "% of one core",
        "CPU time of the agent without its model; beyond it rows are sketched in larger blocks",
        minimum=1,
        maximum=6_400,
    ),
)
