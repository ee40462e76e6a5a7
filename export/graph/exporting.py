"""Exporting: a source's network ▶ one slim, checked ONNX file that answers every head."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxslim
import torch

from export.errors import GraphError
from export.graph.heads import ExportedNetwork
from export.graph.inspecting import GraphInfo, TensorInfo, describe, inspect_graph
from export.graph.joining import join
from export.graph.planning import IMAGE, LOGITS, MASK, GraphPlan, plan_graph, score_channels
from export.graph.tracing import OPSET, trace
from export.recipe import GraphOptions
from export.sources.network import SourceNetwork
from preprocess.spec import Head, ModelSpec

__all__ = ("GraphInfo", "TensorInfo", "export_graph", "inspect_graph")

_CANVAS_NAMES = ("slices", "rows", "columns")


def export_graph(
    network: SourceNetwork,
    spec: ModelSpec | None,
    options: GraphOptions,
    path: Path,
    metadata: Mapping[str, str],
) -> GraphInfo:
    """Writes the graph.

    The input is ``image``, float32 [N, channels, *canvas]. The outputs are ``mask``, uint8
    [N, *canvas], and the heads of the description: ``uncertainty`` uint8 [N, *canvas], ``logits``
    float32 [N, score channels, *canvas], ``embedding`` float32 [N, D]. The tensor of class scores
    on the canvas is named ``logits`` where it is no output, too. Equal arguments give equal bytes.

    Args:
        network: As its source gives it.
        spec: See ``plan_graph``.
        options: ``export.graph`` of MODEL.yaml.
        path: File that is written.
        metadata: What the file shall say about where it comes from, beyond what is known here:
            versions of torch and the opset, the hash of the description, the source's facts.

    Raises:
        RecipeError: Orientation or embedding do not fit.
        GraphError: The network cannot be traced, the result is not valid, or cannot be written.
    """
    plan = plan_graph(network, spec, options)
    names = (*(name for name in plan.outputs if name != LOGITS), LOGITS)
    model = _traced(network, plan, names)
    model = onnxslim.slim(model)
    _tidy(model, plan, {**_known(network, spec, options), **metadata})
    model = _checked(model, path)
    _require_contract(model, network, plan)
    try:
        path.write_bytes(model.SerializeToString(deterministic=True))
    except OSError as error:
        path.unlink(missing_ok=True)
        raise GraphError(f"{path}: cannot be written: {error.strerror}") from error
    return inspect_graph(path)


def _traced(network: SourceNetwork, plan: GraphPlan, names: tuple[str, ...]) -> onnx.ModelProto:
    if network.onnx is not None:
        return join(network, network.onnx, plan, names)
    module = ExportedNetwork(network.module, plan, network.decision).eval()
    axes = range(2, 2 + len(plan.canvas)) if plan.dynamic_spatial else ()
    return trace(module, {IMAGE: (network.channels, *plan.canvas)}, names, tuple(axes))


def _known(network: SourceNetwork, spec: ModelSpec | None, options: GraphOptions) -> dict[str, str]:
    known = {"torch_version": torch.__version__, "opset": str(OPSET), **network.facts}
    if spec is not None:
        known |= {"model": spec.name, "spec_sha256": spec.sha256}
    if options.training_data:
        known["training_data"] = options.training_data
    return known


def _tidy(model: onnx.ModelProto, plan: GraphPlan, metadata: Mapping[str, str]) -> None:
    """Names outputs and axes as promised, and removes what the exporter noted about its machine."""
    graph = model.graph
    del graph.value_info[:]
    outputs = {output.name: output for output in graph.output}
    ordered = [outputs[name] for name in plan.outputs if name in outputs]
    hidden = [] if LOGITS in plan.outputs else [outputs[LOGITS]]
    kept, spare = [_copy(value) for value in ordered], [_copy(value) for value in hidden]
    del graph.output[:]
    graph.output.extend(kept)
    graph.value_info.extend(spare)
    for value in (*graph.input, *graph.output, *graph.value_info):
        _name_axes(value, plan)
    graph.name = "network"
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    for weight in graph.initializer:
        weight.ClearField("doc_string")
        weight.ClearField("metadata_props")
    for key in sorted(metadata):
        model.metadata_props.add(key=key, value=metadata[key])


def _name_axes(value: onnx.ValueInfoProto, plan: GraphPlan) -> None:
    dims = value.type.tensor_type.shape.dim
    names = _CANVAS_NAMES[-len(plan.canvas) :]
    if plan.dynamic_spatial and len(dims) > len(names):
        for dim, name in zip(dims[-len(names) :], names, strict=True):
            dim.dim_param = name


def _copy(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    return copy


def _checked(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    try:
        onnx.checker.check_model(model, full_check=True)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"{path}: the exported graph is not valid ONNX: {error}") from error


def _require_contract(model: onnx.ModelProto, network: SourceNetwork, plan: GraphPlan) -> None:
    names = _CANVAS_NAMES[-len(plan.canvas) :]
    canvas: tuple[int | str, ...] = names if plan.dynamic_spatial else plan.canvas
    expected = {
        IMAGE: TensorInfo("FLOAT", ("N", network.channels, *canvas)),
        MASK: TensorInfo("UINT8", ("N", *canvas)),
        str(Head.UNCERTAINTY): TensorInfo("UINT8", ("N", *canvas)),
        LOGITS: TensorInfo("FLOAT", ("N", score_channels(network), *canvas)),
    }
    came = {value.name: describe(value) for value in (*model.graph.input, *model.graph.output)}
    if list(came) != [IMAGE, *plan.outputs]:
        raise GraphError(f"expected tensors {[IMAGE, *plan.outputs]}, the graph has {list(came)}")
    for name, info in came.items():
        right = info == expected[name] if name in expected else _is_embedding(info)
        if not right:
            raise GraphError(f"{name}: expected {expected.get(name, 'FLOAT [N, D]')}, came {info}")


def _is_embedding(info: TensorInfo) -> bool:
    return info.element == "FLOAT" and len(info.dims) == 2 and isinstance(info.dims[1], int)
