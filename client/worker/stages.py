"""The CPU-bound steps of one study, each a pure function that may run in a process of its own.

tar in memory ──read──▶ series │ refusals        series + mask ──write──▶ DICOM SEG + measurements
"""

from __future__ import annotations

__all__ = ()
