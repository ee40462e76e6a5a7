"""An exported network by OpenVINO, slice by slice.

images ──start──▶ U-Net with its heads ──a thread that waits──▶ mask (, uncertainty, logits …)
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from preprocess.errors import ServingError
from preprocess.serving.configured import Precision, ServedNetwork
from preprocess.serving.runtime import openvino_core

__all__ = ("Answers", "Network", "single_settings", "stream_settings")

CAPABILITIES = {Precision.F32: "FP32", Precision.BF16: "BF16", Precision.INT8: "INT8"}
HINTS = {Precision.F32: "f32", Precision.BF16: "bf16", Precision.INT8: "bf16"}
"""What is computed in where an operation is not quantised: never OpenVINO's own choice, which on
many CPUs is bfloat16. What INT8 leaves in float is bfloat16 where the CPU computes in it: it costs
less than quantising did, and the comparison that admits a network to service measures it."""

TYPES = {"TYPE_UINT8": np.dtype(np.uint8), "TYPE_FP32": np.dtype(np.float32)}


Answers = dict[str, NDArray[Any]]


class Network:
    """Some outputs of a network, whose answers for a slice do not depend on its batch.

    Every slice is an inference of its own: several go through parallel streams, which costs less
    CPU time than one large batch, and a single slice through a model compiled for latency. What
    only other outputs need is not computed.

    Args:
        served: The network as its configuration describes it.
        outputs: Names of the outputs that are computed.

    Raises:
        ServingError: The file is not readable or is not what the configuration says, or this CPU
            does not compute in the stated precision.
    """

    def __init__(self, served: ServedNetwork, outputs: Sequence[str]) -> None:
        core = openvino_core()
        _require_precision(core, served)
        self._outputs = {name: served.outputs[name] for name in outputs}
        try:
            model = _read(core, served, outputs)
            single = core.compile_model(model, "CPU", single_settings(served))
            streams = core.compile_model(model, "CPU", stream_settings(served))
        except RuntimeError as error:
            why = str(error).strip().splitlines()[-1]
            raise ServingError(f"{served.path.name}: OpenVINO cannot load it: {why}") from error
        self._single = single.create_infer_request()
        best = 1 + int(streams.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        # Requests waited for in turn: OpenVINO's queue with a callback can deadlock when it is let
        # go, since its threads then want the interpreter's lock from the thread that waits.
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(served.compilation.requests or best):
            self._free.put(streams.create_infer_request())
        self._under_way = 0
        self._lock = Lock()
        self._started: SimpleQueue[tuple[_Slice, ServingError | None] | None] = SimpleQueue()
        self._finisher = Thread(target=self._finish_all, daemon=True)
        self._finisher.start()

    def start(self, images: Sequence[NDArray[np.float32]]) -> Future[Answers]:
        """Hands slices to OpenVINO; returns once it has a place for the last one.

        One thread at a time may call it. Whoever comes next starts beside what is under way: no
        stream idles because the slices of one call are an odd number.

        Args:
            images: Each float32 [1, rows, columns]; they are read until the answer is there.

        Returns:
            The outputs by name, each [slices, ...] and C-contiguous; its callbacks run in the
            thread that waits for OpenVINO.
        """
        answers = {
            name: np.empty((len(images), *shape), dtype=TYPES[kind])
            for name, (kind, shape) in self._outputs.items()
        }
        future: Future[Answers] = Future()
        with self._lock:
            alone = len(images) == 1 and self._under_way == 0
            self._under_way += len(images)
        for index, image in enumerate(images):
            request = self._single if alone else self._free.get()
            places = {name: answer[index] for name, answer in answers.items()}
            last = index == len(images) - 1
            one = _Slice(request, image, places, future, answers if last else None)
            self._started.put((one, _begin(one)))
        return future

    def close(self) -> None:
        """Waits until everything that was started is answered."""
        self._started.put(None)
        self._finisher.join()

    def _finish_all(self) -> None:
        """Waits for slices in the order in which they were started."""
        while (entry := self._started.get()) is not None:
            one, failure = entry
            failure = failure or _finish(one)
            with self._lock:
                self._under_way -= 1
            if one.request is not self._single:
                self._free.put(one.request)
            if failure is not None and not one.future.done():
                one.future.set_exception(failure)
            if one.answers is not None and not one.future.done():
                one.future.set_result(one.answers)


@dataclass(frozen=True, eq=False)
class _Slice:
    """A slice that OpenVINO works on.

    Attributes:
        request: What computes it.
        image: Its image, which OpenVINO reads.
        places: Where its outputs belong.
        future: Of the call that it came with.
        answers: What that call is answered, if it is the last slice of it.
    """

    request: Any
    image: NDArray[np.float32]
    places: dict[str, NDArray[Any]]
    future: Future[Answers]
    answers: Answers | None


def _begin(one: _Slice) -> ServingError | None:
    """Hands a slice to OpenVINO; what went wrong, if something did."""
    try:
        one.request.start_async({0: one.image[None]}, share_inputs=True)
    except RuntimeError as error:
        return _failure(error)
    return None


def _finish(one: _Slice) -> ServingError | None:
    """Waits for a slice and keeps its outputs; what went wrong, if something did."""
    try:
        one.request.wait()
        for name, place in one.places.items():
            place[...] = one.request.get_tensor(name).data[0]
    except RuntimeError as error:
        return _failure(error)
    return None


def _failure(error: RuntimeError) -> ServingError:
    return ServingError(f"OpenVINO failed: {str(error).strip()}")


def _require_precision(core: ov.Core, served: ServedNetwork) -> None:
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if CAPABILITIES[served.precision] not in able:
        raise ServingError(
            f"{served.path.name}: expected a CPU that computes in {served.precision}, this one has "
            f"{', '.join(able)}; serve the model in f32"
        )


def _read(core: ov.Core, served: ServedNetwork, outputs: Sequence[str]) -> ov.Model:
    """The network with the given outputs only, for one slice at a time."""
    model = core.read_model(served.path)
    model.reshape([1, *served.image])
    for name in outputs:
        _require_output(model, served, name)
    for result in model.get_results():
        if result.output(0).get_names().isdisjoint(outputs):
            model.remove_result(result)
    return model


def _require_output(model: ov.Model, served: ServedNetwork, name: str) -> None:
    kind, shape = served.outputs[name]
    for output in model.outputs:
        if name in output.get_names():
            came = (output.element_type.to_dtype(), tuple(output.shape))
            if came != (TYPES.get(kind), (1, *shape)):
                raise ServingError(
                    f"{served.path.name}: expected the output {name!r} to be {kind} {shape} as "
                    f"configured, got {came[0]} {came[1][1:]}"
                )
            return
    found = sorted(min(output.get_names()) for output in model.outputs)
    raise ServingError(f"{served.path.name}: expected an output {name!r}, found {found}")


def single_settings(served: ServedNetwork) -> dict[str, Any]:
    """What OpenVINO is told when it compiles for a slice that comes alone."""
    chosen = served.compilation
    threads = chosen.single_threads or chosen.threads
    return _settings(served, "LATENCY", INFERENCE_NUM_THREADS=threads)


def stream_settings(served: ServedNetwork) -> dict[str, Any]:
    """What OpenVINO is told when it compiles for several slices at a time."""
    chosen = served.compilation
    return _settings(
        served, "THROUGHPUT", NUM_STREAMS=chosen.streams, INFERENCE_NUM_THREADS=chosen.threads
    )


def _settings(served: ServedNetwork, hint: str, **counts: int | None) -> dict[str, Any]:
    """The hint, and instead of parts of it what was chosen."""
    chosen = counts | {
        "ENABLE_CPU_PINNING": served.compilation.pinning,
        "ENABLE_HYPER_THREADING": served.compilation.hyper_threading,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    return {
        "PERFORMANCE_HINT": hint,
        "INFERENCE_PRECISION_HINT": HINTS[served.precision],
        **given,
    }
