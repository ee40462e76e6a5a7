"""Measures Hounsfield: how close the served way comes to the bare engine."""
