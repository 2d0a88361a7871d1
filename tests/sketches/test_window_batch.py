"""Many windows at once are read, refused and merged exactly as one by one."""

from __future__ import annotations

import time
import zlib

import numpy as np
import pytest

from driftpost_sketches.accumulator import WindowAccumulator
from driftpost_sketches.errors import MalformedSketch, SketchError
from driftpost_sketches.fitting import fit_categorical, fit_numeric
from driftpost_sketches.schema import Role, Schema, Stream, StreamKind
from driftpost_sketches.window import SUM2_LIMIT, Window
from driftpost_sketches.window_batch import WindowBatch, checked_window

NUMBERS = 6


@pytest.fixture(scope="module")
def schema() -> Schema:
    generator = np.random.default_rng(1)
    streams = [fit_numeric(f"x{i}", generator.normal(3 * i, 1 + i, 4000), Role.INPUT) for i in range(NUMBERS)]
    streams.append(fit_categorical("class", generator.integers(0, 10, 4000).astype(float), Role.OUTPUT))
    streams.append(Stream("codes", StreamKind.CODES, Role.INPUT, lowest_code=0, tracked=False))
    return Schema(streams)


def window(schema: Schema, generator: np.random.Generator, rows: int) -> Window:
    accumulator = WindowAccumulator(schema)
    values = generator.normal(
        3 * np.arange(NUMBERS), 1 + np.arange(NUMBERS), (rows, NUMBERS)
    ) * generator.uniform(0.2, 4)
    values[generator.random(values.shape) < 0.02] = np.nan
    values[generator.random(values.shape) < 0.01] = np.inf
    classes = generator.integers(0, 12, rows).astype(float)
    codes = generator.integers(0, 256, (rows, 9)).astype(np.uint8)
    accumulator.update(np.column_stack([values, classes]), {"codes": codes})
    return accumulator.take()[0]


def read(schema: Schema, data: bytes) -> Window | str:
    """A window, or why it is refused."""
    try:
        return checked_window(schema, data, None)
    except SketchError as error:
        return str(error)


def test_a_batch_reads_what_each_window_is(schema: Schema) -> None:
    generator = np.random.default_rng(2)
    windows = [window(schema, generator, int(rows)) for rows in generator.integers(1, 3000, 60)]
    batch = WindowBatch(schema, [one.to_bytes() for one in windows])
    assert batch.refused == {}
    assert len(batch) == 60
    assert all(batch.window(at) == one for at, one in enumerate(windows))


def test_totals_equal_merging_one_after_the_other(schema: Schema) -> None:
    generator = np.random.default_rng(3)
    windows = [window(schema, generator, int(rows)) for rows in generator.integers(1, 900, 40)]
    batch = WindowBatch(schema, [one.to_bytes() for one in windows])
    for size in (1, 2, 17, 40):
        chosen = generator.choice(40, size, replace=False)
        expected = windows[chosen[0]]
        for at in chosen[1:]:
            expected = expected.merge(windows[at])
        assert batch.total(chosen) == expected


def test_damaged_windows_are_refused_exactly_where_a_single_reader_refuses_them(schema: Schema) -> None:
    generator = np.random.default_rng(4)
    honest = [window(schema, generator, 200).to_bytes() for _ in range(8)]
    damaged = []
    for number in range(1500):
        plain = bytearray(zlib.decompress(honest[number % 8][4:]))
        for _ in range(int(generator.integers(1, 3))):
            at = int(generator.integers(len(plain) if number % 2 else 60))
            plain[at] = (plain[at] + int(generator.integers(1, 256))) % 256
        damaged.append(honest[0][:4] + zlib.compress(bytes(plain), 1))
    damaged += [b"", b"DPW", honest[0][:-3], honest[0] + b"x", b"DPX" + honest[0][3:], honest[0][:4] + b"zz"]
    batch = WindowBatch(schema, damaged)
    alone = [read(schema, data) for data in damaged]
    taken = 0
    for at, expected in enumerate(alone):
        if isinstance(expected, Window):
            taken += 1
            assert batch.window(at) == expected
        else:
            assert batch.refused[at] == expected
    assert 0 < taken < len(damaged)


def test_squares_saturate_as_they_do_one_by_one(schema: Schema) -> None:
    one = window(schema, np.random.default_rng(5), 300)
    while one.sum2.max() < SUM2_LIMIT // 4:
        one = one.merge(one)
    batch = WindowBatch(schema, [one.to_bytes()] * 6)
    expected = one
    for _ in range(5):
        expected = expected.merge(one)
    assert expected.sum2.max() == SUM2_LIMIT
    assert batch.total(range(6)) == expected


def test_more_than_a_window_can_count_is_refused(schema: Schema) -> None:
    one = window(schema, np.random.default_rng(6), 300)
    for _ in range(60):
        try:
            one = one.merge(one)
        except MalformedSketch:
            break
    batch = WindowBatch(schema, [one.to_bytes()] * 3)
    assert batch.refused == {}
    with pytest.raises(MalformedSketch, match="merge fewer windows"):
        batch.total(range(3))


def test_a_batch_costs_a_fraction_of_reading_one_by_one(schema: Schema) -> None:
    generator = np.random.default_rng(7)
    packed = [window(schema, generator, 300).to_bytes() for _ in range(200)]

    def batch() -> float:
        begin = time.thread_time()
        WindowBatch(schema, packed)
        return time.thread_time() - begin

    def alone() -> float:
        begin = time.thread_time()
        for data in packed:
            checked_window(schema, data, None)
        return time.thread_time() - begin

    assert min(batch() for _ in range(3)) < min(alone() for _ in range(2)) / 3
