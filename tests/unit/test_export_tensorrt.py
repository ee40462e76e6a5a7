"""TensorRT's compiler on the CPU, and the plans that belong to one machine."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from export.engines import rtx_check, tensorrt_plan
from export.engines.plan_key import (
    HardwareCompatibility,
    Machine,
    PlanKey,
    PlanOptions,
    PlanRecord,
    check_plans,
    detect_machine,
    require_plan_fits,
)
from export.engines.quantised_onnx import to_qdq
from export.engines.rtx_check import compile_check, targets_of
from export.engines.tensorrt_build import BatchProfile
from export.engines.tensorrt_plan import TensorRtEngine, build_plan
from export.engines.typed import to_half
from export.errors import EngineError, MissingPart
from export.recipe import GpuPrecision
from export.stages import file_sha256
from tests.networks import write_network

pytestmark = pytest.mark.unit

SIDE = 64
BATCHES = BatchProfile((1, 8, 32))
# The bindings without a GPU stand in for TensorRT's; their timing cache does nothing.
WITHOUT_TIMINGS = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX 1.2. Timing")
H200 = Machine("NVIDIA H200", "9.0", "10.5.0")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tensorrt") / "model.onnx"
    write_network(path, SIDE)
    return path


def typed(network: Path, precision: GpuPrecision, folder: Path) -> Path:
    out = folder / f"{precision}.onnx"
    if precision is GpuPrecision.FP32:
        return network
    if precision is GpuPrecision.INT8:
        slices = np.random.default_rng(0).normal(size=(4, 1, SIDE, SIDE)).astype(np.float32)
        to_qdq(network, out, slices)
    else:
        to_half(network, out, precision)
    return out


@pytest.mark.parametrize("precision", GpuPrecision)
def test_every_precision_compiles(network: Path, tmp_path: Path, precision: GpuPrecision) -> None:
    path = typed(network, precision, tmp_path)
    report = compile_check(path, BATCHES, targets_of(precision))
    report.require_accepted()
    assert report.file == path.name
    assert report.engine_bytes > 10_000
    assert 0 < report.seconds < 120
    assert report.compiler.startswith("TensorRT for RTX 1.")
    assert ("SM75" in report.targets) == (precision is not GpuPrecision.BF16)


@pytest.mark.parametrize(("domain", "kind"), [("org.example", "Swirl"), ("", "Det")])
def test_an_unknown_operation_is_named(
    network: Path, tmp_path: Path, domain: str, kind: str
) -> None:
    model = onnx.load(network)
    model.graph.node[1].CopyFrom(
        helper.make_node(kind, ["c1"], ["r1"], name="odd_one", domain=domain)
    )
    model.opset_import.append(helper.make_opsetid("org.example", 1))
    path = tmp_path / "odd.onnx"
    onnx.save(model, path)
    report = compile_check(path, BATCHES, ("SM86",))
    with pytest.raises(EngineError, match=rf"odd\.onnx.*'odd_one'.*{kind} of domain"):
        report.require_accepted()
    assert (domain or "ai.onnx") in report.refusal
    assert report.engine_bytes == 0


def test_a_missing_profile_is_refused(network: Path) -> None:
    report = compile_check(network, None, ("SM86",))
    assert "no optimization profile" in report.refusal


def test_a_profile_of_another_canvas_is_refused(network: Path) -> None:
    report = compile_check(network, BatchProfile((1, 1, 1), (32, 32)), ("SM86",))
    assert "input 'image': expected a canvas that fits [64, 64], got (32, 32)" in report.refusal


@pytest.mark.parametrize("content", [None, b"no network"])
def test_a_broken_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    report = compile_check(path, BATCHES, ("SM86",))
    assert str(path) in report.refusal


def test_open_axes_take_the_canvas_of_the_profile() -> None:
    shapes = BatchProfile((1, 4, 8), (96, 80)).shapes((-1, 2, -1, -1))
    assert shapes == [(1, 2, 96, 80), (4, 2, 96, 80), (8, 2, 96, 80)]
    with pytest.raises(ValueError, match="expected a canvas"):
        BatchProfile((1, 4, 8)).shapes((-1, 2, -1, -1))


def test_what_is_not_installed_is_said(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(MissingPart, match=r"tensorrt, in the version of the Triton container"):
        tensorrt_plan.this_machine()
    with pytest.raises(MissingPart, match="tensorrt-rtx-cu13-bindings"):
        rtx_check.compile_check(network, BATCHES, ("SM86",))


def test_the_driver_is_asked_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(text: str) -> None:
        done = subprocess.CompletedProcess([], 0, stdout=text)
        monkeypatch.setattr("subprocess.run", lambda *_, **__: done)

    answer("NVIDIA H200, 9.0\nNVIDIA H200, 9.0\n")
    assert detect_machine("10.5.0") == H200
    answer("NVIDIA H200, 9.0\nNVIDIA L4, 8.9\n")
    with pytest.raises(EngineError, match="GPUs of one kind"):
        detect_machine("10.5.0")


def test_a_machine_without_driver_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingPart, match="nvidia-smi"):
        detect_machine("10.5.0")


def plan_for(folder: Path, options: PlanOptions | None = None, machine: Machine = H200) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / "model.plan"
    plan.write_bytes(b"kernels of " + machine.gpu.encode())
    key = PlanKey("0" * 64, machine, options or PlanOptions())
    PlanRecord(key, file_sha256(plan)).write(plan)
    return plan


def test_a_plan_fits_where_it_was_built(tmp_path: Path) -> None:
    record = require_plan_fits(plan_for(tmp_path), H200)
    assert record.key.machine == H200


@pytest.mark.parametrize(
    ("here", "reasons"),
    [
        (replace(H200, gpu="NVIDIA H100"), ["expected GPU 'NVIDIA H200', got 'NVIDIA H100'"]),
        (
            Machine("NVIDIA L4", "8.9", "10.5.0"),
            ["expected compute capability 9.0, got 8.9", "expected GPU 'NVIDIA H200'"],
        ),
        (replace(H200, tensorrt="10.7.0"), ["expected TensorRT 10.5.0, got 10.7.0"]),
        (replace(H200, tensorrt="10.3.0"), ["expected TensorRT 10.5.0, got 10.3.0"]),
    ],
)
def test_a_plan_is_refused_elsewhere(tmp_path: Path, here: Machine, reasons: list[str]) -> None:
    plan = plan_for(tmp_path)
    with pytest.raises(EngineError, match="build it again on this machine") as refusal:
        require_plan_fits(plan, here)
    assert str(plan) in str(refusal.value)
    assert all(reason in str(refusal.value) for reason in reasons)


ANY_VERSION = PlanOptions(version_compatible=True)
SAME = PlanOptions(hardware=HardwareCompatibility.SAME_COMPUTE_CAPABILITY)
AMPERE = PlanOptions(hardware=HardwareCompatibility.AMPERE_PLUS)


@pytest.mark.parametrize(
    ("options", "here", "fits"),
    [
        (ANY_VERSION, replace(H200, tensorrt="10.14.1"), True),
        (ANY_VERSION, replace(H200, tensorrt="11.1.0"), True),
        (ANY_VERSION, replace(H200, tensorrt="12.0.0"), False),
        (ANY_VERSION, replace(H200, tensorrt="10.3.0"), False),
        (ANY_VERSION, replace(H200, gpu="NVIDIA H100"), False),
        (SAME, replace(H200, gpu="NVIDIA H100"), True),
        (SAME, Machine("NVIDIA L4", "8.9", "10.5.0"), False),
        (AMPERE, Machine("NVIDIA A100", "8.0", "10.5.0"), True),
        (AMPERE, Machine("NVIDIA RTX 5090", "12.0", "10.5.0"), True),
        (AMPERE, Machine("Tesla T4", "7.5", "10.5.0"), False),
        (AMPERE, replace(H200, tensorrt="10.7.0"), False),
    ],
)
def test_compatibility_relaxes_what_it_names(
    tmp_path: Path, options: PlanOptions, here: Machine, fits: bool
) -> None:
    plan = plan_for(tmp_path, options)
    if fits:
        require_plan_fits(plan, here)
    else:
        with pytest.raises(EngineError, match="expected"):
            require_plan_fits(plan, here)


def test_a_changed_plan_is_refused(tmp_path: Path) -> None:
    plan = plan_for(tmp_path)
    plan.write_bytes(plan.read_bytes() + b"!")
    with pytest.raises(EngineError, match="it was changed or copied in part"):
        require_plan_fits(plan, H200)


@pytest.mark.parametrize("record", [None, "{", "[]", '{"key": {}}'])
def test_a_plan_without_its_record_is_refused(tmp_path: Path, record: str | None) -> None:
    plan = plan_for(tmp_path)
    path = tmp_path / "model.plan.json"
    path.unlink()
    if record is not None:
        path.write_text(record, encoding="utf-8")
    with pytest.raises(EngineError, match=r"model\.plan\.json: expected the record"):
        require_plan_fits(plan, H200)


def test_every_plan_of_a_repository_is_checked(tmp_path: Path) -> None:
    fits = plan_for(tmp_path / "a_net" / "1")
    other = plan_for(tmp_path / "b_net" / "3", machine=Machine("NVIDIA L4", "8.9", "10.5.0"))
    changed = plan_for(tmp_path / "c_net" / "1")
    changed.write_bytes(b"")
    with pytest.raises(EngineError) as refusal:
        check_plans(tmp_path, H200)
    lines = str(refusal.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [str(other), str(changed)]
    assert check_plans(tmp_path / "none", H200) == ()
    other.unlink()
    changed.unlink()
    assert check_plans(tmp_path, H200) == (fits,)


def test_another_machine_s_plan_is_refused_before_tensorrt_is_needed(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="expected GPU"):
        TensorRtEngine(plan_for(tmp_path), replace(H200, gpu="NVIDIA H100"))


@WITHOUT_TIMINGS
def test_plans_are_built_once_for_each_key(network: Path, tmp_path: Path) -> None:
    api = pytest.importorskip("tensorrt_rtx_bindings")
    cache, out = tmp_path / "cache", tmp_path / "model.plan"

    def build(options: PlanOptions, machine: Machine = H200) -> float:
        built = build_plan(network, out, options, cache, machine, api=api)
        assert require_plan_fits(out, machine) == built.record
        return built.seconds

    tuned = PlanOptions(optimisation_level=1, workspace_bytes=1 << 28)
    assert build(PlanOptions()) > 0
    assert build(PlanOptions()) == 0
    assert build(tuned) > 0
    assert build(AMPERE, replace(H200, gpu="NVIDIA H100")) > 0
    assert build(tuned) == 0
    assert len(list(cache.glob("*/model.plan"))) == 3
    assert {path.name for path in cache.glob("*.timings")} == {
        "NVIDIA-H200-9.0-10.5.0.timings",
        "NVIDIA-H100-9.0-10.5.0.timings",
    }
    content = json.loads((tmp_path / "model.plan.json").read_text())
    assert content["key"]["onnx_sha256"] == file_sha256(network)


@WITHOUT_TIMINGS
def test_a_damaged_cache_is_built_again(network: Path, tmp_path: Path) -> None:
    api = pytest.importorskip("tensorrt_rtx_bindings")
    cache, out = tmp_path / "cache", tmp_path / "model.plan"
    build_plan(network, out, PlanOptions(), cache, H200, api=api)
    (kept,) = cache.glob("*/model.plan")
    kept.write_bytes(b"half a pl")
    built = build_plan(network, out, PlanOptions(), cache, H200, api=api)
    assert built.seconds > 0
    assert out.stat().st_size > 10_000


def test_a_level_this_tensorrt_lacks_is_refused(network: Path, tmp_path: Path) -> None:
    api = pytest.importorskip("tensorrt_rtx_bindings")

    class Older:
        """TensorRT before it had the level."""

        class HardwareCompatibilityLevel:
            NONE = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(api, name)

    older: Any = Older()
    older.__name__ = "tensorrt"
    with pytest.raises(EngineError, match="has no hardware compatibility same_compute"):
        build_plan(network, tmp_path / "model.plan", SAME, tmp_path, H200, api=older)
