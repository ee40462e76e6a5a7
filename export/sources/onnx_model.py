"""Foreign ONNX models: read whole, of standard operators only, cut to the tensors that matter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner

from export.errors import SourceError

__all__ = ("ModelSession", "as_network", "at_opset", "image_input", "read_model", "tensor_names")

_BATCH = "N"
_IR_VERSION = 10


def read_model(path: Path) -> onnx.ModelProto:
    """Reads a model with its external data; its own functions are written out as operators.

    Raises:
        SourceError: Missing, damaged, not valid, or with operators that are not ONNX's own.
    """
    try:
        model = onnx.load(path)
        if not model.graph.node:
            raise SourceError(f"{path}: expected an ONNX graph, got one without any operator")
        if model.functions:
            model = inliner.inline_local_functions(model)
        onnx.checker.check_model(model)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise SourceError(f"{path}: not a whole, valid ONNX file: {reason}") from error
    foreign = {
        (n.domain, n.op_type) for n in _nodes(model.graph) if n.domain not in {"", "ai.onnx"}
    }
    if foreign:
        names = ", ".join(f"{op} of {domain}" for domain, op in sorted(foreign))
        raise SourceError(f"{path}: expected operators of ONNX itself, got {names}")
    return model


def image_input(model: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    """Returns the one input that is not a weight: float32, [N, channels, 2 or 3 spatial axes].

    Raises:
        SourceError: Several inputs, or another type or rank.
    """
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise SourceError(f"{path}: expected one input, got {[value.name for value in inputs]}")
    tensor = inputs[0].type.tensor_type
    dims = [d.dim_param or d.dim_value for d in tensor.shape.dim]
    if tensor.elem_type != TensorProto.FLOAT or len(dims) not in {4, 5}:
        raise SourceError(
            f"{path}: expected a float32 input [N, channels, (slices,) rows, columns], got "
            f"{TensorProto.DataType.Name(tensor.elem_type)} {dims}"
        )
    return inputs[0]


def tensor_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of everything that the graph computes."""
    return tuple(name for node in model.graph.node for name in node.output if name)


def as_network(
    model: onnx.ModelProto, path: Path, outputs: Sequence[str], spatial: Sequence[int] | None
) -> onnx.ModelProto:
    """Cuts a copy of a model to some float32 tensors, with a batch axis that may vary.

    Args:
        model: See ``read_model``.
        path: Its file, for messages.
        outputs: Names of the tensors.
        spatial: Size that its spatial axes are given; None means that they vary.

    Raises:
        SourceError: They shall vary, but the file fixes them.
    """
    network = onnx.ModelProto()
    network.CopyFrom(model)
    dims = image_input(network, path).type.tensor_type.shape.dim
    if spatial is None and any(dim.dim_value for dim in dims[2:]):
        raise SourceError(
            f"{path}: expected rows and columns that vary (graph.dynamic_spatial), the file fixes "
            f"them at {[dim.dim_value for dim in dims[2:]]}"
        )
    dims[0].dim_param = _BATCH
    for dim, size in zip(dims[2:], spatial or (), strict=False):
        dim.dim_value = size
    # What the file says of shapes was said of another batch axis.
    del network.graph.value_info[:]
    del network.graph.output[:]
    network.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs
    )
    return network


def at_opset(model: onnx.ModelProto, opset: int, path: Path) -> onnx.ModelProto:
    """Converts a model to a version of ONNX's operators.

    Raises:
        SourceError: One of its operators cannot be converted.
    """
    own = next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})
    try:
        converted = onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise SourceError(
            f"{path}: expected opset {opset}, came {own}, which cannot be converted: {reason}; "
            f"export it with opset {opset}"
        ) from error
    converted.ir_version = _IR_VERSION
    return converted


class ModelSession:
    """ONNX Runtime on a model as it stands: no graph optimisation, so nothing is rewritten."""

    def __init__(self, model: onnx.ModelProto, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        content = model.SerializeToString()
        self._path = path
        # ONNX Runtime's errors share no base but Exception.
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise SourceError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        self._input = self._session.get_inputs()[0].name

    def run(self, images: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Answers every output for images [N, channels, *spatial].

        Raises:
            SourceError: The model fails on them.
        """
        try:
            answers: list[NDArray[Any]] = self._session.run(None, {self._input: images})
        except Exception as error:
            raise SourceError(
                f"{self._path}: fails on images {list(images.shape)}: {error}"
            ) from error
        return answers


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
