"""How a model is served: the choices that its configurations follow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from export.errors import RecipeError
from export.recipe import CpuPrecision, GpuPrecision, Recipe
from export.tuned import CPU_DEFAULTS, GPU_DEFAULTS, CpuSettings, GpuSettings

__all__ = ("Profile", "Serving", "Step", "cpu_file")


class Profile(StrEnum):
    """Which of Triton's configurations: ``config.pbtxt`` or ``configs/cpu.pbtxt``."""

    GPU = "gpu"
    CPU = "cpu"

    @property
    def file(self) -> str:
        """Where it lies in a model's folder."""
        return "config.pbtxt" if self is Profile.GPU else "configs/cpu.pbtxt"


class Step(StrEnum):
    """The three models that serve one description; the value ends their names."""

    ENSEMBLE = ""
    PREP = "_prep"
    NET = "_net"


@dataclass(frozen=True)
class Serving:
    """How a model is served.

    Attributes:
        cpu: How OpenVINO computes.
        cpu_file: What OpenVINO reads in the network's version folder: an ONNX or an XML file.
        gpu: How the TensorRT plan computes.
        batch_cpu: Most slices of a request in the cpu profile, and its first step's largest batch.
        batch_gpu: Smallest, most frequent and largest batch of the plan.
        embedding: Numbers in the embedding; 0 where the model has no such head.
        scores: Channels of the class scores; None means one for each class and the background.
        tuned_cpu: What a search chose for the cpu profile.
        tuned_gpu: What a search chose for the gpu profile.
        cores: Number of cores that ``tuned_cpu`` was measured on; 0 where nothing was.
    """

    cpu: CpuPrecision = CpuPrecision.F32
    cpu_file: str = "model.onnx"
    gpu: GpuPrecision = GpuPrecision.FP16
    batch_cpu: int = 8
    batch_gpu: tuple[int, int, int] = (1, 8, 32)
    embedding: int = 0
    scores: int | None = None
    tuned_cpu: CpuSettings = CPU_DEFAULTS
    tuned_gpu: GpuSettings = GPU_DEFAULTS
    cores: int = 0

    @classmethod
    def of(cls, recipe: Recipe, *, embedding: int = 0, scores: int | None = None) -> Serving:
        """What a recipe and the search beside it ask for.

        INT8 on the CPU is served from OpenVINO's own format.

        Raises:
            RecipeError: The search chose what the recipe no longer allows.
        """
        engines, tuning = recipe.export.engines, recipe.tuning
        serving = cls(
            engines.cpu,
            cpu_file(engines.cpu),
            engines.gpu,
            engines.batch_cpu,
            engines.batch_gpu,
            embedding,
            scores,
        )
        if tuning is None:
            return serving
        tuned_gpu = tuning.settings_gpu(engines.gpu)
        return replace(
            serving,
            tuned_cpu=tuning.settings_cpu(engines.cpu),
            tuned_gpu=tuned_gpu,
            cores=tuning.cores,
            batch_gpu=_batches(engines.batch_gpu, tuned_gpu.best_batch),
        )

    def max_batch(self, profile: Profile) -> int:
        """Largest batch of a profile, and most slices of a request."""
        return self.batch_gpu[2] if profile is Profile.GPU else self.batch_cpu


def _batches(asked: tuple[int, int, int], best: int | None) -> tuple[int, int, int]:
    low, usual, high = asked
    if best is not None and not low <= best <= high:
        raise RecipeError(
            f"best_batch {best} of the search: expected {low} to {high}, which is what "
            "engines.batch_gpu allows; run `python -m export tune` again"
        )
    return low, best or usual, high


def cpu_file(precision: CpuPrecision) -> str:
    """What OpenVINO reads for a precision."""
    return "model.xml" if precision is CpuPrecision.INT8 else "model.onnx"
