"""Checks of k8s/: it builds, fits the schemas, refers to what exists, and keeps the policies."""
