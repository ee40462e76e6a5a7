"""One study through the worker's pipeline: real crypto, DICOM and store; masks by the fake."""

from __future__ import annotations

import io
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from client.crypto.keyring import Keyring
from client.crypto.kms import LocalKeyManager
from client.crypto.studies import SealedStudy, open_result, rewrap_study, seal_study
from client.errors import Erased, RefusalCode, Rejected, Transient
from client.ingest.bundle import read_bundle, study_bundle
from client.jobs import Job, JobState, Priority
from client.limits import BundleLimits, ReadLimits, StudyLimits
from client.objectstore.objects import ObjectStore, study_key
from client.objectstore.stores import open_store
from client.telemetry.traceexport import SpanSink
from client.telemetry.traces import use
from client.triton.fake import FakeSegmenter
from client.triton.inference import ModelIdentity
from client.vault.headers import (
    open_result_header,
    open_study_header,
    seal_rewrapped,
    seal_study_header,
)
from client.vault.vault import Vault
from client.worker.isolation import Assistants, Isolation
from client.worker.load import LoadSettings
from client.worker.progress import Progress
from client.worker.study import StudyPipeline
from preprocess.plan import SeriesPlan
from preprocess.spec import ModelSpec
from tests.collector import running_collector
from tests.dicom_factory import ORIENTATIONS, Recipe, classic_files

pytestmark = pytest.mark.contract

MIB = 1 << 20
TENANT = "hospital"
PATIENT = "a" * 64


def head(orientation: str, series: int = 1, **changes: object) -> list[tuple[str, bytes]]:
    """A bright ball in a grey shell on a dark ground, as an MR of the head."""
    z, y, x = np.ogrid[:6, :40, :50]
    distance = np.sqrt((z - 2.5) ** 2 * 16 + (y - 18) ** 2 + (x - 22) ** 2)
    recipe = Recipe(
        volume=np.select([distance < 12, distance < 17], [900, 400], 40).astype(np.int16),
        orientation=ORIENTATIONS[orientation],
        distance_mm=4.0,
        series=series,
        attributes={"BodyPartExamined": "HEAD", "PatientName": "Canary^Name"},
    )
    return classic_files(replace(recipe, **changes))  # type: ignore[arg-type]


class Bench:
    """A pipeline with everything it needs, and the sender's side of it."""

    def __init__(self, spec: ModelSpec, tmp_path: Path, vault: Vault) -> None:
        self.vault = vault
        self.store: ObjectStore = open_store("memory:///")
        self.worker = Keyring(tmp_path / "worker")
        self.sender = Keyring(tmp_path / "sender")
        self.worker.create()
        self.sender.create()
        self.writers = Assistants(timeout_s=60, memory_bytes=8192 * MIB)
        self.pipeline = StudyPipeline(
            self.store,
            vault,
            self.worker,
            {spec.name: FakeSegmenter(spec)},
            readers=Isolation(timeout_s=60, memory_bytes=8192 * MIB),
            writers=self.writers,
            limits=StudyLimits(BundleLimits(max_bytes=64 * MIB), ReadLimits()),
            load=LoadSettings(),
        )

    def seal(self, files: Iterable[tuple[str, bytes]]) -> SealedStudy:
        bundle = study_bundle([content for _, content in files])
        return seal_study(
            bundle.chunks,
            bundle.digest(),
            tenant=TENANT,
            upload_id=str(uuid.uuid4()),
            recipient=self.worker.newest(),
            result_key=self.sender.newest(),
        )

    async def job(self, sealed: SealedStudy, model: str = "") -> Job:
        async def chunks() -> AsyncIterator[bytes]:
            for chunk in sealed.chunks():
                yield chunk

        job_id = str(uuid.uuid4())
        stored = await self.store.put(study_key(job_id), chunks())
        subject_key_id = await self.vault.key_for(TENANT, PATIENT)
        now = datetime.now(UTC)
        return Job(
            id=job_id,
            tenant=TENANT,
            upload_id=sealed.header.upload_id,
            priority=Priority.ROUTINE,
            model=model,
            state=JobState.RUNNING,
            attempt=1,
            stage="",
            progress=0.0,
            code="",
            reason="",
            object_key=stored.key,
            object_bytes=stored.length,
            header=await seal_study_header(self.vault, subject_key_id, job_id, sealed.header),
            result_key="",
            result_bytes=0,
            result_header=b"",
            created_at=now,
            updated_at=now,
            lease_expires_at=now,
            subject_key_id=subject_key_id,
            key_id=sealed.header.key_id,
        )

    async def process(self, job: Job, progress: Progress | None = None) -> Job:
        """Process a job; return it with its result, as the ledger would have it."""
        result = await self.pipeline.process(job, progress or Progress())
        return replace(
            job,
            result_key=result.stored.key,
            result_bytes=result.stored.length,
            result_header=result.header,
        )

    async def open(self, job: Job) -> dict[str, bytes]:
        header = await open_result_header(self.vault, job)
        assert header.ciphertext_bytes == job.result_bytes
        chunks = self.store.get(job.result_key)
        bundle = await open_result(header, chunks, self.sender, max_bytes=64 * MIB)
        return {name: bytes(content) for name, content in read_bundle(bundle, BundleLimits())}


@pytest.fixture
async def bench(brain_mr: ModelSpec, tmp_path: Path) -> AsyncIterator[Bench]:
    kek = LocalKeyManager(tmp_path / "kek")
    kek.create()
    async with Vault(f"sqlite+aiosqlite:///{tmp_path / 'vault.sqlite'}", kek) as vault:
        yield Bench(brain_mr, tmp_path, vault)


@pytest.mark.parametrize("orientation", ["axial", "sagittal_flipped", "coronal", "tilted_head"])
async def test_a_study_becomes_a_segmentation_and_a_report(bench: Bench, orientation: str) -> None:
    progress = Progress()
    files = head(orientation)
    outputs = await bench.open(await bench.process(await bench.job(bench.seal(files)), progress))
    assert sorted(outputs) == ["measurements.json", "segmentation-001.dcm"]

    segmentation = pydicom.dcmread(io.BytesIO(outputs["segmentation-001.dcm"]))
    assert segmentation.SOPClassUID == pydicom.uid.SegmentationStorage
    assert segmentation.PatientName == "Canary^Name"
    voxels = int(segmentation.pixel_array.sum())

    report = json.loads(outputs["measurements.json"])
    structures = report["series"][0]["structures"]
    assert sum(s["voxels"] for s in structures) == voxels
    assert structures[0]["mean"] > 800
    expected = sum(
        int((pydicom.dcmread(io.BytesIO(content)).pixel_array > 650).sum()) for _, content in files
    )
    assert abs(voxels - expected) <= 0.08 * expected
    assert report["refusals"] == []
    assert set(progress.timings_s) == {"fetch", "read", "segment", "write", "store"}


async def test_what_a_study_takes_is_counted_whether_it_succeeds_or_not(bench: Bench) -> None:
    progress, began = Progress(), time.monotonic()
    done = await bench.process(await bench.job(bench.seal(head("axial"))), progress)
    (row,) = progress.spending.costs()
    assert (row.model, row.device, row.slices) == ("brain_mr", "cpu", 6)
    assert (row.fetched_bytes, row.stored_bytes) == (done.object_bytes, done.result_bytes)
    assert 0 < row.cpu_us < (time.monotonic() - began) * 1e6 * (os.cpu_count() or 1)
    assert 0 < row.engine_us <= progress.timings_s["segment"] * 1e6

    progress = Progress()
    job = await bench.job(bench.seal(head("axial", modality="CT")))
    with pytest.raises(Rejected):
        await bench.process(job, progress)
    (row,) = progress.spending.costs()
    assert (row.model, row.engine_us, row.stored_bytes) == ("", 0, 0)
    assert row.fetched_bytes == job.object_bytes
    assert row.cpu_us > 0


async def test_good_series_are_segmented_and_bad_ones_are_reported(bench: Bench) -> None:
    gap = [f for i, f in enumerate(head("axial", series=2)) if i != 3]
    files = [*head("axial", series=1), *gap, *head("axial", series=3, modality="CT")]
    outputs = await bench.open(await bench.process(await bench.job(bench.seal(files))))
    report = json.loads(outputs["measurements.json"])
    assert len(report["series"]) == 1
    assert {r["code"] for r in report["refusals"]} == {"MISSING_SLICE", "NO_MODEL"}


async def test_a_study_without_any_usable_series_is_refused_with_its_code(bench: Bench) -> None:
    with pytest.raises(Rejected) as caught:
        await bench.process(await bench.job(bench.seal(head("axial", modality="CT"))))
    assert caught.value.code is RefusalCode.NO_MODEL
    assert "Canary" not in str(caught.value)


async def test_something_else_than_dicom_is_refused(bench: Bench) -> None:
    with pytest.raises(Rejected) as caught:
        await bench.process(await bench.job(bench.seal([("a", b"not an image " * 100)])))
    assert caught.value.code is RefusalCode.NOT_DICOM


async def test_another_workers_study_is_left_to_that_one(bench: Bench, tmp_path: Path) -> None:
    other = Keyring(tmp_path / "other")
    bundle = study_bundle([content for _, content in head("axial")])
    sealed = seal_study(
        bundle.chunks,
        bundle.digest(),
        tenant=TENANT,
        upload_id=str(uuid.uuid4()),
        recipient=other.create(),
        result_key=bench.sender.newest(),
    )
    with pytest.raises(Transient):
        await bench.process(await bench.job(sealed))


async def test_an_erased_patients_study_is_not_opened(bench: Bench) -> None:
    job = await bench.job(bench.seal(head("axial")))
    await bench.vault.destroy(TENANT, PATIENT)
    with pytest.raises(Erased):
        await bench.process(job)


async def test_a_patient_erased_meanwhile_leaves_no_result(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await bench.job(bench.seal(head("axial")))
    segment = bench.pipeline._segment

    async def erase_and_segment(*args: Any) -> Any:
        await bench.vault.destroy(TENANT, PATIENT)
        return await segment(*args)

    monkeypatch.setattr(bench.pipeline, "_segment", erase_and_segment)
    with pytest.raises(Erased):
        await bench.process(job)
    assert [entry.key async for entry in bench.store.list("results")] == []


async def test_a_header_of_another_job_is_refused(bench: Bench) -> None:
    one, two = [await bench.job(bench.seal(head("axial"))) for _ in range(2)]
    for exchanged in (
        replace(one, header=two.header),
        replace(one, header=two.header, subject_key_id=two.subject_key_id),
        replace(one, rewrapped_dek=two.header),
    ):
        with pytest.raises(Rejected) as caught:
            await bench.process(exchanged)
        assert caught.value.code is RefusalCode.BAD_ENVELOPE


async def test_after_a_rotation_the_study_opens_with_the_new_key_alone(bench: Bench) -> None:
    job = await bench.job(bench.seal(head("axial")))
    header = await open_study_header(bench.vault, job)
    old, new = bench.worker.newest(), bench.worker.create()
    rewrapped = rewrap_study(header, bench.worker, new)
    bench.worker.destroy(old.key_id)
    with pytest.raises(Transient):
        await bench.process(job)
    sealed = await seal_rewrapped(bench.vault, job, rewrapped)
    outputs = await bench.open(
        await bench.process(replace(job, key_id=new.key_id, rewrapped_dek=sealed))
    )
    assert "segmentation-001.dcm" in outputs


class ExchangedSegmenter(FakeSegmenter):
    """One whose model is exchanged while series are segmented: each class says by which version."""

    def __init__(self, spec: ModelSpec, exchanges: int) -> None:
        super().__init__(spec, lambda image: np.full(image.shape, self.version, np.uint8))
        self.version = 1
        self._exchanges = exchanges

    async def segment(self, plan: SeriesPlan, slices: NDArray[np.int16], **how: Any) -> Any:
        """Another version comes after the first slice."""
        first = await super().segment(plan, slices[:1], **how)
        if self._exchanges:
            self._exchanges -= 1
            self.version += 1
        rest = await super().segment(plan, slices[1:], **how)
        return np.concatenate([first, rest])

    async def identity(self) -> ModelIdentity:
        own = str(self.version)
        return replace(await super().identity(), version=own, network_sha256=own)


async def test_no_result_is_of_two_versions(bench: Bench, brain_mr: ModelSpec) -> None:
    bench.pipeline._segmenters = {brain_mr.name: ExchangedSegmenter(brain_mr, exchanges=1)}
    files = await bench.open(await bench.process(await bench.job(bench.seal(head("axial")))))
    report = json.loads(files["measurements.json"])
    (series,) = report["series"]
    found = {one["label"] for one in series["structures"] if one["voxels"]}
    assert report["engine"]["model_sha256"] == "2"
    assert found == {brain_mr.segments[1].label}


async def test_a_model_that_is_exchanged_again_and_again_is_waited_for(
    bench: Bench, brain_mr: ModelSpec
) -> None:
    bench.pipeline._segmenters = {brain_mr.name: ExchangedSegmenter(brain_mr, exchanges=9)}
    job = await bench.job(bench.seal(head("axial")))
    with pytest.raises(Transient, match="brain_mr was exchanged 3 times while one series"):
        await bench.process(job)


async def test_a_retried_study_has_two_spans_in_its_senders_trace(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    job = await bench.job(bench.seal(head("axial")))
    first = replace(job, trace=f"00-{trace}-{parent}-01")
    with running_collector() as collector:
        sink = SpanSink(collector.endpoint, "worker", 0.0, None)
        with use(sink.provider.get_tracer("test")):
            with monkeypatch.context() as away:
                away.setattr(FakeSegmenter, "segment", _is_away)
                with pytest.raises(Transient):
                    await bench.process(first)
            await bench.process(replace(first, attempt=2))
        sink.close()
        lost, done = collector.named("study")
        assert {span.trace for span in collector.spans} == {trace}
        assert lost.parent == done.parent == parent
        assert (lost.failed, done.failed) == ("Transient", None)
        tries = [span.attributes["hounsfield.attempt"] for span in (lost, done)]
        assert tries == [1, 2]
        assert (done.attributes["hounsfield.model"], done.attributes["hounsfield.slices"]) == (
            "brain_mr",
            6,
        )
        stages = {span.name for span in collector.spans if span.parent == done.span}
        assert stages == {"fetch", "read", "segment", "write", "store"}
        assert not any(b"Canary" in body or b"hospital" in body for body in collector.raw)


async def _is_away(*_: object, **__: object) -> None:
    raise Transient("Canary: the server is away")
