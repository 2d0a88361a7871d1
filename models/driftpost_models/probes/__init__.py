"""Probes turn the tensors of inferences into named streams; one file for each kind."""
