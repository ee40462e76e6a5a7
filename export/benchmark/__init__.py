"""Engines by themselves: the figures against which the service is measured."""
