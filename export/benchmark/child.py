"""One engine in a process of its own: targets and batches come in as JSON lines, figures go out.

    python -m export.benchmark.child

stdin: target ─▶ {"batch", "seconds"} ... ─▶ stdout: ready ─▶ times, CPU time, memory
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import psutil
from numpy.typing import NDArray

from export.errors import ExportError

__all__ = ("main", "open_engine", "peak_bytes")

LARGEST_BATCH = 64


def main() -> None:
    """Serves the parent until it closes the pipe."""
    answers = _own_stdout()
    first = sys.stdin.readline()
    if not first:
        return
    target = json.loads(first)
    imported = _import_libraries(target["kind"])
    start = time.perf_counter()
    try:
        engine = open_engine(target)
        images = _images(target["shape"], 1)
        engine.run(images)
    except ExportError as error:
        _answer(answers, {"error": str(error)})
        return
    _answer(answers, {"load_s": time.perf_counter() - start, "imports_bytes": imported})
    warm: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            measured = _measure(engine, target["shape"], order["batch"], order["seconds"], warm)
        except ExportError as error:
            _answer(answers, {"error": str(error)})
            return
        _answer(answers, measured)


def open_engine(target: dict[str, Any]) -> Any:
    """Opens what a target names, see ``export.benchmark.measuring.BenchTarget``.

    Raises:
        ExportError: It cannot be opened on this machine.
    """
    path, threads = Path(target["path"]), int(target["threads"])
    match target["kind"]:
        case "torch":
            return _open_torch(path, Path(target["model"]), threads)
        case "onnxruntime":
            from export.engines.running import OnnxRuntimeEngine

            return OnnxRuntimeEngine(path, threads, scores=False, batch=LARGEST_BATCH)
        case "openvino":
            from export.engines.running import OpenVinoEngine
            from export.recipe import CpuPrecision

            precision = CpuPrecision(target["precision"])
            return OpenVinoEngine(path, precision, threads, scores=False)
        case "tensorrt":
            from export.engines.tensorrt_plan import TensorRtEngine, this_machine

            return TensorRtEngine(path, this_machine())
        case other:
            raise ExportError(f"expected torch, onnxruntime, openvino or tensorrt, got {other!r}")


def peak_bytes() -> int:
    """Largest resident set so far.

    On Linux from VmHWM: ``ru_maxrss`` would begin with that of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _own_stdout() -> TextIO:
    """The pipe to the parent; what libraries print goes to stderr instead."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    return pipe


def _import_libraries(kind: str) -> int:
    """Imports what the engine needs, so that memory can be told from the engine's own."""
    if kind == "torch":
        import torch  # noqa: F401
    else:
        import export.engines.running  # noqa: F401
    return int(psutil.Process().memory_info().rss)


def _open_torch(path: Path, model: Path, threads: int) -> Any:
    import torch

    from export.graph.eager import EagerNetwork
    from export.recipe import load_recipe
    from export.sources.opening import open_source
    from preprocess.spec import load_model_spec

    if threads:
        torch.set_num_threads(threads)
    recipe = load_recipe(path)
    return EagerNetwork(open_source(recipe), load_model_spec(model), recipe.export.graph)


def _measure(
    engine: Any, shape: list[int], batch: int, seconds: float, warm: set[int]
) -> dict[str, Any]:
    images = _images(shape, batch)
    if batch not in warm:
        engine.run(images)
        warm.add(batch)
    times: list[float] = []
    cpu, begin = time.process_time(), time.perf_counter()
    while not times or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        engine.run(images)
        times.append(time.perf_counter() - start)
    return {
        "times_s": times,
        "cpu_s": time.process_time() - cpu,
        "peak_bytes": peak_bytes(),
        "process_threads": psutil.Process().num_threads(),
    }


def _images(shape: list[int], batch: int) -> NDArray[np.float32]:
    """Noise: how long a convolution takes does not depend on what it sees."""
    return np.random.default_rng(0).standard_normal((batch, *shape), dtype=np.float32)


def _answer(pipe: TextIO, content: dict[str, Any]) -> None:
    pipe.write(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
