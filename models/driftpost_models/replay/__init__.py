"""Replaying recorded data through the device's detectors: how a policy is chosen before it is trusted."""
