"""The ingest protocol: its definition, and the Python code generated from it."""
