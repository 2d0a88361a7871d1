"""Mergeable sketches and the drift statistics built on them; numpy alone, no I/O and no clock."""
