"""brain_mr, second step, cpu profile."""

from __future__ import annotations

from preprocess.serving.segmenting import SegmentingModel as TritonPythonModel

__all__ = ("TritonPythonModel",)
