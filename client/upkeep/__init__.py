"""Repairs what a crash left behind, and ends what was kept long enough."""
