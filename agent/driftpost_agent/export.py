"""What the store holds, for other programs: JSON lines, CSV, or arrays, a piece at a time."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from driftpost_agent.local_history import LocalHistory, StoredWindow, Value
from driftpost_sketches.schema import Schema

Progress = Callable[[int], None]

# What a window says of each stream.
STREAM_FIELDS = ("rows", "mean", "std", "low", "high", "missing", "nonfinite")
# And of itself.
WINDOW_FIELDS = (
    "incarnation",
    "seq",
    "state",
    "bundle",
    "mono_start",
    "mono_end",
    "wall_start",
    "wall_end",
    "rows",
    "windows",
)


def incarnation_text(incarnation: int) -> str:
    """An incarnation as people read it, and as the views of the store have it."""
    return f"{incarnation >> 32}.{incarnation & 0xFFFFFFFF:08x}"


def window_facts(stored: StoredWindow) -> dict[str, Value]:
    """What a window says of itself."""
    body = stored.body
    return {
        "incarnation": incarnation_text(stored.incarnation),
        "seq": stored.seq,
        "state": stored.state,
        "bundle": body.bundle,
        "mono_start": body.mono_start,
        "mono_end": body.mono_end,
        "wall_start": body.wall_start,
        "wall_end": body.wall_end,
        "rows": stored.window.rows,
        "windows": stored.window.parts,
    }


def stream_facts(stored: StoredWindow, schema: Schema, *, counts: bool) -> dict[str, dict[str, Any]]:
    """What a window says of each stream; null for what is not known.

    Args:
        stored: the window.
        schema: that made it.
        counts: with the counts of every bin.
    """
    found: dict[str, dict[str, Any]] = {}
    for index, stream in enumerate(schema.streams):
        summary = stored.window.summary(schema, index)
        facts: dict[str, Any] = {
            "rows": summary.n,
            "mean": _known(summary.mean),
            "std": _known(summary.std),
            "low": _known(summary.low),
            "high": _known(summary.high),
            "missing": summary.missing,
            "nonfinite": summary.nonfinite,
        }
        if counts:
            facts["counts"] = [int(count) for count in summary.counts]
        found[stream.name] = facts
    return found


def json_lines(rows: Iterable[Mapping[str, Any]], out: IO[str], progress: Progress) -> None:
    """One JSON object a line."""
    for row in rows:
        out.write(json.dumps(row, separators=(",", ":"), ensure_ascii=False, allow_nan=False) + "\n")
        progress(1)


def csv_rows(rows: Iterable[Mapping[str, Any]], out: IO[str], progress: Progress) -> None:
    """A table with a header; nothing is written where there are no rows."""
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(out, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow({name: _cell(value) for name, value in row.items()})
        progress(1)


def windows_as_objects(
    history: LocalHistory, schemas: Mapping[str, Schema], *, counts: bool
) -> Iterator[dict[str, Any]]:
    """A window an object, its streams by name; without them where its bundle is not installed here."""
    for stored in history.windows():
        schema = schemas.get(stored.body.bundle)
        streams = None if schema is None else stream_facts(stored, schema, counts=counts)
        yield {**window_facts(stored), "streams": streams}


def windows_as_rows(history: LocalHistory, schemas: Mapping[str, Schema]) -> Iterator[dict[str, Any]]:
    """A stream of a window a row; windows whose bundle is not installed here have none."""
    for stored in history.windows():
        schema = schemas.get(stored.body.bundle)
        if schema is None:
            continue
        head = {f"window_{name}": value for name, value in window_facts(stored).items()}
        for name, facts in stream_facts(stored, schema, counts=False).items():
            yield {**head, "stream": name, **facts}


def windows_as_arrays(
    history: LocalHistory, bundle: str, schema: Schema, out: IO[bytes], progress: Progress
) -> int:
    """An .npz of the windows of one bundle; how many there were.

    `streams` has S names. `rows`, `mean`, `std`, `low`, `high`, `missing`, `nonfinite` are float64[W, S],
    `counts` int64[W, C] with the bins of stream i at `layout[i]:layout[i + 1]`; `mono_start`, `mono_end`,
    `wall_start`, `wall_end` int64[W] in ms, -1 where the clock was not known; `seq`, `incarnation` int64[W].

    Arrays are built in files, so that a year of windows does not have to fit in memory.
    """
    total = history.count_windows(bundle)
    width = len(schema)
    bins = sum(stream.n_bins for stream in schema.streams)
    with tempfile.TemporaryDirectory(prefix="driftpost-export-") as folder:
        arrays: dict[str, Any] = {
            **{name: _array(folder, name, np.float64, (total, width)) for name in STREAM_FIELDS},
            "counts": _array(folder, "counts", np.int64, (total, bins)),
            **{
                name: _array(folder, name, np.int64, (total,))
                for name in ("mono_start", "mono_end", "wall_start", "wall_end", "seq", "incarnation")
            },
        }
        written = 0
        for stored in history.windows(bundle):
            if written >= total:
                break  # recorded since they were counted
            body = stored.body
            for name, time in (
                ("mono_start", body.mono_start),
                ("mono_end", body.mono_end),
                ("wall_start", -1 if body.wall_start is None else body.wall_start),
                ("wall_end", -1 if body.wall_end is None else body.wall_end),
                ("seq", stored.seq),
                ("incarnation", stored.incarnation),
            ):
                arrays[name][written] = time
            arrays["counts"][written] = stored.window.counts
            for index in range(width):
                summary = stored.window.summary(schema, index)
                row = (summary.n, summary.mean, summary.std, summary.low, summary.high)
                for name, value in zip(
                    STREAM_FIELDS, (*row, summary.missing, summary.nonfinite), strict=True
                ):
                    arrays[name][written, index] = value
            written += 1
            progress(1)
        for name, array in arrays.items():
            array.flush()
            if written < total:
                # The agent beside us has removed some since they were counted.
                np.save(Path(folder) / f"{name}.cut.npy", array[:written], allow_pickle=False)
                (Path(folder) / f"{name}.cut.npy").replace(Path(folder) / f"{name}.npy")
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
            for name in arrays:
                archive.write(Path(folder) / f"{name}.npy", f"{name}.npy")
            for name, array in (
                ("streams", np.array([stream.name for stream in schema.streams])),
                ("layout", np.cumsum([0, *(stream.n_bins for stream in schema.streams)])),
                ("bundle", np.array(bundle)),
            ):
                packed = io.BytesIO()
                np.save(packed, array, allow_pickle=False)
                archive.writestr(f"{name}.npy", packed.getvalue())
    return written


def _array(folder: str, name: str, dtype: Any, shape: tuple[int, ...]) -> Any:
    # A mapping of no bytes is refused; such an array is written whole.
    if 0 in shape:
        np.save(Path(folder) / f"{name}.npy", np.zeros(shape, dtype))
        return _Nothing()
    return np.lib.format.open_memmap(Path(folder) / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)


class _Nothing:
    """Stands for an array without places."""

    def flush(self) -> None:
        """There is nothing to write."""


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cell(value: object) -> object:
    # A spreadsheet takes a leading = + - @ for a formula; names and texts come from bundles of others.
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        return "'" + value
    return value
