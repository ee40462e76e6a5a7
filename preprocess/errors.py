"""Every error of the preprocessing contract.

PreprocessError
├── SpecError       a model description is wrong: mend the file
├── PlanError       a series cannot be planned: its geometry or intensities make no sense
└── ServingError    a served network's configuration, file and CPU do not fit: build it again
"""

from __future__ import annotations

__all__ = ("PlanError", "PreprocessError", "ServingError", "SpecError")


class PreprocessError(ValueError):
    """Base of every error raised by this folder."""


class SpecError(PreprocessError):
    """A model description has an unknown or missing key, a wrong type or a wrong value."""


class PlanError(PreprocessError):
    """A series has a geometry or intensities for which no plan exists."""


class ServingError(PreprocessError):
    """A network cannot be served: its configuration, its file and this CPU do not fit together."""
