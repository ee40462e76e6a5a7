"""MODEL.tuning.json: the settings that a search chose, what it measured, and on which machine.

export tune ─▶ MODEL.tuning.json beside MODEL.yaml ─▶ Recipe.tuning ─▶ export build
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from export.errors import RecipeError
from preprocess.errors import SpecError
from preprocess.parsing import build
from preprocess.serving.configured import Compilation
from preprocess.serving.configured import Precision as CpuPrecision

__all__ = (
    "CPU_DEFAULTS",
    "GPU_DEFAULTS",
    "SCHEMA",
    "CpuSettings",
    "GpuSettings",
    "Trial",
    "TunedCpu",
    "TunedGpu",
    "Tuning",
    "read_tuning",
    "tuning_path",
    "write_tuning",
)

SCHEMA: Final = "hounsfield.tuning/1"
LARGEST_COUNT = 1024


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RecipeError(message)


@dataclass(frozen=True)
class CpuSettings:
    """What can be chosen for the cpu profile; the defaults are what is served without a search.

    Attributes:
        streams: See ``preprocess.serving.configured.Compilation``, as all down to
            ``hyper_threading``; None leaves it to OpenVINO.
        threads: The same.
        requests: The same.
        single_threads: The same.
        pinning: The same.
        hyper_threading: The same.
        instances: Processes that serve the network side by side.
    """

    streams: int | None = None
    threads: int | None = None
    requests: int | None = None
    single_threads: int | None = None
    pinning: bool | None = None
    hyper_threading: bool | None = None
    instances: int = 1

    def __post_init__(self) -> None:
        counts = {
            "streams": self.streams,
            "threads": self.threads,
            "requests": self.requests,
            "single_threads": self.single_threads,
            "instances": self.instances,
        }
        for name, value in counts.items():
            _require(value is None or 1 <= value <= LARGEST_COUNT, f"{name} {value}: 1 to 1024")

    @property
    def compilation(self) -> Compilation:
        """The part that OpenVINO follows."""
        return Compilation(
            self.streams,
            self.threads,
            self.requests,
            self.single_threads,
            self.pinning,
            self.hyper_threading,
        )


@dataclass(frozen=True)
class GpuSettings:
    """What can be chosen for the gpu profile; the defaults are what is served without a search.

    Attributes:
        best_batch: Batch that the plan is optimised for; None means the recipe's.
        optimisation_level: How long TensorRT looks for kernels; None means TensorRT's own.
    """

    best_batch: int | None = None
    optimisation_level: int | None = None

    def __post_init__(self) -> None:
        best, level = self.best_batch, self.optimisation_level
        _require(best is None or 1 <= best <= LARGEST_COUNT, f"best_batch {best}: 1 to 1024")
        _require(level is None or 0 <= level <= 5, f"optimisation_level {level}: 0 to 5")

    @property
    def chosen(self) -> dict[str, int]:
        """What differs from the defaults."""
        return {key: value for key, value in asdict(self).items() if value is not None}


CPU_DEFAULTS = CpuSettings()
GPU_DEFAULTS = GpuSettings()


@dataclass(frozen=True)
class Trial:
    """One comparison: some settings against those that were best so far, in turns.

    Attributes:
        change: What was changed, for people.
        verdict: ``better``, ``no gain``, ``slower``, ``over the limit``, ``other answers`` or
            why it could not be measured.
        pairs: Turns of both that were compared; 0 where it was not measured.
        throughput: Slices per second with many in flight, as a multiple of the other's; median
            over the pairs, as all ratios.
        cpu: CPU time of a slice, likewise: below 1 is less.
        p50: Median time of a slice that comes alone, likewise.
        p99: 99th percentile of it, likewise.
        slices_per_s: Median of the turns.
        cpu_ms: CPU milliseconds of a slice, median of the turns; 0 on a GPU.
        p99_ms: 99th percentile of the time of a slice that comes alone, median of the turns.
    """

    change: str
    verdict: str
    pairs: int = 0
    throughput: float = 1.0
    cpu: float = 1.0
    p50: float = 1.0
    p99: float = 1.0
    slices_per_s: float = 0.0
    cpu_ms: float = 0.0
    p99_ms: float = 0.0


@dataclass(frozen=True)
class TunedCpu:
    """The outcome for one precision of the cpu profile.

    Attributes:
        precision: How OpenVINO computes.
        settings: What was chosen; the defaults where nothing was clearly better.
        gain: The choice against the defaults, measured last; None where they are the same.
        trials: Everything that was tried, in order.
    """

    precision: CpuPrecision
    settings: CpuSettings
    gain: Trial | None
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class TunedGpu:
    """The outcome for one precision of the gpu profile.

    Attributes:
        precision: How TensorRT computes, as the recipe spells it.
        settings: What was chosen.
        gain: The choice against the defaults; None where they are the same.
        trials: Everything that was tried, in order.
    """

    precision: str
    settings: GpuSettings
    gain: Trial | None
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Tuning:
    """One search, complete.

    Attributes:
        schema: Version of this record.
        model: Name of the model.
        measured: When, UTC, ISO 8601.
        minutes: How long it was allowed to take.
        p99_limit_ms: Limit of the 99th percentile; None compared it with the settings so far.
        cores: Cores of the machine, see ``preprocess.serving.cores``.
        others_share: Part of the cores that other processes used meanwhile.
        facts: Machine and versions, as text for people.
        cpu: One for each precision that was searched.
        gpu: The same; empty without a GPU.
    """

    schema: Literal["hounsfield.tuning/1"]
    model: str
    measured: str
    minutes: float
    p99_limit_ms: float | None
    cores: int
    others_share: float
    facts: dict[str, str]
    cpu: tuple[TunedCpu, ...] = ()
    gpu: tuple[TunedGpu, ...] = ()

    def __post_init__(self) -> None:
        _require(1 <= self.cores <= 2**16, f"cores {self.cores}: 1 to 65536")
        for kind in (self.cpu, self.gpu):
            names = [str(one.precision) for one in kind]
            _require(len(names) == len(set(names)), f"each precision once, got {names}")

    def settings_cpu(self, precision: CpuPrecision) -> CpuSettings:
        """What was chosen for a precision; the defaults where it was not searched."""
        found = (one.settings for one in self.cpu if one.precision == precision)
        return next(found, CPU_DEFAULTS)

    def settings_gpu(self, precision: str) -> GpuSettings:
        """What was chosen for a precision; the defaults where it was not searched."""
        found = (one.settings for one in self.gpu if one.precision == precision)
        return next(found, GPU_DEFAULTS)


def tuning_path(recipe: Path) -> Path:
    """Where the record of a recipe lies: beside it, with its name."""
    return recipe.with_suffix(".tuning.json")


def write_tuning(tuning: Tuning, path: Path) -> None:
    """Writes the record, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    content = json.dumps(asdict(tuning), indent=1, allow_nan=False) + "\n"
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(content, encoding="utf-8")
    draft.replace(path)


def read_tuning(path: Path, model: str) -> Tuning | None:
    """Reads the record strictly; None where there is none.

    Args:
        path: See ``tuning_path``.
        model: The model it must be of.

    Raises:
        RecipeError: It is no record of this schema, or another model's.
    """
    if not path.exists():
        return None
    try:
        tuning = build(Tuning, json.loads(path.read_text(encoding="utf-8")), "tuning")
        _require(tuning.model == model, f"expected the model {model!r}, got {tuning.model!r}")
    except (OSError, ValueError, SpecError, RecipeError) as error:
        raise RecipeError(
            f"{path}: {error}; mend it, or remove it and run `python -m export tune` again"
        ) from error
    return tuning
