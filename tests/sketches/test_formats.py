import re
import zlib
from pathlib import Path

import numpy as np
import pytest

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.schema import Role, Schema, Stream, StreamKind
from driftpost_sketches.window import Window
from simulated_streams import independent, numeric_schema, windows

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")


@pytest.fixture
def example():
    schema = Schema(
        [
            Stream(
                "brightness", StreamKind.NUMERIC, Role.INPUT, "lx", (100.0, 200.0), center=150.0, scale=50.0
            ),
            Stream("class", StreamKind.CATEGORICAL, Role.OUTPUT, categories=(0, 1)),
        ]
    )
    accumulator = WindowAccumulator(schema)
    accumulator.update(np.array([[90.0, 0], [150, 1], [210, 1], [np.nan, 7]]))
    return schema, accumulator.take()[0]


def blocks():
    return re.findall(r"```\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_example_on_the_page_is_that_window(example):
    schema, window = example
    data = bytes.fromhex(blocks()[0].strip())
    read = Window.from_bytes(data)
    read.check(schema)
    assert read == window
    assert zlib.decompress(window.to_bytes()[4:]) == zlib.decompress(data[4:])


def test_the_annotated_body_is_the_inflated_example():
    noted = "".join(line.split("  ")[0] for line in blocks()[1].splitlines())
    assert bytes.fromhex(noted) == zlib.decompress(bytes.fromhex(blocks()[0].strip())[4:])


def test_the_limits_on_the_page_are_those_of_the_code():
    from driftpost_sketches import window_bytes
    from driftpost_sketches.drift import calibration, state_bytes

    for kind, most, inflated in (
        ("window", window_bytes.MAX_BYTES, window_bytes.MAX_PLAIN),
        ("calibration", calibration.MAX_BYTES, 2 * calibration.MAX_BYTES),
        ("detector's state", state_bytes.MAX_BYTES, state_bytes.MAX_BYTES),
    ):
        assert f"| {kind} | {most >> 20} MiB | {inflated >> 20} MiB |" in PAGE


@pytest.mark.parametrize("rows", [20, 300, 5_000, 100_000])
def test_a_window_of_41_streams_stays_within_two_kilobytes(rows):
    rng = np.random.default_rng(0)
    schema = numeric_schema(independent(rng, 5_000, 41))
    ((window, _),) = windows(schema, independent(rng, rows, 41), rows)
    assert len(window.to_bytes()) <= 2048
