"""Alerts and dashboards: read, made, and checked against the metrics that exist."""
