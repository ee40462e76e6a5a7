"""Triton: running the embedded server, keeping it healthy, and asking it for masks."""
