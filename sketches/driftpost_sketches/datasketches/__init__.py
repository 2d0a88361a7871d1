"""Sketches for streams of unknown range or vocabulary, byte-compatible with Apache DataSketches."""
