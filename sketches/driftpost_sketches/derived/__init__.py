"""Streams that are computed from others: against the hour of the day, within one class."""
