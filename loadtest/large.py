"""One large study by itself: what it takes beyond the network's time, and the worker's memory.

enlarged series ─▶ raw engine, 16 in flight        enlarged series ─▶ whole way, one study
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from loadtest.accounting import read_cpu, spent
from loadtest.engine import RawEngine
from loadtest.journey import WholeWay
from loadtest.material import Material
from loadtest.memory import ALL, MemoryWatcher
from loadtest.report import Large, spans

__all__ = ("LargeStudy",)

IN_FLIGHT = 16
MEMORY_INTERVAL_S = 0.2


@dataclass(frozen=True, eq=False)
class LargeStudy:
    """A large study on a running stack.

    Attributes:
        raw: The raw engine with the study's slices.
        whole: Sends the study.
        material: The study.
        precision: As in ``Load``.
        watcher: Samples the worker's memory.
    """

    raw: RawEngine
    whole: WholeWay
    material: Material
    precision: str
    watcher: MemoryWatcher

    def processes(self) -> Mapping[str, int]:
        """Those of the whole way."""
        return self.whole.processes()

    async def run(self, everyone: Collection[int]) -> Large:
        """The raw engine, then the whole way.

        Args:
            everyone: All processes of the run that have a name.

        Raises:
            Transient: The study did not end well.
        """
        began = time.perf_counter()
        await self.raw.run(IN_FLIGHT)
        raw_s = time.perf_counter() - began
        processes = self.whole.processes()
        # Readers and writers are children of the worker.
        worker = {"worker": processes["worker"]}
        self.watcher.begin(worker)
        idle_mib = self.watcher.end()[ALL]
        before = read_cpu(everyone)
        self.watcher.begin(worker, interval_s=MEMORY_INTERVAL_S)
        began = time.perf_counter()
        work = await self.whole.run(1)
        whole_s = time.perf_counter() - began
        peak_mib = self.watcher.end()[ALL]
        cpu_s = spent(before, read_cpu(everyone), processes)
        return Large(
            slices=self.material.slices,
            study_bytes=self.material.study_bytes,
            precision=self.precision,
            raw_s=round(raw_s, 4),
            whole_s=round(whole_s, 4),
            cpu_s=spans(cpu_s),
            stages_s=spans(work.stages_s),
            worker_idle_mib=idle_mib,
            worker_peak_mib=peak_mib,
        )
