"""The device side: guard, recorder, store, local checks, daemon and local inference server."""
