"""Whose plan it is: model.plan.json beside model.plan ─▶ fits this machine │ refused.

A TensorRT plan holds kernels that were chosen on one GPU by one version of the library.
"""

from __future__ import annotations

import csv
import json
import subprocess
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from hashlib import sha256
from pathlib import Path

from export.errors import EngineError, MissingPart
from export.stages import file_sha256
from preprocess.errors import SpecError
from preprocess.parsing import build

__all__ = (
    "HardwareCompatibility",
    "Machine",
    "PlanKey",
    "PlanOptions",
    "PlanRecord",
    "check_plans",
    "detect_machine",
    "read_plan_record",
    "require_plan_fits",
)

_QUERY = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
_OLDEST_AMPERE = (8, 0)
# Pairs of major versions between which version-compatible plans move (NVIDIA's support matrix).
_MAJOR_STEPS = {(8, 10), (10, 11)}


class HardwareCompatibility(StrEnum):
    """Which GPUs besides the building one run the plan; the names are TensorRT's."""

    NONE = "none"
    SAME_COMPUTE_CAPABILITY = "same_compute_capability"
    AMPERE_PLUS = "ampere_plus"


@dataclass(frozen=True)
class PlanOptions:
    """What is asked of the builder.

    Attributes:
        batch: Smallest, most frequent and largest batch.
        canvas: Size of the spatial axes where the graph leaves them open.
        version_compatible: Later TensorRT versions run the plan too; Triton must then be started
            with ``--backend-config=tensorrt,version-compatible=true``.
        hardware: Which other GPUs run it.
        optimisation_level: 0 to 5, TensorRT's own default is 3; higher builds longer.
        workspace_bytes: Most scratch memory of a kernel; None leaves all of the GPU's.
    """

    batch: tuple[int, int, int] = (1, 8, 32)
    canvas: tuple[int, ...] | None = None
    version_compatible: bool = False
    hardware: HardwareCompatibility = HardwareCompatibility.NONE
    optimisation_level: int = 3
    workspace_bytes: int | None = None


@dataclass(frozen=True)
class Machine:
    """What decides whether a plan runs.

    Attributes:
        gpu: Name, as nvidia-smi says it.
        compute_capability: As "9.0".
        tensorrt: Version of the library, as "10.5.0".
    """

    gpu: str
    compute_capability: str
    tensorrt: str


@dataclass(frozen=True)
class PlanKey:
    """Everything that a plan depends on."""

    onnx_sha256: str
    machine: Machine
    options: PlanOptions = field(default_factory=PlanOptions)

    @property
    def sha256(self) -> str:
        """Hash of the content; names the plan in the cache."""
        content = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class PlanRecord:
    """model.plan.json: the key, and the hash of the plan's bytes."""

    key: PlanKey
    plan_sha256: str

    def write(self, plan: Path) -> None:
        """Writes the record beside the plan."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True)
        _record_path(plan).write_text(text + "\n", encoding="utf-8")


def read_plan_record(plan: Path) -> PlanRecord:
    """Reads the record beside a plan.

    Raises:
        EngineError: It is missing or unreadable.
    """
    path = _record_path(plan)
    try:
        return build(PlanRecord, json.loads(path.read_text(encoding="utf-8")), path.name)
    except (OSError, ValueError, SpecError) as error:
        raise EngineError(
            f"{path}: expected the record of {plan.name}, which says what it was built for: "
            f"{error}; build the plan again on this machine"
        ) from error


def require_plan_fits(plan: Path, here: Machine) -> PlanRecord:
    """Passes where the plan runs here, without loading it.

    Raises:
        EngineError: The plan is not the recorded one, or it was built for another GPU or another
            TensorRT; says what was expected and what came.
    """
    record = read_plan_record(plan)
    try:
        actual = file_sha256(plan)
    except OSError as error:
        raise EngineError(f"{plan}: expected a plan: {error}") from error
    if actual != record.plan_sha256:
        raise EngineError(
            f"{plan}: expected the bytes with SHA-256 {record.plan_sha256[:12]}..., got "
            f"{actual[:12]}...: it was changed or copied in part; build it again"
        )
    misfits = [*_gpu_misfits(record.key, here), *_version_misfits(record.key, here)]
    if misfits:
        raise EngineError(f"{plan}: {'; '.join(misfits)}; build it again on this machine")
    return record


def check_plans(repository: Path, here: Machine) -> tuple[Path, ...]:
    """Checks every model.plan of a model repository.

    Returns:
        The plans, all of which fit.

    Raises:
        EngineError: One line for each plan that does not fit.
    """
    plans = sorted(repository.glob("*/*/model.plan"))
    refusals = []
    for plan in plans:
        try:
            require_plan_fits(plan, here)
        except EngineError as error:
            refusals.append(str(error))
    if refusals:
        raise EngineError("\n".join(refusals))
    return tuple(plans)


def detect_machine(tensorrt: str) -> Machine:
    """Asks the driver what GPU this machine has.

    Args:
        tensorrt: Version of the TensorRT that will build or run plans.

    Raises:
        MissingPart: No NVIDIA driver.
        EngineError: GPUs of different kinds: which one would be meant is not known.
    """
    try:
        asked = subprocess.run(_QUERY, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingPart(
            "expected a machine with an NVIDIA GPU and its driver (nvidia-smi); TensorRT plans "
            f"are built and run only there: {error}"
        ) from error
    rows = csv.reader(asked.stdout.splitlines(), skipinitialspace=True)
    kinds = sorted({(name, capability) for name, capability in rows})
    if len(kinds) != 1:
        raise EngineError(f"expected GPUs of one kind on this machine, got {kinds or 'none'}")
    return Machine(*kinds[0], tensorrt)


def _gpu_misfits(key: PlanKey, here: Machine) -> list[str]:
    built, level = key.machine, key.options.hardware
    if level is HardwareCompatibility.AMPERE_PLUS:
        if _numbers(here.compute_capability) >= _OLDEST_AMPERE:
            return []
        return [f"expected compute capability 8.0 or later, got {here.compute_capability}"]
    misfits = []
    if here.compute_capability != built.compute_capability:
        misfits.append(
            f"expected compute capability {built.compute_capability}, got {here.compute_capability}"
        )
    if level is HardwareCompatibility.NONE and here.gpu != built.gpu:
        misfits.append(f"expected GPU {built.gpu!r}, got {here.gpu!r}")
    return misfits


def _version_misfits(key: PlanKey, here: Machine) -> list[str]:
    built, now = _numbers(key.machine.tensorrt)[:3], _numbers(here.tensorrt)[:3]
    if built == now:
        return []
    if not key.options.version_compatible:
        return [f"expected TensorRT {key.machine.tensorrt}, got {here.tensorrt}"]
    if now > built and (now[0] == built[0] or (built[0], now[0]) in _MAJOR_STEPS):
        return []
    return [f"expected TensorRT {key.machine.tensorrt} or a later one, got {here.tensorrt}"]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _record_path(plan: Path) -> Path:
    return plan.with_name(f"{plan.name}.json")
