"""How a model is served: the choices that its configurations follow."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from export.recipe import CpuPrecision, GpuPrecision, Recipe

__all__ = ("Profile", "Serving", "Step")


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
        batch_cpu: Largest batch of the cpu profile.
        batch_gpu: Smallest, most frequent and largest batch of the plan.
        embedding: Numbers in the embedding; 0 where the model has no such head.
        scores: Channels of the class scores; None means one for each class and the background.
    """

    cpu: CpuPrecision = CpuPrecision.F32
    cpu_file: str = "model.onnx"
    gpu: GpuPrecision = GpuPrecision.FP16
    batch_cpu: int = 8
    batch_gpu: tuple[int, int, int] = (1, 8, 32)
    embedding: int = 0
    scores: int | None = None

    @classmethod
    def of(cls, recipe: Recipe, *, embedding: int = 0, scores: int | None = None) -> Serving:
        """What a recipe asks for; INT8 on the CPU is served from OpenVINO's own format."""
        engines = recipe.export.engines
        file = "model.xml" if engines.cpu is CpuPrecision.INT8 else "model.onnx"
        return cls(
            engines.cpu, file, engines.gpu, engines.batch_cpu, engines.batch_gpu, embedding, scores
        )

    def max_batch(self, profile: Profile) -> int:
        """Largest batch of a profile."""
        return self.batch_gpu[2] if profile is Profile.GPU else self.batch_cpu
