"""How fast engines are by themselves: the figure against which the service is measured.

targets ─▶ one fresh process each ─▶ rounds: every batch size, every engine in turn ─▶ BenchReport

Engines take turns, so that what else the machine does hits them alike; each has its own process,
so that memory and CPU time are its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from export.benchmark.process import EngineProcess
from export.benchmark.records import SCHEMA, BatchBench, BenchReport, EngineBench, Skipped
from export.errors import EngineError
from export.parity.facts import machine_facts, version_facts
from export.recipe import CpuPrecision

__all__ = ("BenchOptions", "BenchTarget", "TargetKind", "run_benchmark")

ROUNDS = 5


class TargetKind(StrEnum):
    """What runs the network."""

    TORCH = "torch"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"


@dataclass(frozen=True)
class BenchTarget:
    """One engine to measure.

    Attributes:
        name: For people.
        kind: What runs it.
        path: model.onnx, model.xml or model.plan; MODEL.yaml for torch.
        precision: What OpenVINO computes in.
        model: model.yaml of the repository, for torch.
    """

    name: str
    kind: TargetKind
    path: Path
    precision: CpuPrecision = CpuPrecision.F32
    model: Path | None = None


@dataclass(frozen=True)
class BenchOptions:
    """How it is measured.

    Attributes:
        seconds: About how long the measuring may take; loading and one full round are always done.
        batches: Batch sizes, ascending.
        threads: CPU threads of each engine; 0 leaves the choice to it.
    """

    seconds: float = 60.0
    batches: tuple[int, ...] = (1, 2, 4, 8, 16)
    threads: int = 0

    def __post_init__(self) -> None:
        ordered = self.batches == tuple(sorted(set(self.batches)))
        if not (self.batches and self.batches[0] == 1 and ordered and self.seconds > 0):
            raise EngineError(
                f"bench: expected some seconds and batch sizes that begin with 1 and grow, got "
                f"{self.seconds:g} s and {self.batches}"
            )


@dataclass
class _Samples:
    """What came back for one engine, by batch size."""

    load_s: float
    imports_bytes: int
    times_s: dict[int, list[list[float]]] = field(default_factory=dict)
    cpu_s: dict[int, list[float]] = field(default_factory=dict)
    peak_bytes: dict[int, int] = field(default_factory=dict)
    process_threads: int = 0

    def add(self, batch: int, answer: Mapping[str, Any]) -> None:
        times = answer["times_s"]
        self.times_s.setdefault(batch, []).append(times)
        self.cpu_s.setdefault(batch, []).append(answer["cpu_s"] / (len(times) * batch))
        self.peak_bytes.setdefault(batch, answer["peak_bytes"])
        self.process_threads = answer["process_threads"]


def run_benchmark(
    targets: Sequence[BenchTarget],
    *,
    model: str,
    shape: tuple[int, ...],
    options: BenchOptions | None = None,
    facts: Mapping[str, str] | None = None,
    advance: Callable[[str], None] = lambda name: None,
) -> BenchReport:
    """Measures engines.

    Args:
        targets: What to measure, each with a name of its own.
        model: Name of the model.
        shape: Channels and canvas of an image.
        options: How; None means the defaults.
        facts: What else belongs into the report, beside the machine and the versions.
        advance: Called with an engine's name when it was loaded, and after each of its turns.

    Raises:
        EngineError: No engine could run.
    """
    options = options or BenchOptions()
    started, busy = time.perf_counter(), _busy_s()
    skipped: list[Skipped] = []
    samples: dict[str, _Samples] = {}
    with ExitStack() as stack:
        children: dict[str, EngineProcess] = {}
        for target in targets:
            child = stack.enter_context(EngineProcess(target.name))
            try:
                ready = child.ask(_order(target, shape, options.threads))
            except EngineError as error:
                skipped.append(Skipped(target.name, str(error)))
                continue
            children[target.name] = child
            samples[target.name] = _Samples(ready["load_s"], ready["imports_bytes"])
            advance(target.name)
        rounds = _take_turns(children, samples, options, skipped, advance)
        own = sum(child.cpu_s() for child in children.values())
    if not samples:
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in skipped)
        raise EngineError(f"{model}: no engine could run: {reasons or 'none was named'}")
    duration = time.perf_counter() - started
    others = (_busy_s() - busy - own) / (duration * (psutil.cpu_count() or 1))
    return BenchReport(
        schema=SCHEMA,
        model=model,
        shape=shape,
        rounds=rounds,
        duration_s=round(duration, 2),
        others_share=round(max(0.0, others), 3),
        engines=tuple(_summarise(name, one, options) for name, one in samples.items()),
        skipped=tuple(skipped),
        facts={**machine_facts(), **version_facts(), **(facts or {})},
    )


def _order(target: BenchTarget, shape: tuple[int, ...], threads: int) -> dict[str, Any]:
    return {
        "kind": str(target.kind),
        "path": str(target.path),
        "precision": str(target.precision),
        "model": str(target.model or ""),
        "shape": shape,
        "threads": threads,
    }


def _take_turns(
    children: dict[str, EngineProcess],
    samples: dict[str, _Samples],
    options: BenchOptions,
    skipped: list[Skipped],
    advance: Callable[[str], None],
) -> int:
    """As many complete rounds as the time allows, at least one; what breaks is left out."""
    turns = ROUNDS * len(options.batches) * max(1, len(children))
    order = {"seconds": options.seconds / turns}
    begin = time.perf_counter()
    rounds = 0
    while children and rounds < ROUNDS:
        for batch, name in product(options.batches, [*children]):
            if name not in children:
                continue
            try:
                samples[name].add(batch, children[name].ask({"batch": batch, **order}))
            except EngineError as error:
                skipped.append(Skipped(name, str(error)))
                del children[name], samples[name]
            advance(name)
        rounds += 1
        spent = time.perf_counter() - begin
        if spent * (rounds + 1) / rounds > options.seconds:
            break
    return rounds


def _summarise(name: str, samples: _Samples, options: BenchOptions) -> EngineBench:
    single = [one for times in samples.times_s[options.batches[0]] for one in times]
    return EngineBench(
        name=name,
        threads=options.threads,
        process_threads=samples.process_threads,
        load_s=samples.load_s,
        imports_bytes=samples.imports_bytes,
        latency_p50_s=float(np.percentile(single, 50)),
        latency_p99_s=float(np.percentile(single, 99)),
        batches=tuple(_summarise_batch(batch, samples) for batch in options.batches),
    )


def _summarise_batch(batch: int, samples: _Samples) -> BatchBench:
    rounds = samples.times_s[batch]
    return BatchBench(
        batch=batch,
        images_per_s=median(batch * len(times) / sum(times) for times in rounds),
        best_images_per_s=batch / min(min(times) for times in rounds),
        cpu_s_per_image=median(samples.cpu_s[batch]),
        calls=sum(map(len, rounds)),
        peak_bytes=samples.peak_bytes[batch],
    )


def _busy_s() -> float:
    """CPU seconds that all processes of the machine have used."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))
