"""INT8 for TensorRT: graph + slices ─▶ ONNX with QuantizeLinear/DequantizeLinear pairs.

TensorRT computes an operation in INT8 where its inputs come from DequantizeLinear. With a score,
the operations that cost the most of it are given back to float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from export.engines.running import ORT_ERRORS, Engine, OnnxRuntimeEngine
from export.engines.typed import load_onnx
from export.errors import EngineError

__all__ = ("QuantisedOnnx", "to_qdq")

_OPERATIONS = ["Conv", "ConvTranspose", "Add", "Concat"]
_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,
    "QuantizeBias": False,
    # The mean of the slices' ranges; the widest one is an outlier's.
    "CalibMovingAverage": True,
    # Pairs stand before operations only: TensorRT fuses what follows a convolution into it, and
    # class scores in 8 bits would tie.
    "OpTypesToExcludeOutputQuantization": _OPERATIONS,
}


@dataclass(frozen=True)
class QuantisedOnnx:
    """What the quantiser did.

    Attributes:
        path: The file.
        calibration_slices: Slices whose ranges were taken.
        quantised: Operations in INT8.
        kept_in_float: Names of the nodes that were given back to float32.
        score_float: Score of the float32 network; None where no score was asked for.
        score_int8: Score of the result.
    """

    path: Path
    calibration_slices: int
    quantised: int
    kept_in_float: tuple[str, ...] = ()
    score_float: float | None = None
    score_int8: float | None = None


def to_qdq(
    source: Path,
    out: Path,
    calibration: NDArray[np.float32],
    score: Callable[[Engine], float] | None = None,
    max_drop: float = 0.0,
) -> QuantisedOnnx:
    """Quantises convolutions: weights with a scale per channel, activations with one, symmetric.

    Args:
        source: float32 ONNX file.
        out: Where the result goes.
        calibration: float32 [n, channels, *canvas], slices whose ranges are taken.
        score: Larger is better; asked about 40 times for a U-Net, so it should take a second.
        max_drop: Largest fall of the score, absolute.

    Raises:
        EngineError: ONNX Runtime cannot quantise the graph.
    """
    _quantise(source, out, calibration)
    quantised = onnx.load(out)
    nodes = _quantised_nodes(quantised.graph)
    if score is None:
        return QuantisedOnnx(out, len(calibration), len(nodes))
    trial = _Trial(quantised, out, score)
    best = score(OnnxRuntimeEngine(source))
    order = sorted(nodes, key=lambda name: trial.score([name]), reverse=True)
    kept, reached = _fewest(order, trial, best - max_drop)
    return QuantisedOnnx(out, len(calibration), len(nodes) - len(kept), kept, best, reached)


def _quantise(source: Path, out: Path, calibration: NDArray[np.float32]) -> None:
    model = onnx.shape_inference.infer_shapes(load_onnx(source))
    # What ONNX Runtime's own preparation leaves; without it, it recommends that preparation.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    try:
        quantize_static(
            model,
            str(out),
            _Slices(model.graph.input[0].name, calibration),
            op_types_to_quantize=_OPERATIONS,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            extra_options=_OPTIONS,
        )
    except (ValueError, *ORT_ERRORS) as error:
        raise EngineError(f"{source}: cannot be quantised: {error}") from error


class _Slices(CalibrationDataReader):  # type: ignore[misc]
    """Hands slices to the quantiser one by one."""

    def __init__(self, name: str, slices: Iterable[NDArray[np.float32]]) -> None:
        self._feeds: Iterator[dict[str, NDArray[np.float32]]] = (
            {name: image[None]} for image in slices
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next slice; None after the last."""
        return next(self._feeds, None)


class _Trial:
    """Scores the quantised graph with some of its nodes given back to float32."""

    def __init__(
        self, quantised: onnx.ModelProto, out: Path, score: Callable[[Engine], float]
    ) -> None:
        self._quantised, self._out, self._score = quantised, out, score

    def score(self, kept: Iterable[str]) -> float:
        """Writes the graph and scores it."""
        model = onnx.ModelProto()
        model.CopyFrom(self._quantised)
        _give_back(model.graph, set(kept))
        onnx.save(model, self._out)
        return self._score(OnnxRuntimeEngine(self._out))


def _fewest(order: list[str], trial: _Trial, wanted: float) -> tuple[tuple[str, ...], float]:
    """The shortest beginning of the order that reaches the score, by bisection."""
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if trial.score(order[:middle]) >= wanted:
            high = middle
        else:
            low = middle + 1
    return tuple(order[:high]), trial.score(order[:high])


def _quantised_nodes(graph: onnx.GraphProto) -> list[str]:
    restored = {name for node in graph.node if _is_dequantiser(node) for name in node.output}
    return [node.name for node in graph.node if restored.intersection(node.input)]


def _give_back(graph: onnx.GraphProto, names: set[str]) -> None:
    """Connects nodes to what was quantised instead of to its restored copy."""
    maker = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.name in names:
            for place, name in enumerate(node.input):
                if name in maker and _is_dequantiser(maker[name]):
                    node.input[place] = maker[maker[name].input[0]].input[0]
    used = {name for node in graph.node for name in node.input}
    used.update(output.name for output in graph.output)
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        idle = [n for n in graph.node if n.op_type == kind and n.output[0] not in used]
        for node in idle:
            graph.node.remove(node)
        used = {name for node in graph.node for name in node.input}
        used.update(output.name for output in graph.output)


def _is_dequantiser(node: onnx.NodeProto) -> bool:
    return bool(node.op_type == "DequantizeLinear")
