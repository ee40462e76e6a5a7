"""The preprocessing as one DALI pipeline, the same function on the CPU and on the GPU.

image, region, size, intensity ─▶ resize ─▶ clamp ─▶ centre on the canvas ─▶ affine ─▶ network

Where the model pads with zero, the last two change places.
"""

from __future__ import annotations

from typing import Any, Literal

from nvidia.dali import fn, math
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.types import Constant, DALIDataType, DALIInterpType

from preprocess.spec import ModelSpec, Padding

__all__ = ("build_pipeline", "network_input")


def build_pipeline(
    spec: ModelSpec,
    *,
    device: Literal["cpu", "gpu"],
    max_batch_size: int,
    num_threads: int = 1,
    device_id: int | None = None,
) -> Any:
    """Makes the (unbuilt) pipeline of a model.

    Its external sources bear the names in ``spec.tensors``; its one output is float32
    [1, canvas rows, canvas columns] per slice, equal to ``preprocess.reference`` within 1e-5 of
    the clamped range times the gain.

    Args:
        spec: The model.
        device: Where the pixels are processed.
        max_batch_size: Most slices in one run.
        num_threads: CPU threads.
        device_id: GPU to build for; None leaves it to whoever loads the serialised pipeline,
            so that one for the GPU can be made on a machine without.

    Returns:
        A ``nvidia.dali.Pipeline``.
    """
    pipeline = Pipeline(  # type: ignore[no-untyped-call]  # DALI annotates its operators only
        batch_size=max_batch_size,
        num_threads=num_threads,
        device_id=device_id,
        prefetch_queue_depth=1,
    )
    with pipeline:
        pipeline.set_outputs(network_input(spec, device))  # type: ignore[no-untyped-call]
    return pipeline


def network_input(spec: ModelSpec, device: Literal["cpu", "gpu"]) -> Any:
    """The pipeline's graph, for use inside a pipeline definition; see ``build_pipeline``."""
    names, canvas = spec.tensors, list(spec.geometry.size)
    image = fn.external_source(
        name=names.image, device=device, dtype=DALIDataType.INT16, ndim=2, layout="HW"
    )
    region = fn.external_source(name=names.region, dtype=DALIDataType.FLOAT, ndim=1)
    size = fn.external_source(name=names.size, dtype=DALIDataType.INT32, ndim=1)
    intensity = fn.external_source(name=names.intensity, dtype=DALIDataType.FLOAT, ndim=1)
    resized = fn.resize(
        fn.expand_dims(image, axes=0, new_axis_names="C"),
        roi_start=region[0:2],
        roi_end=region[2:4],
        size=fn.cast(size, dtype=DALIDataType.FLOAT),
        dtype=DALIDataType.FLOAT,
        interp_type=DALIInterpType.INTERP_LINEAR,
        antialias=True,
    )
    clamped = math.clamp(resized * intensity[0] + intensity[1], 0.0, 1.0)
    full = Constant(canvas, dtype=DALIDataType.INT32)  # type: ignore[no-untyped-call]
    margin = (full - size) // 2
    if spec.intensity.padding is Padding.ZERO:
        return _centre(clamped * intensity[2] + intensity[3], margin, canvas)
    return _centre(clamped, margin, canvas) * intensity[2] + intensity[3]


def _centre(image: Any, margin: Any, canvas: list[int]) -> Any:
    return fn.slice(image, start=-margin, shape=canvas, axes=[1, 2], out_of_bounds_policy="pad")
