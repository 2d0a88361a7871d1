"""Delayed labels: from a person's machine to the device that gave the answers."""
