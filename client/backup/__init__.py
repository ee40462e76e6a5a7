"""Saves a running system, brings it back, and reads every byte again."""
