from __future__ import annotations

import numpy as np
import pytest

from driftpost_models.probes.row_counts import row_counts


@pytest.mark.parametrize("values", [1, 7, 63, 64, 65, 432, 1452, 2039, 2040, 2048, 5003])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_counts_are_those_of_counting_along_the_axis(values: int, share: float) -> None:
    hits = np.random.default_rng(values).random((5, values)) < share
    np.testing.assert_array_equal(row_counts(hits), hits.sum(axis=1))


def test_no_rows_have_no_counts() -> None:
    assert row_counts(np.zeros((0, 100), bool)).shape == (0,)
