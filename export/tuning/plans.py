"""Settings of the gpu profile, measured on this machine's GPU: plan ─▶ TensorRT ─▶ turns.

GpuSettings ─▶ model.plan (cached by its key) ─▶ TensorRT by itself ─▶ slices, alone and many
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from export.engines.plan_key import Machine, PlanOptions
from export.engines.running import Engine
from export.engines.tensorrt_plan import TensorRtEngine, build_plan
from export.tuned import GpuSettings
from export.tuning.comparing import Turn
from export.tuning.triton import MANY, TURN, TurnLength

__all__ = ("PlanMeasuring",)


class _Subject:
    """A plan that is loaded."""

    answers = "left to verify"
    """Kernels that sum in another order may decide a tie otherwise: ``verify`` measures it."""

    def __init__(self, engine: Engine, canvas: tuple[int, ...], length: TurnLength) -> None:
        self._engine, self._length = engine, length
        noise = np.random.default_rng(0)
        self._images = noise.standard_normal((MANY, 1, *canvas), dtype=np.float32)
        for count in (1, MANY):
            engine.run(self._images[:count])

    def turn(self) -> Turn:
        """See ``searching.Subject``."""
        alone = self._times(1, self._length.alone_s)
        many = self._times(MANY, self._length.many_s)
        return Turn(MANY * len(many) / sum(many), 0.0, tuple(1000 * one for one in alone))

    def _times(self, count: int, seconds: float) -> list[float]:
        times: list[float] = []
        while not times or sum(times) < seconds:
            start = time.perf_counter()
            self._engine.run(self._images[:count])
            times.append(time.perf_counter() - start)
        return times


@dataclass(frozen=True)
class PlanMeasuring:
    """Opens settings of the gpu profile for one precision.

    Attributes:
        source: Strongly typed ONNX file.
        options: What is asked of the builder without settings of the search.
        machine: This machine, see ``this_machine``.
        cache: See ``build_plan``.
        length: How long a turn is.
        build: See ``build_plan``.
        load: Opens a plan.
    """

    source: Path
    options: PlanOptions
    machine: Machine
    cache: Path
    length: TurnLength = TURN
    build: Callable[..., object] = build_plan
    load: Callable[[Path, Machine], Engine] = TensorRtEngine

    @contextmanager
    def opened(self, settings: GpuSettings) -> Iterator[_Subject]:
        """Builds and loads the plan that ``plans`` would build with these settings.

        Raises:
            EngineError: The graph cannot be compiled, or the plan does not run.
            MissingPart: A torch without CUDA.
        """
        options, canvas = self._options(settings), self.options.canvas or ()
        name = f"{options.batch[1]}-{options.optimisation_level}"
        plan = self.cache / "tried" / name / "model.plan"
        self.build(self.source, plan, options, self.cache, self.machine)
        yield _Subject(self.load(plan, self.machine), canvas, self.length)

    def _options(self, settings: GpuSettings) -> PlanOptions:
        low, best, high = self.options.batch
        asked = settings.optimisation_level
        level = self.options.optimisation_level if asked is None else asked
        batch = (low, settings.best_batch or best, high)
        return replace(self.options, batch=batch, optimisation_level=level)
