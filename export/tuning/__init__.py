"""A small search for the settings that serve a model fastest: `python -m export tune`."""
