"""brain_mr, first step, gpu profile: serialised by Triton's DALI backend when it loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nvidia.dali.pipeline import pipeline_def
from nvidia.dali.plugin.triton import autoserialize

from preprocess.pipeline import network_input
from preprocess.spec import load_model_spec

__all__ = ("pipeline",)


@autoserialize  # type: ignore[untyped-decorator]
@pipeline_def(batch_size=32, num_threads=1, prefetch_queue_depth=1)
def pipeline() -> Any:
    """The pipeline, for the batch size that config.pbtxt states."""
    spec = load_model_spec(Path(__file__).parents[2] / "brain_mr" / "model.yaml")
    return network_input(spec, "gpu")
