"""The whole search for one model: what can be measured here ─▶ Search for each precision ─▶ Tuning.

MODEL.yaml, published version, last build ─▶ cpu (real Triton) │ gpu (TensorRT) ─▶ Tuning
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import psutil

from export.building.making import typed_file
from export.building.verifying import verification_series
from export.engines.plan_key import PlanOptions
from export.engines.running import cpu_precisions
from export.engines.tensorrt_plan import this_machine
from export.errors import EngineError, MissingPart
from export.parity.facts import machine_facts, version_facts
from export.parity.material import plan_of
from export.recipe import CpuPrecision, GpuPrecision, Recipe
from export.repository.layout import PROVENANCE, ModelFolders
from export.repository.options import Serving, cpu_file
from export.tuned import (
    CPU_DEFAULTS,
    GPU_DEFAULTS,
    SCHEMA,
    CpuSettings,
    Trial,
    TunedCpu,
    TunedGpu,
    Tuning,
)
from export.tuning.axes import cpu_axes, gpu_axes
from export.tuning.comparing import Limit
from export.tuning.plans import PlanMeasuring
from export.tuning.searching import Axis, Search, SearchOptions
from export.tuning.triton import TURN, Slices, TritonMeasuring, TurnLength
from preprocess.serving.configured import ServedNetwork
from preprocess.serving.cores import available_cores
from preprocess.serving.network import stream_settings
from preprocess.serving.runtime import openvino_core
from preprocess.spec import ModelSpec

__all__ = ("TuneOptions", "Tuned", "tune")

INT8_FOLDER = "openvino-int8"
Announce = Callable[[str, Trial], None]


@dataclass(frozen=True)
class TuneOptions:
    """What is searched, and for how long.

    Attributes:
        repository: Where the model is published.
        work: Folder of the model's build; candidates are staged in it.
        minutes: For everything together, shared evenly.
        p99_ms: Limit of a slice that comes alone, see ``comparing.Limit``.
        length: How long a turn is.
        axes: What is tried on the CPU; None means ``cpu_axes``.
    """

    repository: Path
    work: Path
    minutes: float = 10.0
    p99_ms: float | None = None
    length: TurnLength = TURN
    axes: Sequence[Axis] | None = None

    def __post_init__(self) -> None:
        if self.minutes <= 0 or (self.p99_ms is not None and self.p99_ms <= 0):
            raise EngineError(
                f"tune: expected minutes and a limit above 0, got {self.minutes:g} min, "
                f"{self.p99_ms} ms"
            )


@dataclass(frozen=True)
class Tuned:
    """What a search leaves.

    Attributes:
        tuning: The record.
        left_out: A sentence for each thing that was not searched, or not to its end.
    """

    tuning: Tuning
    left_out: tuple[str, ...]


def tune(
    recipe: Recipe, options: TuneOptions, announce: Announce = lambda what, trial: None
) -> Tuned:
    """Searches the settings of every precision that the recipe offers.

    Which precision is served is the recipe's to say and the gate's to admit, never this search's.
    What cannot be measured here keeps the settings that it had.

    Args:
        recipe: The recipe; settings that are in use come from the record beside it.
        options: What and for how long.
        announce: Called with the precision and every trial.

    Raises:
        EngineError: The model is not published, or cannot be served.
        RecipeError: A series cannot be read.
        MissingPart: There is no Triton.
    """
    started, machine = datetime.now(UTC), _MachineTime()
    run = _Run(recipe, options, announce)
    kept = recipe.tuning
    cpu, gpu = run.cpu(), run.gpu()
    return Tuned(
        Tuning(
            schema=SCHEMA,
            model=recipe.name,
            measured=started.isoformat(timespec="seconds"),
            minutes=options.minutes,
            p99_limit_ms=options.p99_ms,
            cores=available_cores(),
            others_share=machine.others_share(),
            facts={**machine_facts(), **version_facts()},
            cpu=cpu,
            gpu=gpu or (kept.gpu if kept else ()),
        ),
        tuple(run.left_out),
    )


class _Run:
    """One search: the model as it is published, and how much time is left."""

    def __init__(self, recipe: Recipe, options: TuneOptions, announce: Announce) -> None:
        self._recipe, self._options, self._announce = recipe, options, announce
        model = ModelFolders(options.repository, recipe.name)
        if not model.versions:
            raise EngineError(
                f"{model.net}: expected a published version, found none; run build {recipe.path}"
            )
        self._spec = model.spec
        self._files = model.version_files(model.versions[-1])
        self._embedding, self._scores = _heads(self._files[PROVENANCE])
        self._end = time.monotonic() + 60 * options.minutes
        self.left_out: list[str] = []

    def cpu(self) -> tuple[TunedCpu, ...]:
        """One search for each precision that can be served here."""
        engines = self._recipe.export.engines
        precisions = [one for one in engines.openvino if self._is_ready(one)]
        slices = _slices(self._recipe, self._spec)
        # The plain serving: what an earlier search chose is where this one starts, not its base.
        base = Serving.of(
            replace(self._recipe, tuning=None), embedding=self._embedding, scores=self._scores
        )
        found = []
        for number, precision in enumerate(precisions):
            serving = replace(base, cpu=precision, cpu_file=cpu_file(precision))
            measuring = TritonMeasuring(
                self._spec,
                serving,
                self._engine_files(precision),
                slices,
                self._options.work / "tune",
                self._options.length,
            )
            axes = self._options.axes or cpu_axes(available_cores(), self._streams(precision))
            name = f"cpu {precision}"
            search = Search(
                CPU_DEFAULTS,
                axes,
                measuring.opened,
                self._search_options(len(precisions) - number),
                time.monotonic,
                partial(self._announce, name),
            )
            choice = search.run(self._start(precision))
            self._note_end(name, choice.complete)
            found.append(TunedCpu(precision, choice.settings, choice.gain, choice.trials))
        return tuple(found)

    def gpu(self) -> tuple[TunedGpu, ...]:
        """A search for the precision that the gpu profile serves; nothing without a GPU."""
        engines = self._recipe.export.engines
        try:
            machine = this_machine()
        except MissingPart as error:
            self.left_out.append(f"gpu {engines.gpu}: not measured, settings stay: {error}")
            return ()
        measuring = PlanMeasuring(
            self._files[typed_file(GpuPrecision(engines.gpu))],
            PlanOptions(batch=engines.batch_gpu, canvas=self._spec.geometry.size),
            machine,
            self._options.work.parent / "plans",
            self._options.length,
        )
        name = f"gpu {engines.gpu}"
        search = Search(
            GPU_DEFAULTS,
            gpu_axes(engines.batch_gpu),
            measuring.opened,
            self._search_options(1),
            time.monotonic,
            partial(self._announce, name),
        )
        kept = self._recipe.tuning
        choice = search.run(kept.settings_gpu(engines.gpu) if kept else GPU_DEFAULTS)
        self._note_end(name, choice.complete)
        return (TunedGpu(str(engines.gpu), choice.settings, choice.gain, choice.trials),)

    def _is_ready(self, precision: CpuPrecision) -> bool:
        reason = ""
        if precision not in cpu_precisions():
            reason = f"this CPU does not compute in {precision}"
        elif not self._engine_files(precision):
            reason = f"its file is not there; run build {self._recipe.path}"
        if reason:
            self.left_out.append(f"cpu {precision}: not measured: {reason}")
        return not reason

    def _engine_files(self, precision: CpuPrecision) -> dict[str, Path]:
        """What is served in a precision: published, or left by the last build; may be nothing."""
        names = ("model.xml", "model.bin") if precision is CpuPrecision.INT8 else ("model.onnx",)
        built = self._options.work / INT8_FOLDER
        found = {name: self._files.get(name, built / name) for name in names}
        return found if all(path.exists() for path in found.values()) else {}

    def _streams(self, precision: CpuPrecision) -> int:
        """Streams that OpenVINO takes by itself."""
        path = self._engine_files(precision)[cpu_file(precision)]
        core = openvino_core()
        model = core.read_model(path)
        model.reshape([1, 1, *self._spec.geometry.size])
        plain = ServedNetwork(path, precision, (1, *self._spec.geometry.size), {})
        compiled = core.compile_model(model, "CPU", stream_settings(plain))
        return int(compiled.get_property("NUM_STREAMS"))

    def _start(self, precision: CpuPrecision) -> CpuSettings:
        """The settings in use, if they were measured on so many cores."""
        kept = self._recipe.tuning
        if kept is None or kept.cores != available_cores():
            return CPU_DEFAULTS
        return kept.settings_cpu(precision)

    def _search_options(self, shares: int) -> SearchOptions:
        """The time that is left, shared with the searches that follow."""
        left_s = max(0.0, self._end - time.monotonic())
        turn_s = self._options.length.alone_s + self._options.length.many_s
        return SearchOptions(left_s / shares, turn_s, Limit(self._options.p99_ms))

    def _note_end(self, name: str, complete: bool) -> None:
        if not complete:
            self.left_out.append(
                f"{name}: not everything was tried in {self._options.minutes:g} minutes"
            )


class _MachineTime:
    """CPU time of the machine and of this search since it began."""

    def __init__(self) -> None:
        self._begin, self._busy, self._own = time.monotonic(), _busy_s(), _own_s()

    def others_share(self) -> float:
        """Part of all cores that other processes used; children of ours must have ended."""
        others = _busy_s() - self._busy - (_own_s() - self._own)
        cores = psutil.cpu_count() or 1
        return round(max(0.0, others / (cores * (time.monotonic() - self._begin))), 3)


def _busy_s() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))


def _own_s() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in both)


def _heads(provenance: Path) -> tuple[int, int | None]:
    """Sizes of the heads, as the build that published the version knew them."""
    try:
        serving = json.loads(provenance.read_text(encoding="utf-8"))["serving"]
        return int(serving["embedding"]), serving["scores"]
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(
            f"{provenance}: expected what `build` says about a version: {error}; build the model "
            "again"
        ) from error


def _slices(recipe: Recipe, spec: ModelSpec) -> Slices:
    """Those of the first series on which answers are compared."""
    series = verification_series(recipe, spec)[0]
    return Slices(plan_of(series, spec), series.stored[list(series.chosen)])
