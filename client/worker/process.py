"""The worker as a process of its own: settings in, work until SIGTERM.

python -m client.worker [--ready-file FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from client.crypto.keydirectory import KeyDirectory
from client.crypto.keyring import Keyring
from client.crypto.kms import open_key_manager
from client.discretion import be_discreet
from client.errors import ConfigurationError
from client.jobqueue.streams import StreamsQueue
from client.ledger.ledger import Ledger
from client.limits import BundleLimits, ReadLimits, StudyLimits
from client.objectstore.stores import open_store
from client.settings import Settings, load_settings
from client.telemetry.exposition import make_registry, shown
from client.telemetry.health import serve_health
from client.telemetry.logs import begin_logs
from client.telemetry.metrics import WorkerMetrics
from client.telemetry.tracestart import tracing
from client.triton.inference import Segmenter, TritonModel, TritonModelSettings
from client.triton.slots import Slots
from client.vault.vault import Vault
from client.worker.isolation import Assistants, Isolation, preload
from client.worker.load import LoadSettings
from client.worker.loop import WorkerLoop, WorkerSettings
from client.worker.readiness import Readiness
from client.worker.study import StudyPipeline
from client.worker.writing import prepare_writing
from preprocess.spec import SpecError, find_model_specs

__all__ = ("main", "run_worker")

_MIB = 1 << 20


async def run_worker(
    settings: Settings, stop: asyncio.Event, ready: Callable[[], None] = lambda: None
) -> None:
    """Connect to everything and work until ``stop`` is set.

    Args:
        settings: Where everything is.
        stop: Set it to end.
        ready: Called once work is about to be taken.

    Raises:
        ConfigurationError: A setting or a model description is wrong.
    """
    owner = f"{socket.gethostname()}-{os.getpid()}"
    store = open_store(settings.store_url)
    keys = KeyDirectory(Path(settings.keys))
    registry = make_registry()
    metrics = WorkerMetrics(registry)
    async with contextlib.AsyncExitStack() as owned:
        await owned.enter_async_context(shown(registry, settings.metrics_listen))
        ledger = await owned.enter_async_context(
            Ledger(settings.ledger_url, keys.audit_key(), max_attempts=settings.max_attempts)
        )
        queue = await owned.enter_async_context(StreamsQueue(settings.queue_url, owner))
        segmenters: dict[str, Segmenter] = {}
        for model in _models(settings, metrics):
            segmenters[model.spec.name] = await owned.enter_async_context(model)
        vault = await owned.enter_async_context(
            Vault(settings.vault_url, open_key_manager(settings.kek, keys.kek))
        )
        limits = (settings.read_timeout_s, settings.read_memory_mib * _MIB)
        load = LoadSettings(max_bytes=settings.memory_mib * _MIB)
        writers = Assistants(*limits)
        owned.callback(writers.close)
        # One for every routine study that may be written, and one for which STAT need not wait.
        ready_writers = load.cpu_places + 1
        await asyncio.gather(*(writers.run((), prepare_writing) for _ in range(ready_writers)))
        pipeline = StudyPipeline(
            store,
            vault,
            Keyring(keys.worker_keys),
            segmenters,
            readers=Isolation(*limits),
            writers=writers,
            limits=_limits(settings),
            load=load,
        )
        loop = WorkerLoop(
            WorkerSettings(owner, settings.studies_in_flight, settings.lease_s, settings.drain_s),
            queue,
            ledger,
            store,
            pipeline,
            metrics=metrics,
        )
        readiness = Readiness(pipeline, ledger.ping, queue, Path(settings.model_repository))
        await owned.enter_async_context(serve_health(settings.health_listen, readiness.check))
        ready()
        await loop.run(stop)


def _models(settings: Settings, metrics: WorkerMetrics) -> list[TritonModel]:
    repository = Path(settings.model_repository)
    try:
        specs = find_model_specs(repository)
    except SpecError as error:
        raise ConfigurationError(str(error)) from error
    call = TritonModelSettings(settings.triton_url, worker_key=settings.triton_worker_key)
    slots = Slots(settings.slices_in_flight)
    metrics.follow_slots(lambda: slots.taken, lambda: slots.target)
    return [TritonModel(spec, call, repository, slots, metrics) for spec in specs]


def _limits(settings: Settings) -> StudyLimits:
    size = settings.max_study_mib * _MIB
    return StudyLimits(
        bundle=BundleLimits(max_file_bytes=size, max_bytes=size),
        read=ReadLimits(max_file_bytes=min(size, ReadLimits().max_file_bytes)),
    )


async def _serve(ready: Callable[[], None]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings = load_settings()
    begin_logs(settings)
    with tracing(settings, "worker"):
        await run_worker(settings, stop, ready)


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ready-file", type=Path, help="Exists while this worker takes work.")
    ready_file: Path | None = parser.parse_args().ready_file
    if ready_file is not None:
        ready_file.unlink(missing_ok=True)
    be_discreet()
    preload(["client.worker.forerunner"])
    asyncio.run(_serve(ready_file.touch if ready_file else lambda: None))
