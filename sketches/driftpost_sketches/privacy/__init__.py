"""Differential privacy for windows that leave a device."""
