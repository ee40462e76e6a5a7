"""Reports of the benchmark whose every figure is known beforehand."""

from __future__ import annotations

from loadtest.loads import ENSEMBLE, RAW, SCRIPT, WHOLE, Load, order
from loadtest.report import (
    SCHEMA,
    Agreement,
    Engine,
    Large,
    Machine,
    Measurement,
    Memory,
    Report,
    Round,
    Tier,
    Urgent,
    Workload,
    spans,
)

__all__ = ("COST", "MACHINE", "SPEED", "make_report", "make_round")

COST = {RAW: 1.0, ENSEMBLE: 1.25, WHOLE: 2.0, SCRIPT: 8.0, "fastapi": 1.5, "mosec": 1.4}
"""CPU and wall time of a slice, as multiples of the raw engine's."""

SPEED = {"f32": 1.0, "bf16": 2.0, "int8": 4.0}
"""How much faster than float32 a precision is."""

LOADS = order(("f32", "bf16", "int8"), ("fastapi", "mosec"), script=True)
MACHINE = Machine("A CPU", 2, 8.0, "Linux 6", ("Python 3.11.7", "triton 2.51"))


def make_round(slow: float, loads: tuple[Load, ...] = LOADS, *, studies: bool = True) -> Round:
    """Every way costs its share of COST; ``slow`` is how slow the machine is in this round."""
    measurements = []
    for load in loads:
        slice_s = 0.02 * COST[load.way] * slow / SPEED[load.precision]
        stages = {"read": 0.5 * slow, "segment": 2.0 * slow} if load.unit == "study" else {}
        measurements.append(
            Measurement(
                way=load.way,
                precision=load.precision,
                in_flight=load.in_flight,
                slices=100,
                wall_s=50 * slice_s,
                latency_p50_s=slice_s * (100 if load.unit == "study" else 1),
                latency_p99_s=2 * slice_s,
                units=100,
                cpu_s=spans({"client": 25 * slice_s, "worker": 75 * slice_s}),
                others_cpu_s=0.0,
                memory=(Memory("client", 100.0), Memory("worker", 50.0), Memory("all", 140.0)),
                stages_s=spans(stages),
            )
        )
    if not studies:
        return Round((1.0, 0.5, 0.25), tuple(measurements))
    steps = ("decrypt", "read", "plan", "restore", "islands", "measure", "SEG", "encrypt", "store")
    return Round(
        (1.0, 0.5, 0.25),
        tuple(measurements),
        tier=Tier(324, spans(dict.fromkeys(steps, 0.0324 * slow))),
        large=Large(
            slices=324,
            study_bytes=100 << 20,
            precision="f32",
            raw_s=10 * slow,
            whole_s=10 * slow + 1.5,
            cpu_s=spans({"gateway": 0.324 * slow, "worker": 0.648 * slow}),
            stages_s=spans({"read": 1.0, "segment": 10.0}),
            worker_idle_mib=200.0,
            worker_peak_mib=350.0,
        ),
        urgent=Urgent(8, "f32", (0.5 * slow, 0.6 * slow), (0.7 * slow, 0.75 * slow), 5),
    )


def make_report(*slow: float, loads: tuple[Load, ...] = LOADS, studies: bool = True) -> Report:
    """One round for each number."""
    engines = tuple(
        Engine(precision, f"OpenVINO {precision}", "ab" * 32, precision != "bf16")
        for precision in dict.fromkeys(load.precision for load in loads)
    )
    return Report(
        schema=SCHEMA,
        created_at="2026-11-23T03:00:00+00:00",
        command="python -m loadtest.bench",
        duration_s=100.0,
        rounds_wanted=len(slow),
        machine=MACHINE,
        workload=Workload("brain_mr", engines, "colin27_mr", 100, 217, 181, 10),
        loads=loads,
        peers_missing=("ray_serve",),
        gpu="none found",
        agreement=(Agreement(ENSEMBLE, "f32", f"{RAW}, f32", 100, 1.0, 1.0),),
        rounds=tuple(make_round(one, loads, studies=studies) for one in slow),
    )
