"""Compile with TensorRT for RTX, which needs no GPU: ONNX ─▶ accepted │ refused, with the reason.

It shares parser and builder with TensorRT, so what it refuses production would refuse too. It is
a check: production serves TensorRT's own plan, and RTX has no compiler for compute capability 9.0.
"""

from __future__ import annotations

import importlib
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

from export.engines.tensorrt_build import BatchProfile, build_engine
from export.errors import EngineError, MissingPart
from export.recipe import GpuPrecision

__all__ = ("CompileReport", "compile_check", "targets_of")

_TURING, *_LATER = ("SM75", "SM80", "SM86", "SM89", "SM120")


@dataclass(frozen=True)
class CompileReport:
    """What TensorRT for RTX made of an ONNX file.

    Attributes:
        file: Name of the ONNX file.
        compiler: Name and version.
        targets: Compute capabilities that the one engine holds code for.
        seconds: How long it took; 0 where it was refused.
        engine_bytes: Size of the engine; 0 where it was refused.
        warnings: What the compiler warned about.
        refusal: Why it was refused, "" where it was accepted.
    """

    file: str
    compiler: str
    targets: tuple[str, ...]
    seconds: float = 0.0
    engine_bytes: int = 0
    warnings: tuple[str, ...] = ()
    refusal: str = ""

    def require_accepted(self) -> None:
        """Passes where the file was accepted.

        Raises:
            EngineError: It was refused, with the compiler's reason.
        """
        if self.refusal:
            raise EngineError(self.refusal)


def targets_of(precision: GpuPrecision, spatial_axes: int = 2) -> tuple[str, ...]:
    """The compute capabilities that know it: Turing has no bfloat16 and no 3D convolution."""
    turing = precision is not GpuPrecision.BF16 and spatial_axes == 2
    return (_TURING, *_LATER) if turing else tuple(_LATER)


def compile_check(
    path: Path, profile: BatchProfile | None, targets: tuple[str, ...]
) -> CompileReport:
    """Compiles an ONNX file for several GPUs at once, in a process of its own.

    The library may end its process, and must not share one with OpenVINO's threads.

    Args:
        path: Strongly typed ONNX file.
        profile: Shapes, see ``build_engine``.
        targets: Names of ``ComputeCapability``, see ``targets_of``.

    Raises:
        MissingPart: The bindings are not installed.
    """
    title = f"TensorRT for RTX {_bindings().__version__}"
    report = CompileReport(path.name, title, targets)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            built = pool.submit(_compile, path, profile, targets).result()
        except EngineError as error:
            return replace(report, refusal=str(error))
        except BrokenProcessPool:
            return replace(report, refusal=f"{path}: {title} ended its process")
    return replace(report, **built)


def _compile(path: Path, profile: BatchProfile | None, targets: tuple[str, ...]) -> dict[str, Any]:
    api = _bindings()

    def choose_targets(config: Any) -> None:
        config.num_compute_capabilities = len(targets)
        for index, name in enumerate(targets):
            config.set_compute_capability(getattr(api.ComputeCapability, name), index)

    built = build_engine(api, path, profile, choose_targets)
    return {
        "seconds": built.seconds,
        "engine_bytes": len(built.plan),
        "warnings": built.warnings,
    }


def _bindings() -> ModuleType:
    try:
        return importlib.import_module("tensorrt_rtx_bindings")
    except ImportError as error:
        raise MissingPart(
            "expected tensorrt-rtx-cu13-bindings and tensorrt-rtx-cu13-libs (Linux only): "
            "pip install 'hounsfield[export]'"
        ) from error
