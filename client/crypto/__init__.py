"""Envelope encryption of studies and results, and the keys and certificates it needs."""
