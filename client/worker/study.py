"""Carries one study from stored ciphertext to stored, encrypted result.

    fetch+decrypt ▶ read (own process) ▶ route ▶ plan ▶ segment (Triton) ▶ write (own process)
                  ▶ encrypt+store

Plaintext lives in memory only, and only as long as a stage needs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

from client.crypto.keyring import Keyring
from client.crypto.studies import open_study, seal_result
from client.dicom.report import SeriesResult, write_report
from client.dicom.routing import route
from client.dicom.seg import Provenance
from client.dicom.series import Series, SeriesRefusal
from client.errors import RefusalCode, Rejected
from client.faultpoints import Step, reach
from client.ingest.bundle import result_bundle
from client.jobs import Job
from client.ledger.records import JobResult
from client.limits import StudyLimits
from client.objectstore.objects import ObjectStore, result_key
from client.proto.ingest_pb2 import StudyHeader
from client.triton.inference import Segmenter
from client.vault.headers import open_rewrapped, open_study_header, seal_result_header
from client.vault.vault import Vault
from client.version import SOFTWARE_VERSION
from client.worker.isolation import Isolation
from client.worker.progress import Progress
from client.worker.stages import read_bundle_study, write_series
from preprocess.errors import PlanError
from preprocess.plan import SeriesPlan, plan_series
from preprocess.spec import ModelSpec

__all__ = ("StudyPipeline",)


@dataclass(frozen=True, eq=False)
class _Finished:
    """One segmented series: its DICOM SEG and its part of the report."""

    segmentation: bytes
    result: SeriesResult
    provenance: Provenance


class StudyPipeline:
    """Processes studies; any number may be in work at the same time.

    Args:
        store: Where studies lie and results go.
        vault: What opens a study's header and seals a result's.
        keyring: The worker's keys.
        segmenters: The models in service, by name.
        isolation: Where hostile input is read and results are written.
        limits: What a study may ask for.
    """

    def __init__(
        self,
        store: ObjectStore,
        vault: Vault,
        keyring: Keyring,
        segmenters: Mapping[str, Segmenter],
        isolation: Isolation,
        *,
        limits: StudyLimits,
    ) -> None:
        self._store = store
        self._vault = vault
        self._keyring = keyring
        self._segmenters = dict(segmenters)
        self._isolation = isolation
        self._limits = limits

    async def process(self, job: Job, progress: Progress) -> JobResult:
        """Process one claimed job and store its result under the attempt's own key.

        Returns:
            The stored result; the caller enters it into the ledger, or deletes it.

        Raises:
            Rejected: The study can never be processed as it is.
            Erased: The patient was erased.
            Transient: A part of the system is away.
        """
        with progress.stage_of("fetch"):
            header = await open_study_header(self._vault, job)
            bundle = await open_study(
                header,
                self._store.get(job.object_key),
                self._keyring,
                max_bytes=self._limits.bundle.max_bytes,
                rewrapped=await open_rewrapped(self._vault, job),
            )
        reach(Step.STUDY_OPENED)
        with progress.stage_of("read"):
            content = await self._isolation.run(
                read_bundle_study,
                bundle,
                self._limits.bundle,
                self._limits.read,
                self._modalities(),
            )
            del bundle
        finished, declined = await self._segment_all(job, content.series, progress)
        refusals = (*content.refusals, *declined)
        if not finished:
            raise _refuse_study(refusals)
        files = _result_files(finished, refusals, progress)
        with progress.stage_of("store"):
            return await self._store_result(job, header, files)

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

    def _modalities(self) -> frozenset[str]:
        specs = (segmenter.spec for segmenter in self._segmenters.values())
        return frozenset(modality for spec in specs for modality in spec.route.modalities)

    async def _segment_all(
        self, job: Job, found: tuple[Series, ...], progress: Progress
    ) -> tuple[list[_Finished], list[SeriesRefusal]]:
        finished: list[_Finished] = []
        refusals: list[SeriesRefusal] = []
        specs = [segmenter.spec for segmenter in self._segmenters.values()]
        for series in found:
            try:
                spec = route(series, specs, job.model)
                finished.append(await self._segment(job, series, spec, progress))
            except Rejected as error:
                refusals.append(
                    SeriesRefusal(series.uid, error.code, error.reason, series.instances)
                )
        return finished, refusals

    async def _segment(
        self, job: Job, series: Series, spec: ModelSpec, progress: Progress
    ) -> _Finished:
        segmenter = self._segmenters[spec.name]
        with progress.stage_of("segment"):
            identity = await segmenter.identity()
            plan = await self._plan(segmenter.spec, series)
            canvas = await segmenter.segment(
                plan,
                series.stored,
                priority=job.priority,
                progress=lambda done: progress.advance(done / len(series.stored)),
            )
        with progress.stage_of("write"):
            provenance = Provenance(
                job_id=job.id,
                software_version=SOFTWARE_VERSION,
                engine=identity.engine,
                model_sha256=identity.network_sha256,
                created_at=job.created_at,
            )
            written = await self._isolation.run(
                write_series, series, plan, canvas, spec, provenance
            )
        return _Finished(written.segmentation, written.result, provenance)

    async def _plan(self, spec: ModelSpec, series: Series) -> SeriesPlan:
        try:
            return await asyncio.to_thread(
                plan_series,
                spec,
                series.stored,
                series.geometry,
                slope=series.slope,
                intercept=series.intercept,
                inverted=series.inverted,
            )
        except PlanError as error:
            raise Rejected(RefusalCode.INVALID_ATTRIBUTE, str(error)) from error

    async def _store_result(
        self, job: Job, header: StudyHeader, files: Mapping[str, bytes]
    ) -> JobResult:
        bundle = result_bundle(files)
        digest = await asyncio.to_thread(bundle.digest)
        sealed = await asyncio.to_thread(seal_result, header, job.id, bundle.chunks(), digest)
        # Sealed before anything is stored: of a patient erased by now nothing stays behind.
        kept = await seal_result_header(self._vault, job, sealed.header)
        stored = await self._store.put(result_key(job.id, job.attempt), _in_threads(sealed.chunks))
        reach(Step.RESULT_STORED)
        return JobResult(stored, kept)


async def _in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Pull a CPU-bound iterator without blocking the event loop."""
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


def _result_files(
    finished: list[_Finished], refusals: tuple[SeriesRefusal, ...], progress: Progress
) -> dict[str, bytes]:
    files = {
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
