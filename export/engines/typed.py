"""Give the graph the type that TensorRT shall compute in: float32 ─▶ float16 │ bfloat16.

TensorRT builds strongly typed networks: every operation runs in the type that the ONNX file says.
The network up to the class scores changes its type; the heads behind them stay in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import DTypeLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from export.engines.running import SCORES
from export.errors import EngineError
from export.recipe import GpuPrecision

__all__ = ("load_onnx", "to_half")

_HALF: dict[GpuPrecision, tuple[int, DTypeLike]] = {
    GpuPrecision.FP16: (TensorProto.FLOAT16, np.float16),
    GpuPrecision.BF16: (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
}
# Inputs that ONNX wants in float32 whatever the type of the picture: region and scales.
_ALWAYS_FLOAT = {"Resize": (1, 2), "Upsample": (1,)}
# TensorRT's compiler has no bfloat16 kernel for these.
_WITHOUT_BFLOAT16 = ("ConvTranspose",)


def to_half(source: Path, out: Path, precision: GpuPrecision) -> None:
    """Writes the network in float16 or bfloat16; image and heads stay as they are.

    Args:
        source: float32 ONNX file with a tensor ``logits``.
        out: Where the result goes.
        precision: FP16 or BF16.

    Raises:
        EngineError: No tensor ``logits``, a weight that float16 cannot hold, or an operation
            that ONNX does not define on the type.
    """
    model = load_onnx(source)
    try:
        _Halving(model, *_HALF[precision]).apply()
        onnx.save(model, out)
    except _Unsuitable as error:
        raise EngineError(f"{source}: cannot be turned into {precision}: {error}") from error


class _Unsuitable(Exception):
    """Why a graph cannot change its type."""


class _Halving:
    """Changes the type of everything that leads to the class scores, and casts at the border."""

    def __init__(self, model: onnx.ModelProto, element: int, dtype: DTypeLike) -> None:
        self._graph = model.graph
        self._element, self._dtype = element, dtype
        self._weights = {weight.name: weight for weight in self._graph.initializer}
        self._floats = _float_tensors(model)
        without = _WITHOUT_BFLOAT16 if element == TensorProto.BFLOAT16 else ()
        self._body = {
            index
            for index in _leading_to(SCORES, self._graph)
            if self._graph.node[index].op_type not in without
        }
        self._half = {
            name
            for index in self._body
            for name in self._graph.node[index].output
            if name in self._floats
        }
        self._nodes: list[onnx.NodeProto] = []
        self._made: dict[str, str] = {}

    def apply(self) -> None:
        """Changes the graph in place."""
        kept = {SCORES} | {output.name for output in self._graph.output}
        for index, node in enumerate(self._graph.node):
            inside = index in self._body
            always = _ALWAYS_FLOAT.get(node.op_type, ())
            for place, name in enumerate(node.input):
                node.input[place] = self._as(name, half=inside and place not in always)
            if inside:
                self._retype(node)
            self._nodes.append(node)
            for place, name in enumerate(node.output):
                if name in self._half & kept:
                    node.output[place] = f"{name}_half"
                    self._cast(f"{name}_half", name, TensorProto.FLOAT)
                    self._made[name] = f"{name}_half"
                    self._half.discard(name)
        del self._graph.node[:], self._graph.value_info[:], self._graph.initializer[:]
        self._graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        self._graph.initializer.extend(w for name, w in self._weights.items() if name in used)

    def _as(self, name: str, *, half: bool) -> str:
        """Name of the tensor in the wanted type; where there is none yet it is made."""
        if name not in self._floats or (name in self._half) == half:
            return name
        if name not in self._made:
            self._made[name] = f"{name}_{'half' if half else 'float'}"
            if name in self._weights:
                self._weights[self._made[name]] = self._shortened(name)
            else:
                self._cast(name, self._made[name], self._element if half else TensorProto.FLOAT)
        return self._made[name]

    def _cast(self, source: str, target: str, element: int) -> None:
        self._nodes.append(helper.make_node("Cast", [source], [target], to=element, name=target))

    def _shortened(self, name: str) -> TensorProto:
        value = numpy_helper.to_array(self._weights[name])
        short = _cast_array(value, self._dtype)
        if not np.array_equal(np.isfinite(short.astype(np.float32)), np.isfinite(value)):
            largest = np.abs(value[np.isfinite(value)]).max()
            raise _Unsuitable(f"{name} reaches {largest:.4g}, beyond the type; take bf16 or fp32")
        return numpy_helper.from_array(short, self._made[name])

    def _retype(self, node: onnx.NodeProto) -> None:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise _Unsuitable(f"node {node.name} ({node.op_type}) holds a graph of its own")
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                attribute.i = self._element if attribute.i == TensorProto.FLOAT else attribute.i
            elif attribute.t.data_type == TensorProto.FLOAT:
                value = _cast_array(numpy_helper.to_array(attribute.t), self._dtype)
                attribute.t.CopyFrom(numpy_helper.from_array(value))


def _cast_array(value: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        return value.astype(dtype)


def load_onnx(path: Path) -> onnx.ModelProto:
    """Reads an ONNX file.

    Raises:
        EngineError: It is missing or no ONNX file.
    """
    try:
        return onnx.load(path)
    except (OSError, DecodeError) as error:
        raise EngineError(f"{path}: expected an ONNX file: {error}") from error


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    typed = (*graph.input, *graph.value_info, *graph.output)
    floats = {t.name for t in typed if t.type.tensor_type.elem_type == TensorProto.FLOAT}
    return floats | {w.name for w in graph.initializer if w.data_type == TensorProto.FLOAT}


def _leading_to(tensor: str, graph: onnx.GraphProto) -> set[int]:
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output}
    if tensor not in maker:
        raise _Unsuitable(f"expected a tensor named {tensor!r}, there is none")
    found: set[int] = set()
    open_ = [maker[tensor]]
    while open_:
        index = open_.pop()
        if index not in found:
            found.add(index)
            open_.extend(maker[name] for name in graph.node[index].input if name in maker)
    return found
