"""Holds for every test."""

import os

# Tests that import ONNX Runtime themselves must not make it report to its maker; it reads this at import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
