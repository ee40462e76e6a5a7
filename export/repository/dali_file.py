"""1/model.dali: the gpu profile's pipeline, serialised on any machine."""

from __future__ import annotations

from export.errors import MissingPart
from preprocess.spec import ModelSpec

__all__ = ("serialise_pipeline",)


def serialise_pipeline(spec: ModelSpec, max_batch_size: int) -> bytes:
    """Serialises the preprocessing for Triton's DALI backend, which says the GPU when it loads.

    The same description gives the same bytes, wherever the code lies.

    Args:
        spec: The model.
        max_batch_size: Most slices in one run, as ``config.pbtxt`` states it.

    Raises:
        MissingPart: DALI is not installed.
    """
    try:
        from nvidia.dali._utils import dali_trace

        from preprocess.pipeline import build_pipeline
    except ImportError as error:
        raise MissingPart(
            f"The gpu profile's pipeline needs NVIDIA DALI ({error}); install it with "
            "`pip install 'hounsfield[server]'`."
        ) from error
    # DALI would write the path and the line of our source beside every operator.
    traced = dali_trace.is_tracing_enabled()  # type: ignore[no-untyped-call]
    dali_trace.set_tracing(enabled=False)
    try:
        pipeline = build_pipeline(spec, device="gpu", max_batch_size=max_batch_size)
        return bytes(pipeline.serialize())
    finally:
        dali_trace.set_tracing(enabled=traced)
