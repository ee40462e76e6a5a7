"""Settings of the cpu profile, measured through the real server: staged ─▶ Triton ─▶ turns.

CpuSettings ─▶ the three folders that `build` would publish ─▶ server ─▶ slices, alone and many
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from threading import Lock, Semaphore
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput

from export.errors import EngineError
from export.repository.options import Serving
from export.repository.serving import ServedModel, request_inputs, served, translated
from export.repository.staging import stage
from export.tuned import CpuSettings
from export.tuning.comparing import Turn
from preprocess.plan import SeriesPlan
from preprocess.serving.configured import MASK, OUTPUTS
from preprocess.serving.cores import available_cores
from preprocess.spec import ModelSpec

__all__ = ("TURN", "Slices", "TritonMeasuring", "TurnLength")

MANY = 16
"""Slices in flight where throughput is measured."""
ANSWER_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Slices:
    """What is asked: slices of one series, whole requests of one slice each.

    Attributes:
        plan: The series' plan.
        stored: int16 [slices, rows, columns].
    """

    plan: SeriesPlan
    stored: NDArray[np.int16]


@dataclass(frozen=True)
class TurnLength:
    """How long a turn measures.

    Attributes:
        alone_s: With one slice in flight.
        many_s: With many in flight.
    """

    alone_s: float = 0.5
    many_s: float = 1.5


TURN = TurnLength()


class _Subject:
    """A served model; a turn asks it for a few seconds."""

    def __init__(self, model: ServedModel, slices: Slices, length: TurnLength) -> None:
        self._model, self._length = model, length
        parts = np.split(slices.stored, len(slices.stored))
        self._requests = [request_inputs(slices.plan, part) for part in parts]
        self._answers = self._warm_up()

    @property
    def answers(self) -> str:
        """See ``searching.Subject``."""
        return self._answers

    def turn(self) -> Turn:
        """See ``searching.Subject``."""
        latencies = self._alone()
        cpu, begin = self._cpu_s(), time.perf_counter()
        done = self._many()
        seconds = time.perf_counter() - begin
        return Turn(done / seconds, 1000 * (self._cpu_s() - cpu) / done, tuple(latencies))

    def _alone(self) -> list[float]:
        """Milliseconds of slices, one after the other."""
        times: list[float] = []
        end = time.perf_counter() + self._length.alone_s
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            self._ask(self._requests[len(times) % len(self._requests)])
            times.append(1000 * (time.perf_counter() - start))
        return times

    def _many(self) -> int:
        """Slices that were answered while there were always many in flight."""
        flight = _Flight()
        end = time.perf_counter() + self._length.many_s
        sent = 0
        while not sent or time.perf_counter() < end:
            flight.take_off()
            inputs = self._requests[sent % len(self._requests)]
            self._model.client.async_infer(callback=flight.land, **self._question(inputs))
            sent += 1
        flight.wait()
        return sent

    def _warm_up(self) -> str:
        """Every way of computing once; the digest of all masks."""
        self._many()
        masks = [self._ask(inputs) for inputs in self._requests]
        return sha256(b"".join(mask.tobytes() for mask in masks)).hexdigest()

    def _ask(self, inputs: Sequence[InferInput]) -> NDArray[np.uint8]:
        with translated(f"inference with {self._model.spec.name}"):
            answer = self._model.client.infer(**self._question(inputs))
        mask: NDArray[np.uint8] = answer.as_numpy(self._model.spec.tensors.mask)
        return mask

    def _question(self, inputs: Sequence[InferInput]) -> dict[str, Any]:
        return {
            "model_name": self._model.spec.name,
            "inputs": inputs,
            "outputs": [InferRequestedOutput(self._model.spec.tensors.mask)],
            "parameters": {OUTPUTS: MASK},
            "client_timeout": ANSWER_TIMEOUT_S,
        }

    def _cpu_s(self) -> float:
        """CPU seconds of the server and its models so far."""
        above = psutil.Process(self._model.pid)
        times = [one.cpu_times() for one in (above, *above.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))


class _Flight:
    """Requests under way: so many places, and the first error that came back."""

    def __init__(self) -> None:
        self._places = Semaphore(MANY)
        self._lock = Lock()
        self._error: Exception | None = None

    def take_off(self) -> None:
        """Waits for a place.

        Raises:
            EngineError: An earlier request has failed, or none comes back.
        """
        if not self._places.acquire(timeout=2 * ANSWER_TIMEOUT_S):
            raise EngineError(f"the server gave no answer within {2 * ANSWER_TIMEOUT_S:g} s")
        if self._error is not None:
            raise EngineError(f"inference failed: {self._error}") from self._error

    def land(self, result: object, error: Exception | None) -> None:
        """A request came back; called by a thread of the client."""
        with self._lock:
            self._error = self._error or error
        self._places.release()

    def wait(self) -> None:
        """Waits until all have come back; raises as ``take_off``."""
        for _ in range(MANY):
            self.take_off()


@dataclass(frozen=True)
class TritonMeasuring:
    """Opens settings of the cpu profile for one precision.

    Attributes:
        spec: The model.
        serving: How it is served without settings of the search, in the precision.
        files: Engines by their name in the version's folder.
        slices: What is asked.
        work: Folder for what is staged.
        length: How long a turn is.
    """

    spec: ModelSpec
    serving: Serving
    files: Mapping[str, Path]
    slices: Slices
    work: Path
    length: TurnLength = TURN

    @contextmanager
    def opened(self, settings: CpuSettings) -> Iterator[_Subject]:
        """Serves settings.

        Raises:
            EngineError: Triton cannot serve them.
            MissingPart: There is no Triton.
        """
        serving = replace(self.serving, tuned_cpu=settings, cores=available_cores())
        self.work.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self.work, prefix="candidate-"))
        try:
            stage(folder / "models", self.spec, serving, self.files)
            with served(folder / "models", self.spec.name) as model:
                yield _Subject(model, self.slices, self.length)
        except EngineError as error:
            # The record of the search keeps what was said, and no path of this machine.
            raise EngineError(str(error).replace(str(folder), "candidate")) from error
        finally:
            shutil.rmtree(folder)
