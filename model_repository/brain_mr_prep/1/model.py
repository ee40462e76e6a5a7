"""brain_mr, first step, cpu profile."""

from __future__ import annotations

from preprocess.serving.preparing import PreparingModel as TritonPythonModel

__all__ = ("TritonPythonModel",)
