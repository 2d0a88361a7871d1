"""The `[board]` section: how the board's own health is watched."""

from __future__ import annotations

from pathlib import Path

from driftpost_sync.settings import Setting

BOARD_SETTINGS: tuple[Setting, ...] = (
    Setting(
        "board.seconds",
        float,
        15.0,
        "s",
        "how often temperature, throttling, supply voltage, load and free space are read",
        minimum=1,
        maximum=3600,
    ),
    Setting(
        "board.report_seconds",
        float,
        3600.0,
        "s",
        "how often their extremes and means are sent to the aggregator, in some 150 bytes",
        minimum=1,
        maximum=86_400,
    ),
    Setting(
        "board.root",
        Path,
        "/",
        meaning="where /sys and /proc are found; another place in a container that mounts the host's",
    ),
)
