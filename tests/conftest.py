"""Holds for every test."""

import atexit
import os
import shutil
import tempfile

# Tests that import ONNX Runtime themselves must not make it report to its maker; it reads this at import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# What agents keep in memory over a kill goes with the tests, also that of agents in processes of their own.
_MEMORY = tempfile.mkdtemp(prefix="driftpost-tests-")
os.environ["DRIFTPOST_SHARED_MEMORY"] = _MEMORY
atexit.register(shutil.rmtree, _MEMORY, ignore_errors=True)
