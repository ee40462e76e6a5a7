"""What a run of the benchmark measures, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loadtest.enlarged import LARGE_SHAPE
from loadtest.loads import PRECISIONS

__all__ = ("FULL", "QUICK", "Options")

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        rounds: How often everything is measured.
        slices: Slices of the study, from its middle; None means all.
        slices_alone: Slices of a run with one slice in flight, at most.
        precisions: Of ``loads.PRECISIONS``, in the order they run; the first one is also that of
            the large and the STAT studies.
        peers: ``all``, ``none``, or names joined by commas.
        studies: Whether a large study, STAT studies and the client tier's steps are measured too.
        few_loads: Whether only the loads of a quick run are.
        urgent: STAT studies of each kind in a round.
        urgent_slices: Slices of a STAT study.
        routine_slices: Slices of each study in its way.
        large_shape: Slices, rows and columns of the large study.
        slices_in_flight: Of the raw engine under load.
        model: Name of the model.
        sample: Folder of a DICOM series.
        repository: The model repository, serving float32.
        recipe: From which other precisions are made.
        work: Where they are made.
        gpu_triton: gRPC address of a server with the gpu profile; "" means none.
        command: How this run was asked for.
    """

    rounds: int = 5
    slices: int | None = 96
    slices_alone: int = 32
    precisions: tuple[str, ...] = PRECISIONS
    peers: str = "all"
    studies: bool = True
    few_loads: bool = False
    urgent: int = 20
    urgent_slices: int = 8
    routine_slices: int = 32
    large_shape: tuple[int, int, int] = LARGE_SHAPE
    slices_in_flight: int = 16
    model: str = "brain_mr"
    sample: Path = ROOT / "samples" / "colin27_mr"
    repository: Path = ROOT / "model_repository"
    recipe: Path = ROOT / "models" / "brain_mr.yaml"
    work: Path = ROOT / "build" / "bench"
    gpu_triton: str = ""
    command: str = ""


FULL = Options()
QUICK = Options(
    rounds=3, slices_alone=48, precisions=("f32",), peers="none", studies=False, few_loads=True
)
