"""TensorRT on the GPU of this machine: typed ONNX ─▶ model.plan (cached by its key) ─▶ run."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.engines.plan_key import (
    HardwareCompatibility,
    Machine,
    PlanKey,
    PlanOptions,
    PlanRecord,
    detect_machine,
    require_plan_fits,
)
from export.engines.running import Heads
from export.engines.tensorrt_build import BatchProfile, build_engine
from export.errors import EngineError, MissingPart
from export.stages import file_sha256

__all__ = ("BuiltPlan", "TensorRtEngine", "build_plan", "this_machine")

_PLAN = "model.plan"


@dataclass(frozen=True)
class BuiltPlan:
    """A plan in its place.

    Attributes:
        path: model.plan; model.plan.json lies beside it.
        record: What it was built for.
        seconds: How long the build took; 0 where it came from the cache.
    """

    path: Path
    record: PlanRecord
    seconds: float


def this_machine() -> Machine:
    """GPU and TensorRT of this machine.

    Raises:
        MissingPart: No TensorRT or no GPU.
    """
    return detect_machine(_tensorrt().__version__)


def build_plan(
    source: Path,
    out: Path,
    options: PlanOptions,
    cache: Path,
    machine: Machine,
    *,
    api: ModuleType | None = None,
) -> BuiltPlan:
    """Builds a plan, or takes it from the cache where the same was built before.

    Args:
        source: Strongly typed ONNX file.
        out: Where model.plan goes; its record goes beside it.
        options: What is asked of the builder.
        cache: Folder of plans by key, and of the kernels' timings.
        machine: Where it is built, see ``this_machine``.
        api: The module ``tensorrt``; None imports it.

    Raises:
        MissingPart: TensorRT is not installed.
        EngineError: The graph is refused or the build fails.
    """
    key = PlanKey(file_sha256(source), machine, options)
    kept = cache / key.sha256 / _PLAN
    seconds = 0.0
    if not _is_whole(kept, machine):
        seconds = _build_into(kept, source, key, cache, api or _tensorrt())
    _replace(out, kept.read_bytes())
    record = PlanRecord(key, file_sha256(out))
    record.write(out)
    return BuiltPlan(out, record, seconds)


def _is_whole(kept: Path, machine: Machine) -> bool:
    if not kept.exists():
        return False
    try:
        require_plan_fits(kept, machine)
    except EngineError:
        return False
    return True


def _build_into(kept: Path, source: Path, key: PlanKey, cache: Path, api: ModuleType) -> float:
    timings = cache / f"{_slug(key.machine)}.timings"
    held: list[Any] = []

    def configure(config: Any) -> None:
        _configure(api, config, key.options)
        known = config.create_timing_cache(timings.read_bytes() if timings.exists() else b"")
        if known is None or not config.set_timing_cache(known, ignore_mismatch=False):
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
        held.extend((config, known))

    profile = BatchProfile(key.options.batch, key.options.canvas)
    built = build_engine(api, source, profile, configure)
    kept.parent.mkdir(parents=True, exist_ok=True)
    _replace(timings, bytes(held[0].get_timing_cache().serialize()))
    _replace(kept, built.plan)
    PlanRecord(key, file_sha256(kept)).write(kept)
    return built.seconds


def _configure(api: ModuleType, config: Any, options: PlanOptions) -> None:
    config.builder_optimization_level = options.optimisation_level
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.version_compatible:
        config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware is not HardwareCompatibility.NONE:
        level = getattr(api.HardwareCompatibilityLevel, options.hardware.upper(), None)
        if level is None:
            raise EngineError(
                f"TensorRT {api.__version__} has no hardware compatibility {options.hardware}; "
                "take none or ampere_plus"
            )
        config.hardware_compatibility_level = level


class TensorRtEngine:
    """A plan on this machine's GPU; its buffers are torch tensors.

    Args:
        plan: model.plan with its record.
        machine: Where it runs, see ``this_machine``.

    Raises:
        MissingPart: No TensorRT, or a torch without CUDA.
        EngineError: The plan was built for another machine, or TensorRT does not take it.
    """

    def __init__(self, plan: Path, machine: Machine) -> None:
        self.name = "tensorrt"
        record = require_plan_fits(plan, machine)
        self._torch, api = _torch_with_cuda(), _tensorrt()
        runtime = api.Runtime(api.Logger(api.Logger.ERROR))
        # Such a plan brings its own runtime as code; its hash has just been checked.
        runtime.engine_host_code_allowed = record.key.options.version_compatible
        engine = runtime.deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise EngineError(f"{plan}: TensorRT {api.__version__} does not take it")
        self._plan, self._largest = plan, record.key.options.batch[2]
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        modes = {name: engine.get_tensor_mode(name) for name in names}
        (self._input,) = (n for n in names if modes[n] == api.TensorIOMode.INPUT)
        self._outputs = {
            name: np.dtype(api.nptype(engine.get_tensor_dtype(name)))
            for name in names
            if modes[name] == api.TensorIOMode.OUTPUT
        }
        self._engine, self._context = engine, engine.create_execution_context()

    def run(self, images: NDArray[np.float32]) -> Heads:
        """See ``running.Engine.run``."""
        starts = range(0, len(images), self._largest)
        parts = [self._run_batch(images[start : start + self._largest]) for start in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}

    def _run_batch(self, images: NDArray[np.float32]) -> Heads:
        torch, context = self._torch, self._context
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            source = torch.from_numpy(np.ascontiguousarray(images)).cuda()
            if not context.set_input_shape(self._input, tuple(images.shape)):
                raise EngineError(f"{self._plan}: its profile has no room for {images.shape}")
            context.set_tensor_address(self._input, source.data_ptr())
            answers = {}
            for name, dtype in self._outputs.items():
                shape = tuple(context.get_tensor_shape(name))
                answers[name] = torch.empty(shape, dtype=getattr(torch, dtype.name), device="cuda")
                context.set_tensor_address(name, answers[name].data_ptr())
            if not context.execute_async_v3(stream.cuda_stream):
                raise EngineError(f"{self._plan}: TensorRT failed on {images.shape}")
        stream.synchronize()
        return {name: answer.cpu().numpy() for name, answer in answers.items()}


def _tensorrt() -> ModuleType:
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        raise MissingPart(
            "expected the package tensorrt, in the version of the Triton container that serves "
            "the plan (docs/export-gpu.md says how to find it): on the machine with the GPU, "
            "pip install tensorrt-cu12==VERSION"
        ) from error


def _torch_with_cuda() -> ModuleType:
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise MissingPart(
            f"expected a torch that sees the GPU, got {torch.__version__} without one; install "
            "the CUDA build of the same version"
        )
    return torch


def _slug(machine: Machine) -> str:
    """A file name for what holds on one kind of machine only."""
    text = f"{machine.gpu}-{machine.compute_capability}-{machine.tensorrt}"
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text)


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}")
    scratch.write_bytes(content)
    scratch.replace(path)
