"""Runtimes, probes, baselines and the signed bundle."""
