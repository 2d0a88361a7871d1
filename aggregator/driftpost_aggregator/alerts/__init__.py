"""Telling people what happens to incidents."""
