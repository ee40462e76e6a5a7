"""Post-training quantisation for OpenVINO by NNCF: graph + slices ─▶ INT8 model.xml and .bin."""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov
from numpy.typing import NDArray

from export.engines.running import Engine, Heads, OpenVinoEngine, head_name, last_line
from export.errors import EngineError
from export.recipe import CpuPrecision
from preprocess.serving.runtime import openvino_core

__all__ = ("QuantisedModel", "quantise")

_Validator = Callable[[Any, Iterable[Any]], tuple[float, None]]
_WEIGHTED = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "MatMul")


@dataclass(frozen=True)
class QuantisedModel:
    """What the quantiser did.

    Attributes:
        path: model.xml; model.bin lies beside it.
        calibration_slices: Slices whose ranges were taken.
        quantised: Operations with weights that compute in INT8.
        kept_in_float: Names of those that do not.
        score_float: Score of the float32 network, None without accuracy control.
        score_int8: Score of the result.
        seconds: How long it took.
    """

    path: Path
    calibration_slices: int
    quantised: int
    kept_in_float: tuple[str, ...]
    score_float: float | None
    score_int8: float | None
    seconds: float

    @property
    def drop(self) -> float | None:
        """How much the score fell."""
        if self.score_float is None or self.score_int8 is None:
            return None
        return self.score_float - self.score_int8


def quantise(
    source: Path,
    out_xml: Path,
    calibration: NDArray[np.float32],
    score: Callable[[Engine], float] | None = None,
    max_drop: float = 0.0,
) -> QuantisedModel:
    """Quantises weights and activations to INT8.

    With a score, operations that cost more of it than allowed are given back to float32, the
    most harmful first, until the score has fallen by ``max_drop`` at most.

    Args:
        source: float32 ONNX file.
        out_xml: Where model.xml goes; the weights go beside it with the suffix .bin.
        calibration: float32 [n, channels, *canvas], slices whose ranges are taken.
        score: Larger is better, as the Dice against the float32 network's masks. It is asked
            about every candidate, so it should take seconds.
        max_drop: Largest fall of the score, absolute.

    Raises:
        EngineError: OpenVINO cannot read the graph, or NNCF cannot quantise it.
    """
    started = time.perf_counter()
    scores: list[float] = []
    try:
        model = openvino_core().read_model(source)
        with _quiet():
            model = _quantise(model, calibration, score and _validator(score, scores), max_drop)
        ov.save_model(model, out_xml, compress_to_fp16=False)
    except (RuntimeError, nncf.ValidationError, nncf.UnsupportedModelError) as error:
        raise EngineError(f"{source}: cannot be quantised: {last_line(error)}") from error
    weighted = [op for op in model.get_ordered_ops() if op.get_type_name() in _WEIGHTED]
    floats = tuple(op.get_friendly_name() for op in weighted if not _in_int8(op))
    result = score(OpenVinoEngine(out_xml, CpuPrecision.INT8)) if score else None
    return QuantisedModel(
        path=out_xml,
        calibration_slices=len(calibration),
        quantised=len(weighted) - len(floats),
        kept_in_float=floats,
        score_float=scores[0] if scores else None,
        score_int8=result,
        seconds=time.perf_counter() - started,
    )


def _quantise(
    model: ov.Model,
    calibration: NDArray[np.float32],
    validator: _Validator | None,
    max_drop: float,
) -> ov.Model:
    slices = nncf.Dataset([image[None] for image in calibration])
    preset, count = nncf.QuantizationPreset.MIXED, len(calibration)
    advanced = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)
    if validator is None:
        return nncf.quantize(
            model, slices, preset=preset, subset_size=count, advanced_parameters=advanced
        )
    return nncf.quantize_with_accuracy_control(
        model,
        slices,
        nncf.Dataset([None]),
        validator,
        max_drop=max_drop,
        preset=preset,
        subset_size=count,
        advanced_quantization_parameters=advanced,
    )


def _validator(score: Callable[[Engine], float], scores: list[float]) -> _Validator:
    def validate(compiled: Any, items: Iterable[Any]) -> tuple[float, None]:
        for _ in items:  # NNCF counts what is taken
            pass
        scores.append(score(_Candidate(compiled)))
        return scores[-1], None

    return validate


class _Candidate:
    """What NNCF compiled, as an engine: float32 where it is not quantised."""

    name = "openvino-int8-candidate"

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self._request = compiled.create_infer_request()
        self._names = [head_name(output) for output in compiled.outputs]

    def run(self, images: NDArray[np.float32]) -> Heads:
        """See ``Engine.run``."""
        answers = []
        for image in images:
            self._request.infer({0: image[None]})
            answers.append([np.array(tensor.data[0]) for tensor in self._request.output_tensors])
        heads = zip(*answers, strict=True)
        return {name: np.stack(head) for name, head in zip(self._names, heads, strict=True)}


def _in_int8(operation: Any) -> bool:
    source = operation.input(1).get_source_output().get_node()
    while source.get_type_name() != "Constant" and source.inputs():
        source = source.input(0).get_source_output().get_node()
    return source.get_element_type() in (ov.Type.i8, ov.Type.u8)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps NNCF's log and its progress bars off the terminal."""
    log = logging.getLogger("nncf")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(level)
