"""Run the graph on the CPU as it is served: images ─▶ ONNX Runtime │ OpenVINO ─▶ heads by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime as ort
import openvino as ov
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from export.errors import EngineError
from export.recipe import CpuPrecision
from preprocess.serving.network import CAPABILITIES, HINTS
from preprocess.serving.runtime import openvino_core

__all__ = (
    "ORT_ERRORS",
    "SCORES",
    "Engine",
    "Heads",
    "OnnxRuntimeEngine",
    "OpenVinoEngine",
    "cpu_precisions",
    "head_name",
    "last_line",
)

SCORES = "logits"
Heads = dict[str, NDArray[Any]]

ORT_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class Engine(Protocol):
    """Something that answers images as the exported graph does."""

    name: str

    def run(self, images: NDArray[np.float32]) -> Heads:
        """Answers images.

        Args:
            images: float32 [N, channels, *canvas], any N above 0.

        Returns:
            Every head of the graph by name, and ``logits`` where the graph has that tensor.
        """
        ...


class OnnxRuntimeEngine:
    """The ONNX file by ONNX Runtime's CPU provider.

    Args:
        path: The ONNX file.
        threads: Threads within one inference; 0 leaves the choice to ONNX Runtime.
        scores: Whether the class scores are answered too where they are no output.
        batch: Most images in one inference, which bounds the memory.

    Raises:
        EngineError: The file cannot be read or has an operation that ONNX Runtime lacks.
    """

    def __init__(
        self, path: Path, threads: int = 0, *, scores: bool = True, batch: int = 8
    ) -> None:
        self.name = "onnxruntime"
        self._path, self._batch = path, batch
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            model = onnx.load(path)
            if scores:
                _expose(model)
            self._session = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except (OSError, DecodeError, *ORT_ERRORS) as error:
            raise EngineError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, images: NDArray[np.float32]) -> Heads:
        """See ``Engine.run``."""
        starts = range(0, len(images), self._batch)
        try:
            parts = [
                self._session.run(self._outputs, {self._input: images[i : i + self._batch]})
                for i in starts
            ]
        except ORT_ERRORS as error:
            raise EngineError(f"{self._path}: ONNX Runtime on {images.shape}: {error}") from error
        heads = zip(*parts, strict=True)
        return {
            name: _widened(np.concatenate(head))
            for name, head in zip(self._outputs, heads, strict=True)
        }


class OpenVinoEngine:
    """The graph by OpenVINO, run in the way of ``preprocess.serving.network``.

    Every slice is an inference of its own, several at a time; a single one goes through a model
    compiled for latency. So an answer does not depend on its batch, and equals the served one.

    Args:
        path: model.onnx, or model.xml with its .bin beside it.
        precision: What it computes in. For INT8 the file is quantised already.
        threads: CPU threads; 0 leaves the choice to OpenVINO.
        scores: Whether the class scores are answered too where they are no output.

    Raises:
        EngineError: The file cannot be read, or this CPU does not compute in the precision.
    """

    def __init__(
        self, path: Path, precision: CpuPrecision, threads: int = 0, *, scores: bool = True
    ) -> None:
        self.name = f"openvino-{precision}"
        if precision not in cpu_precisions():
            raise EngineError(
                f"{path}: expected a CPU that computes in {precision}, this one has "
                f"{', '.join(cpu_precisions())}; take {precision} out of engines.openvino"
            )
        self._path, self._precision, self._threads = path, precision, threads
        self._compiled: dict[tuple[tuple[int, ...], str], ov.CompiledModel] = {}
        try:
            self._model = openvino_core().read_model(path)
        except RuntimeError as error:
            raise EngineError(f"{path}: OpenVINO cannot read it: {last_line(error)}") from error
        if scores:
            _expose_openvino(self._model)
        self._names = [head_name(output) for output in self._model.outputs]

    def run(self, images: NDArray[np.float32]) -> Heads:
        """See ``Engine.run``."""
        shape = (1, *images.shape[1:])
        declared = self._model.input(0).partial_shape
        if not declared.compatible(ov.PartialShape(list(images.shape))):
            raise EngineError(f"{self._path}: expected images {declared}, got {images.shape}")
        try:
            if len(images) == 1:
                request = self._compile(shape, "LATENCY").create_infer_request()
                request.infer({0: images})
                answers = [_read(request)]
            else:
                answers = self._run_side_by_side(images, self._compile(shape, "THROUGHPUT"))
        except RuntimeError as error:
            raise EngineError(
                f"{self._path}: OpenVINO on {images.shape}: {last_line(error)}"
            ) from error
        heads = zip(*answers, strict=True)
        return {name: np.stack(head) for name, head in zip(self._names, heads, strict=True)}

    def _run_side_by_side(
        self, images: NDArray[np.float32], compiled: ov.CompiledModel
    ) -> list[list[NDArray[Any]]]:
        # Requests taken in turn. A queue with a callback can deadlock when it is let go, since its
        # threads then want the interpreter's lock from the thread that waits for them.
        count = 2 * int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        requests = [compiled.create_infer_request() for _ in range(min(count, len(images)))]
        answers: list[list[NDArray[Any]]] = []
        for index, image in enumerate(images):
            request = requests[index % len(requests)]
            if index >= len(requests):
                request.wait()
                answers.append(_read(request))
            request.start_async({0: image[None]})
        for index in range(len(answers), len(images)):
            requests[index % len(requests)].wait()
            answers.append(_read(requests[index % len(requests)]))
        return answers

    def _compile(self, shape: tuple[int, ...], hint: str) -> ov.CompiledModel:
        if (shape, hint) not in self._compiled:
            model = self._model.clone()
            model.reshape(list(shape))
            settings: dict[str, Any] = {
                "PERFORMANCE_HINT": hint,
                "INFERENCE_PRECISION_HINT": HINTS[self._precision],
            }
            if self._threads:
                settings["INFERENCE_NUM_THREADS"] = self._threads
            self._compiled[shape, hint] = openvino_core().compile_model(model, "CPU", settings)
        return self._compiled[shape, hint]


def cpu_precisions() -> tuple[CpuPrecision, ...]:
    """The precisions that OpenVINO computes in on this CPU; others it would silently replace."""
    able = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(each for each in CpuPrecision if CAPABILITIES[each] in able)


def _expose(model: onnx.ModelProto) -> None:
    made = {name for node in model.graph.node for name in node.output}
    if SCORES in made - {output.name for output in model.graph.output}:
        # Without a type: ONNX Runtime infers it, also in graphs of half precision.
        model.graph.output.append(onnx.ValueInfoProto(name=SCORES))


def _expose_openvino(model: ov.Model) -> None:
    made = {name for op in model.get_ops() for port in op.outputs() for name in port.get_names()}
    if SCORES in made and all(SCORES not in output.get_names() for output in model.outputs):
        model.add_outputs(SCORES)


def head_name(output: ov.Output) -> str:
    """Name of the head; an output may carry the names of several tensors that became one."""
    names = sorted(output.get_names())
    heads = [name for name in names if name in ("mask", "uncertainty", SCORES, "embedding")]
    return (heads or names)[0]


def _read(request: Any) -> list[NDArray[Any]]:
    return [np.array(tensor.data[0]) for tensor in request.output_tensors]


def _widened(head: NDArray[Any]) -> NDArray[Any]:
    return head.astype(np.float32) if head.dtype == np.float16 else head


def last_line(error: Exception) -> str:
    """The reason at the end of a message that begins with lines of OpenVINO's own sources."""
    return str(error).strip().splitlines()[-1]
