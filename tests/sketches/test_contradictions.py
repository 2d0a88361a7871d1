"""Windows that contradict themselves are told from honest ones of any shape."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftpost_sketches.contradictions import contradictions
from driftpost_sketches.window import Window
from simulated_streams import independent, mixed_schema, numeric_schema, windows

SCHEMA, VALUES, CODES = mixed_schema(np.random.default_rng(0))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.floats(-1e6, 1e6), st.floats(0, 1e4))
def test_honest_windows_never_contradict_themselves(seed, rows, shift, spread):
    rng = np.random.default_rng(seed)
    reference = rng.normal(size=(500, 2))
    schema = numeric_schema(reference)
    live = rng.normal(size=(rows, 2)) * spread + shift
    live[rng.random(live.shape) < 0.1] = np.nan
    one, _ = next(windows(schema, live, rows))
    two, _ = next(windows(schema, reference, 500))
    for window in (one, one.merge(two)):
        assert contradictions(schema, Window.from_bytes(window.to_bytes())) == []


def test_streams_of_every_kind_agree_with_themselves():
    window, _ = next(windows(SCHEMA, VALUES, 700, CODES))
    assert contradictions(SCHEMA, window) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: {"low": w.low + np.float32(100)}, "lowest"),
        (lambda w: {"high": w.high * np.float32(0)}, "highest"),
        (lambda w: {"sum1": w.sum1 + 400 * 4096}, "mean"),
        (lambda w: {"counts": w.counts[::-1].copy(), "sum1": w.sum1 + 300 * 4096}, "mean"),
    ],
)
def test_an_invented_number_is_named_with_its_stream(change, words):
    values = independent(np.random.default_rng(1), 400)
    schema = numeric_schema(independent(np.random.default_rng(0), 5_000))
    window, _ = next(windows(schema, values, 400))
    (told,) = contradictions(schema, replace(window, **change(window)))
    assert told.startswith("x0: ")
    assert words in told
