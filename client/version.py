"""The version of the software, for results, certificates and people."""

from __future__ import annotations

from importlib import metadata

__all__ = ("SOFTWARE_VERSION",)

SOFTWARE_VERSION = metadata.version("hounsfield")
"""Version of the installed distribution."""
