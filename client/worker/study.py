"""Carries one study from stored ciphertext to stored, encrypted result.

    fetch+decrypt ▶ read (fresh process) ▶ route ▶ plan ▶ segment (Triton) ▶ write (own process)
                  ▶ encrypt+store

    memory:  bundle ▶ pixels of the same files, if uncompressed ▶ DICOM SEG over them

Any number of studies are under way, each in a stage of its own: while the engine has one, the next
is read and the last one written. Plaintext lives in memory only, and only as long as it is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.crypto.bridge import in_thread
from client.crypto.keyring import Keyring
from client.crypto.studies import open_study, seal_result
from client.dicom.provenance import Provenance
from client.dicom.report import SeriesResult, write_report
from client.dicom.routing import route
from client.dicom.series import Series, SeriesRefusal, StudyContent
from client.errors import RefusalCode, Rejected, Transient
from client.faultpoints import Step, reach
from client.ingest.bundle import result_bundle
from client.jobs import Job, Priority
from client.ledger.records import JobResult, ServedModel
from client.limits import StudyLimits
from client.objectstore.objects import ObjectStore, result_key
from client.proto.ingest_pb2 import StudyHeader
from client.telemetry.traces import joining, note
from client.triton.inference import ModelIdentity, Segmenter
from client.vault.headers import open_rewrapped, open_study_header, seal_result_header
from client.vault.vault import Vault
from client.version import SOFTWARE_VERSION
from client.worker.blocks import Block, BlockPool
from client.worker.cputime import CpuMeter
from client.worker.isolation import Runner
from client.worker.load import Budget, Gate, LoadSettings
from client.worker.progress import Progress, SegmentedSeries
from client.worker.reading import read_bundle_study
from client.worker.writing import write_series
from preprocess.errors import PlanError
from preprocess.plan import SeriesPlan
from preprocess.spec import ModelSpec

__all__ = ("StudyPipeline",)

_MOST_EXPANSION = 16
_MOST_VERSIONS = 3
_SMALL_ROOM_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class _Finished:
    """One segmented series: its DICOM SEG and its part of the report."""

    segmentation: memoryview
    result: SeriesResult
    provenance: Provenance


class StudyPipeline:
    """Processes studies; any number may be in work at the same time.

    Args:
        store: Where studies lie and results go.
        vault: What opens a study's header and seals a result's.
        keyring: The worker's keys.
        segmenters: The models in service, by name.
        readers: Where hostile input is read.
        writers: Where results are written.
        limits: What a study may ask for.
        load: What studies may take together.
    """

    def __init__(
        self,
        store: ObjectStore,
        vault: Vault,
        keyring: Keyring,
        segmenters: Mapping[str, Segmenter],
        *,
        readers: Runner,
        writers: Runner,
        limits: StudyLimits,
        load: LoadSettings,
    ) -> None:
        self._store = store
        self._vault = vault
        self._keyring = keyring
        self._segmenters = dict(segmenters)
        self._readers = readers
        self._writers = writers
        self._limits = limits
        self._budget = Budget(load.max_bytes)
        self._reading = Gate(load.cpu_places, load.cores)
        self._writing = Gate(load.cpu_places)
        self._blocks = BlockPool(load.kept_bytes)
        self._cpu = CpuMeter()

    async def process(self, job: Job, progress: Progress) -> JobResult:
        """Process one claimed job and store its result under the attempt's own key.

        Returns:
            The stored result; the caller enters it into the ledger, or deletes it.

        Raises:
            Rejected: The study can never be processed as it is.
            Erased: The patient was erased.
            Transient: A part of the system is away.
        """
        priority = job.priority.value
        with (
            joining("study", job.trace, job=job.id, attempt=job.attempt, priority=priority),
            self._cpu.attempt(progress.spending.cpu),
        ):
            return await self._processed(job, progress)

    async def _processed(self, job: Job, progress: Progress) -> JobResult:
        if job.priority is Priority.STAT:
            for segmenter in self._segmenters.values():
                segmenter.make_way()
        with progress.stage_of("fetch"):
            header = await open_study_header(self._vault, job)
        async with self._budget.take(_memory_bytes(header), job.priority):
            with ExitStack() as owned:
                finished, refusals = await self._segmented(job, header, owned, progress)
                _tell_trace(finished)
                if not finished:
                    raise _refuse_study(refusals)
                files = _result_files(finished, refusals, progress)
                with progress.stage_of("store"):
                    result = await self._store_result(job, header, files)
                    progress.spending.stored_bytes = result.stored.length
                    progress.moved(result.stored.length)
                    return result

    async def _segmented(
        self, job: Job, header: StudyHeader, owned: ExitStack, progress: Progress
    ) -> tuple[list[_Finished], tuple[SeriesRefusal, ...]]:
        """Read and segment; the results lie in blocks of ``owned``, over the images."""
        content, blocks = await self._read(job, header, owned, progress)
        finished: list[_Finished] = []
        declined: list[SeriesRefusal] = []
        for series in content.series:
            try:
                finished.append(await self._segment(job, series, blocks, progress))
            except Rejected as error:
                declined.append(
                    SeriesRefusal(series.uid, error.code, error.reason, series.instances)
                )
        return finished, (*content.refusals, *declined)

    async def _read(
        self, job: Job, header: StudyHeader, owned: ExitStack, progress: Progress
    ) -> tuple[StudyContent, list[Block]]:
        """Decrypt and read a study; its pixels lie in blocks of ``owned``, which come along."""
        with ExitStack() as for_bundle, ExitStack() as for_pixels:
            with progress.stage_of("fetch"):
                chunks = progress.spending.fetched(self._store.get(job.object_key))
                bundle, plaintext = await self._opened(job, header, chunks, for_bundle)
                progress.moved(len(plaintext))
            reach(Step.STUDY_OPENED)
            with progress.stage_of("read"):
                async with self._reading.place(job.priority) as cores:
                    room_bytes = _room_bytes(len(plaintext))
                    room = for_pixels.enter_context(self._blocks.block(room_bytes))
                    content, room.used = await self._readers.run(
                        (bundle, room),
                        read_bundle_study,
                        plaintext,
                        room.bytes,
                        self._limits.bundle,
                        self._limits.read,
                        self._modalities(),
                        processes=cores,
                    )
                progress.moved(sum(series.stored.nbytes for series in content.series))
            blocks: list[Block] = []
            for block, lent in ((bundle, for_bundle), (room, for_pixels)):
                if any(block.holds(series.stored) for series in content.series):
                    owned.enter_context(lent.pop_all())
                    blocks.append(block)
        return content, blocks

    async def _opened(
        self, job: Job, header: StudyHeader, chunks: AsyncIterator[bytes], lent: ExitStack
    ) -> tuple[Block, NDArray[np.uint8]]:
        """Decrypt a study into a block, once its length is known to be allowed."""
        taken: list[Block] = []

        def allocate(length: int) -> memoryview:
            taken.append(lent.enter_context(self._blocks.block(length)))
            return taken[0].bytes.data[:length]

        await open_study(
            header,
            chunks,
            self._keyring,
            max_bytes=self._limits.bundle.max_bytes,
            rewrapped=await open_rewrapped(self._vault, job),
            allocate=allocate,
        )
        (block,) = taken
        block.used = header.plaintext_bytes
        return block, block.bytes[: block.used]

    async def check(self) -> None:
        """Return when everything that a study needs answers.

        Raises:
            Transient: A part of the system is away, or the store cannot write.
            ConfigurationError: As for ``Segmenter.identity`` and ``ObjectStore.check``.
        """
        for segmenter in self._segmenters.values():
            await segmenter.identity()
        await self._vault.ping()
        await self._store.check()

    async def serving(self) -> Sequence[ServedModel]:
        """Say which models are in service now.

        Raises:
            Transient: The model server is away.
            ConfigurationError: It does not serve a model as described.
        """
        found = [await segmenter.identity() for segmenter in self._segmenters.values()]
        return [
            ServedModel(one.name, one.version, one.engine, one.network_sha256, one.spec_sha256)
            for one in found
        ]

    def _modalities(self) -> frozenset[str]:
        specs = (segmenter.spec for segmenter in self._segmenters.values())
        return frozenset(modality for spec in specs for modality in spec.route.modalities)

    async def _segment(
        self, job: Job, series: Series, blocks: Sequence[Block], progress: Progress
    ) -> _Finished:
        """Segment one series, which lies in one of the blocks; its DICOM SEG goes over it."""
        specs = [segmenter.spec for segmenter in self._segmenters.values()]
        spec = route(series, specs, job.model)
        segmenter = self._segmenters[spec.name]
        with progress.stage_of("segment"):
            note(model=spec.name, slices=len(series.stored))
            plan = await self._plan(segmenter.spec, series)
            identity, masks = await _by_one_version(segmenter, plan, series, job, progress)
            progress.moved(masks.nbytes)
        with progress.stage_of("write"):
            provenance = Provenance(
                job_id=job.id,
                software_version=SOFTWARE_VERSION,
                engine=identity.engine,
                model_sha256=identity.network_sha256,
                created_at=job.created_at,
            )
            with self._blocks.block(masks.nbytes) as lent:
                masks = await asyncio.to_thread(lent.keep, masks)
                async with self._writing.place(job.priority):
                    written = await self._writers.run(
                        (*blocks, lent), write_series, series, plan, masks, spec, provenance
                    )
            progress.moved(written.segmentation.nbytes)
        progress.series.append(_told(identity, series, written.result))
        return _Finished(written.segmentation.data, written.result, provenance)

    async def _plan(self, spec: ModelSpec, series: Series) -> SeriesPlan:
        try:
            return await asyncio.to_thread(series.plan, spec)
        except PlanError as error:
            raise Rejected(RefusalCode.INVALID_ATTRIBUTE, str(error)) from error

    async def _store_result(
        self, job: Job, header: StudyHeader, files: Mapping[str, bytes | memoryview]
    ) -> JobResult:
        bundle = result_bundle(files)
        digest = await asyncio.to_thread(bundle.digest)
        sealed = await asyncio.to_thread(seal_result, header, job.id, bundle.chunks(), digest)
        # Sealed before anything is stored: of a patient erased by now nothing stays behind.
        kept = await seal_result_header(self._vault, job, sealed.header)
        stored = await self._store.put(result_key(job.id, job.attempt), in_thread(sealed.chunks))
        reach(Step.RESULT_STORED)
        return JobResult(stored, kept)


async def _by_one_version(
    segmenter: Segmenter, plan: SeriesPlan, series: Series, job: Job, progress: Progress
) -> tuple[ModelIdentity, NDArray[np.uint8]]:
    """Segment a series again if another version of the model came into service meanwhile."""
    identity = await segmenter.identity()
    for _ in range(_MOST_VERSIONS):
        masks = await segmenter.segment(
            plan,
            series.stored,
            priority=job.priority,
            progress=lambda done: progress.advance(done / len(series.stored)),
            use=progress.spending.engine(identity),
        )
        before, identity = identity, await segmenter.identity()
        if identity == before:
            return identity, masks
    raise Transient(
        f"{identity.name} was exchanged {_MOST_VERSIONS} times while one series was segmented."
    )


def _told(identity: ModelIdentity, series: Series, result: SeriesResult) -> SegmentedSeries:
    inside = sum(structure.voxels for structure in result.structures)
    foreground = min(1.0, inside / series.stored.size)
    return SegmentedSeries(identity.name, identity.version, result.slices, foreground)


def _tell_trace(finished: Sequence[_Finished]) -> None:
    models = sorted({series.result.model for series in finished})
    note(model=",".join(models), slices=sum(series.result.slices for series in finished))


def _memory_bytes(header: StudyHeader) -> int:
    """About what a study takes that is not compressed: its pixels once, masks a few times.

    As much again as came also lets series lie in a second block whose files are not in a row.
    """
    return 2 * header.plaintext_bytes


def _room_bytes(bundle_bytes: int) -> int:
    """Room for the pixels of most studies that cannot stay where they came, compressed ones too.

    What is not touched costs nothing; what does not fit travels.
    """
    return max(bundle_bytes, min(_MOST_EXPANSION * bundle_bytes, _SMALL_ROOM_BYTES))


def _result_files(
    finished: list[_Finished], refusals: tuple[SeriesRefusal, ...], progress: Progress
) -> dict[str, bytes | memoryview]:
    files: dict[str, bytes | memoryview] = {
        f"segmentation-{number:03d}.dcm": series.segmentation
        for number, series in enumerate(finished, start=1)
    }
    results = [series.result for series in finished]
    report = write_report(results, refusals, finished[0].provenance, progress.timings_s)
    return files | {"measurements.json": report}


def _refuse_study(refusals: tuple[SeriesRefusal, ...]) -> Rejected:
    """Sum up why no series of a study could be segmented, the commonest reason first."""
    counts: dict[tuple[RefusalCode, str], int] = {}
    for refusal in refusals:
        key = (refusal.code, refusal.reason)
        counts[key] = counts.get(key, 0) + refusal.instances
    if not counts:
        return Rejected(RefusalCode.NO_IMAGES, "The study holds no image: send the images.")
    ranked = sorted(counts, key=lambda key: -counts[key])
    code, reason = ranked[0]
    others = sorted({str(other) for other, _ in ranked[1:]})
    more = f" Further refusals in this study: {', '.join(others)}." if others else ""
    return Rejected(code, f"{reason}{more}")
