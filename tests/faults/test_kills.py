"""`make faults` kills 500 times; here it is a dozen."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.kills import kill_at_random_moments
from mosquitto import needs_mosquitto


@pytest.mark.slow
@needs_mosquitto
def test_killed_at_random_moments_under_load_nothing_is_lost_but_the_rows_since_a_flush(
    tmp_path: Path, bundles: Path
) -> None:
    outcome = kill_at_random_moments(tmp_path, bundles, times=8)
    assert outcome.times == 8
    assert outcome.twice == "nothing"
