"""Inspecting: what an ONNX file takes, answers, and says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from export.errors import GraphError

__all__ = ("GraphInfo", "TensorInfo", "describe", "inspect_graph")


@dataclass(frozen=True)
class TensorInfo:
    """An input or output.

    Attributes:
        element: Element type as ONNX spells it, as ``FLOAT`` or ``UINT8``.
        dims: A number, or a name such as ``N`` where the axis may vary.
    """

    element: str
    dims: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphInfo:
    """What a graph is.

    Attributes:
        sha256: Hash of the file.
        inputs: By name, in order.
        outputs: By name, in order.
        opset: Version of ONNX's own operators.
        metadata: What the file says about where it comes from.
    """

    sha256: str
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    opset: int
    metadata: dict[str, str]


def describe(value: onnx.ValueInfoProto) -> TensorInfo:
    """Element type and dimensions of a graph's input or output."""
    tensor = value.type.tensor_type
    dims = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
    return TensorInfo(onnx.TensorProto.DataType.Name(tensor.elem_type), dims)


def inspect_graph(path: Path) -> GraphInfo:
    """Reads what an ONNX file is; inputs that are weights do not count.

    Raises:
        GraphError: Not readable, or not ONNX.
    """
    try:
        content = path.read_bytes()
        model = onnx.load_model_from_string(content)
    except OSError as error:
        raise GraphError(f"{path}: expected an ONNX file: {error.strerror}") from error
    except DecodeError as error:
        raise GraphError(f"{path}: not a whole ONNX file: {error}") from error
    if not model.graph.node:
        raise GraphError(f"{path}: expected an ONNX graph, got one without any operator")
    weights = {weight.name for weight in model.graph.initializer}
    return GraphInfo(
        sha256=sha256(content).hexdigest(),
        inputs={v.name: describe(v) for v in model.graph.input if v.name not in weights},
        outputs={v.name: describe(v) for v in model.graph.output},
        opset=next((o.version for o in model.opset_import if not o.domain), 0),
        metadata={entry.key: entry.value for entry in model.metadata_props},
    )
