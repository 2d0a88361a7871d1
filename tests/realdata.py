"""Where the real models and data live, for tests that use them; they are never part of the repository."""

from pathlib import Path

import pytest

REALDATA = Path(__file__).resolve().parents[2] / "shared" / "realdata"

needs_realdata = pytest.mark.skipif(
    not REALDATA.is_dir(), reason="the real models and data are not beside the checkout"
)
