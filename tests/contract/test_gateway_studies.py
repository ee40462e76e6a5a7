"""One study through a real gateway: in, done, out; repeated, broken off, refused, cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.crypto.digest import Digest
from client.crypto.keyring import Keyring
from client.crypto.studies import SealedStudy, seal_study
from client.errors import (
    AccessDenied,
    Busy,
    ConfigurationError,
    Conflict,
    NotFound,
    RefusalCode,
    Rejected,
    Transient,
)
from client.ingest import calls
from client.ingest.bundle import study_bundle
from client.ingest.sender import IngestClient
from client.jobs import Job, JobState, Priority
from client.limits import ServiceLimits
from client.proto import ingest_pb2
from client.vault.headers import open_study_header
from tests.gateways import TENANT, GatewayUnderTest, running_gateway
from tests.ledgers import served

pytestmark = pytest.mark.contract

FILES = [b"DICM" * 100, b"pixels of Jane Doe" * 5000, b"x"]
RESULTS = {"segmentation-1.dcm": b"SEG" * 1000, "measurements.json": b'{"volume_ml": 1}'}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayUnderTest]:
    async with running_gateway(tmp_path) as running:
        yield running


@pytest.fixture
async def client(gateway: GatewayUnderTest) -> AsyncIterator[IngestClient]:
    async with gateway.sender() as sender:
        yield sender


def sealed(gateway: GatewayUnderTest, files: list[bytes], **changes: object) -> SealedStudy:
    """Encrypt a study as a sender does, then change its header."""
    bundle = study_bundle(files)
    study = seal_study(
        bundle.chunks,
        Digest.of(bundle.chunks()),
        tenant=TENANT,
        upload_id=str(uuid.uuid4()),
        recipient=Keyring(gateway.keys.worker_keys).newest(),
        result_key=Keyring(gateway.keys.result_keys(TENANT)).newest(),
    )
    for name, value in changes.items():
        setattr(study.header, name, value)
    return study


async def test_a_study_goes_in_and_its_result_comes_out(
    gateway: GatewayUnderTest, client: IngestClient
) -> None:
    sent: list[tuple[int, int]] = []
    submitted = await client.submit(
        FILES, priority=Priority.STAT, on_progress=lambda *now: sent.append(now)
    )
    assert (submitted.state, submitted.priority) == (JobState.RECEIVED, Priority.STAT)
    assert sent[-1][0] == sent[-1][1] == submitted.object_bytes
    watching = asyncio.create_task(client.wait(submitted.id))
    done, files = await gateway.work_once(RESULTS)
    assert files == FILES
    watched = await watching
    assert (watched.id, watched.state, watched.progress) == (done.id, JobState.DONE, 1.0)
    assert watched == await client.get(done.id)
    assert await client.fetch(submitted) == RESULTS
    assert await client.fetch(done.id) == RESULTS
    assert await gateway.queue.take(0) is None


async def test_nothing_the_gateway_keeps_shows_a_byte_of_the_study(
    gateway: GatewayUnderTest, client: IngestClient, tmp_path: Path
) -> None:
    await client.submit(FILES)
    await gateway.work_once(RESULTS)
    kept = [p for p in tmp_path.rglob("*") if p.is_file() and "keys" not in p.parts]
    assert len(kept) >= 3
    for path in kept:
        content = path.read_bytes()
        assert b"Jane Doe" not in content, path
        assert b"volume_ml" not in content, path


async def test_files_from_disk_keep_their_names_to_themselves(
    gateway: GatewayUnderTest, client: IngestClient, tmp_path: Path
) -> None:
    path = tmp_path / "DOE^JANE.dcm"
    path.write_bytes(FILES[1])
    job = await client.submit([path])
    _, files = await gateway.work_once(RESULTS)
    assert files == [FILES[1]]
    path.unlink()
    with pytest.raises(ConfigurationError):
        await client.submit([path])
    assert (await client.list_jobs()) == (await client.get(job.id),)


async def test_watching_shows_every_stage(gateway: GatewayUnderTest, client: IngestClient) -> None:
    job = await client.submit(FILES)
    states: list[tuple[str, str]] = []
    claimed = None
    async for now in client.watch(job.id):
        states.append((now.state, now.stage))
        if claimed is None:
            claimed = await gateway.ledger.claim(job.id, "test", 30)
            await gateway.ledger.heartbeat(claimed, "read", 0.1, 30)
        elif now.stage == "read":
            await gateway.ledger.reject(claimed, RefusalCode.COLOUR, "It is in colour.")
    assert states[0] == ("queued", "")
    assert ("running", "read") in states
    assert states[-1] == ("rejected", "")
    refused = await client.get(job.id)
    assert (refused.code, refused.reason) == ("COLOUR", "It is in colour.")
    with pytest.raises(NotFound, match="no result"):
        await client.fetch(job.id)


async def test_a_watch_hears_of_the_end_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.ingest.watching._LEAST_S", 60.0)
    limits = ServiceLimits(watch_interval_s=60.0)
    async with running_gateway(tmp_path, limits) as gateway, gateway.sender() as client:
        job = await client.submit(FILES)
        waiting = asyncio.create_task(client.wait(job.id))
        await asyncio.sleep(0.3)
        claimed = await gateway.ledger.claim(job.id, "test", 30)
        await gateway.ledger.reject(claimed, RefusalCode.COLOUR, "It is in colour.")
        await gateway.queue.tell_end(job.id)
        async with asyncio.timeout(5):
            assert (await waiting).state is JobState.REJECTED


async def test_a_result_is_answered_again_until_a_new_model_is_in_service(
    gateway: GatewayUnderTest, client: IngestClient
) -> None:
    first = await client.submit(FILES)
    assert (await client.submit(FILES)).id == first.id  # under way: it is joined
    await gateway.work_once(RESULTS)
    again = await client.submit(FILES)
    assert (again.id, again.state) == (first.id, JobState.DONE)
    assert len(gateway.stored_files()) == 2
    gateway.models = [served(2)]
    await gateway.ledger.serve("test", gateway.models)
    newer = await client.submit(FILES)
    assert (newer.id != first.id, newer.state) == (True, JobState.RECEIVED)
    await gateway.work_once(RESULTS)
    assert (await client.submit(FILES)).id == newer.id
    assert await client.fetch(first) == await client.fetch(newer) == RESULTS


async def test_a_stat_study_is_made_anew_unless_it_is_under_way_as_one(
    gateway: GatewayUnderTest, client: IngestClient
) -> None:
    routine = await client.submit(FILES)
    urgent = await client.submit(FILES, priority=Priority.STAT)
    assert urgent.id != routine.id
    assert (await client.submit(FILES, priority=Priority.STAT)).id == urgent.id
    done, _ = await gateway.work_once(RESULTS)
    assert done.id == urgent.id
    assert (await client.submit(FILES)).id == urgent.id
    assert (await client.submit(FILES, priority=Priority.STAT)).id != urgent.id


async def test_the_same_upload_is_one_job_and_one_object(
    gateway: GatewayUnderTest, client: IngestClient
) -> None:
    study = sealed(gateway, FILES)
    first = await client.send(study)
    again = await client.send(study)
    assert (again.id, again.upload_id, again.state) == (first.id, first.upload_id, JobState.QUEUED)
    assert len(gateway.stored_files()) == 1
    with pytest.raises(Conflict):
        await client.submit([b"other"], upload_id=study.header.upload_id)
    assert len(gateway.stored_files()) == 1


async def test_many_equal_uploads_at_once_are_one_job(gateway: GatewayUnderTest) -> None:
    study = sealed(gateway, FILES)
    patient = replace(gateway.sender_settings(), attempts=30)
    async with IngestClient(patient) as client:
        jobs = await asyncio.gather(*(client.send(study) for _ in range(20)))
    assert len({job.id for job in jobs}) == 1
    assert [path.name for path in gateway.stored_files()] == [jobs[0].id]
    assert (await gateway.ledger.backlog()).jobs == 1


async def test_a_large_study_does_not_fill_the_memory_of_one_message(
    gateway: GatewayUnderTest, client: IngestClient
) -> None:
    files = [os.urandom(9 << 20), os.urandom(7 << 20)]
    await client.submit(files)
    result = {"big.bin": os.urandom(6 << 20)}
    done, got = await gateway.work_once(result)
    assert got == files
    assert await client.fetch(done.id) == result


async def test_an_upload_that_breaks_off_leaves_nothing(gateway: GatewayUnderTest) -> None:
    study = sealed(gateway, [os.urandom(12 << 20)])
    settings = gateway.sender_settings()

    async def breaking() -> AsyncIterator[ingest_pb2.SubmitStudyRequest]:
        yield ingest_pb2.SubmitStudyRequest(header=study.header)
        for number, chunk in enumerate(study.chunks()):
            if number == 20:
                raise ConnectionResetError("the sender fell over")
            yield ingest_pb2.SubmitStudyRequest(chunk=chunk)

    async with calls.GatewayConnection(settings) as connection:
        with pytest.raises(ConnectionResetError):
            await connection.upload(breaking())
        for _ in range(100):
            if not gateway.stored_files():
                break
            await asyncio.sleep(0.05)
    assert gateway.stored_files() == []
    assert (await gateway.ledger.backlog()).jobs == 0


@pytest.mark.parametrize("difference", [-1000, 1000])
async def test_an_upload_of_another_length_than_announced_leaves_nothing(
    gateway: GatewayUnderTest, client: IngestClient, difference: int
) -> None:
    study = sealed(gateway, FILES)
    whole = b"".join(study.chunks())
    other = whole[:difference] if difference < 0 else whole + bytes(difference)
    with pytest.raises(Rejected) as caught:
        await client.send(SealedStudy(study.header, lambda: iter([other])))
    assert caught.value.code is RefusalCode.BAD_ENVELOPE
    assert gateway.stored_files() == []


async def test_a_silent_upload_is_dropped(tmp_path: Path) -> None:
    limits = ServiceLimits(chunk_timeout_s=0.2)
    async with running_gateway(tmp_path, limits) as gateway:
        study = sealed(gateway, FILES)

        async def silent() -> AsyncIterator[ingest_pb2.SubmitStudyRequest]:
            yield ingest_pb2.SubmitStudyRequest(header=study.header)
            await asyncio.sleep(3)

        async with calls.GatewayConnection(gateway.sender_settings()) as connection:
            with pytest.raises(Transient):
                await asyncio.wait_for(connection.upload(silent()), 10)
        assert gateway.stored_files() == []


async def test_a_trickling_upload_is_dropped(tmp_path: Path) -> None:
    limits = ServiceLimits(chunk_timeout_s=0.4, min_upload_bytes_per_s=1 << 20)
    async with running_gateway(tmp_path, limits) as gateway:
        study = sealed(gateway, FILES)

        async def trickling() -> AsyncIterator[ingest_pb2.SubmitStudyRequest]:
            yield ingest_pb2.SubmitStudyRequest(header=study.header)
            while True:
                await asyncio.sleep(0.1)
                yield ingest_pb2.SubmitStudyRequest(chunk=b"x")

        async with calls.GatewayConnection(gateway.sender_settings()) as connection:
            with pytest.raises(Transient):
                await asyncio.wait_for(connection.upload(trickling()), 10)
        assert gateway.stored_files() == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": 2}, RefusalCode.INVALID_REQUEST),
        ({"upload_id": "not a uuid"}, RefusalCode.INVALID_REQUEST),
        ({"upload_id": str(uuid.uuid4()).upper()}, RefusalCode.INVALID_REQUEST),
        ({"model": "../x"}, RefusalCode.INVALID_REQUEST),
        ({"priority": 0}, RefusalCode.INVALID_REQUEST),
        ({"priority": 9}, RefusalCode.INVALID_REQUEST),
        ({"plaintext_sha256": b"short"}, RefusalCode.INVALID_REQUEST),
        ({"wrapped_dek": b""}, RefusalCode.INVALID_REQUEST),
        ({"ciphertext_bytes": 1}, RefusalCode.INVALID_REQUEST),
        ({"ciphertext_bytes": 1 << 40}, RefusalCode.BAD_ENVELOPE),
        ({"plaintext_bytes": 1 << 40, "ciphertext_bytes": 1 << 41}, RefusalCode.TOO_LARGE),
    ],
)
async def test_a_header_that_breaks_a_rule_is_refused(
    gateway: GatewayUnderTest, client: IngestClient, changes: dict[str, object], code: RefusalCode
) -> None:
    with pytest.raises(Rejected) as caught:
        await send_again(client, sealed(gateway, FILES, **changes))
    assert caught.value.code is code
    assert gateway.stored_files() == []


async def send_again(client: IngestClient, study: SealedStudy) -> None:
    """Sends as a sender would: gRPC now and then loses why an upload was ended, so again."""
    for _ in range(3):
        with contextlib.suppress(Transient):
            await client.send(study)


async def test_messages_out_of_order_are_refused(gateway: GatewayUnderTest) -> None:
    header = ingest_pb2.SubmitStudyRequest(header=sealed(gateway, FILES).header)
    chunk = ingest_pb2.SubmitStudyRequest(chunk=b"x")

    async def sending(*messages: ingest_pb2.SubmitStudyRequest) -> AsyncIterator[object]:
        for message in messages:
            yield message

    async with calls.GatewayConnection(gateway.sender_settings()) as connection:
        for messages in (
            [],
            [chunk],
            [header, header],
            [ingest_pb2.SubmitStudyRequest()],
            [header, ingest_pb2.SubmitStudyRequest(chunk=b"")],
        ):
            with pytest.raises(Rejected) as caught:
                await connection.upload(sending(*messages))  # type: ignore[arg-type]
            assert caught.value.code is RefusalCode.INVALID_REQUEST


async def test_size_limit_exactly(tmp_path: Path) -> None:
    size = study_bundle([b"x" * 5000]).length
    async with (
        running_gateway(tmp_path, ServiceLimits(max_study_bytes=size)) as gateway,
        gateway.sender() as client,
    ):
        await client.submit([b"x" * 5000])
        with pytest.raises(Rejected, match="TOO_LARGE"):
            await client.submit([b"x" * 5121])


async def test_a_full_gateway_says_so_and_recovers(tmp_path: Path) -> None:
    limits = ServiceLimits(max_unfinished_jobs=2, retry_after_s=0.05)
    async with running_gateway(tmp_path, limits) as gateway, gateway.sender() as client:
        jobs = [await client.submit([bytes([n])]) for n in range(2)]
        with pytest.raises(Busy) as caught:
            await client.submit([b"z"])
        assert caught.value.retry_after_s == 0.05
        assert len(gateway.stored_files()) == 2
        await client.cancel(jobs[0].id)
        assert (await client.submit([b"z"])).state is JobState.RECEIVED


async def test_bytes_that_wait_are_limited(tmp_path: Path) -> None:
    limits = ServiceLimits(max_unfinished_bytes=30_000, retry_after_s=0.01)
    async with running_gateway(tmp_path, limits) as gateway, gateway.sender() as client:
        await client.submit([bytes(20_000)])
        with pytest.raises(Busy, match="space"):
            await client.submit([bytes(20_001)])


async def submit_on_and_on(client: IngestClient) -> None:
    while True:
        await client.submit([uuid.uuid4().bytes])


async def test_uploads_at_one_time_are_limited(tmp_path: Path) -> None:
    limits = ServiceLimits(max_uploads=1, retry_after_s=0.01)
    async with running_gateway(tmp_path, limits) as gateway, gateway.sender() as client:
        study, going = sealed(gateway, FILES), asyncio.Event()

        async def slow() -> AsyncIterator[ingest_pb2.SubmitStudyRequest]:
            yield ingest_pb2.SubmitStudyRequest(header=study.header)
            await going.wait()
            for chunk in study.chunks():
                yield ingest_pb2.SubmitStudyRequest(chunk=chunk)

        async with calls.GatewayConnection(gateway.sender_settings()) as connection:
            first = asyncio.create_task(connection.upload(slow()))
            with pytest.raises(Busy, match="arriving"):
                await submit_on_and_on(client)
            going.set()
            await first
        assert await client.submit([b"x"])


async def test_cancel(gateway: GatewayUnderTest, client: IngestClient) -> None:
    job = await client.submit(FILES)
    assert (await client.cancel(job.id)).state is JobState.CANCELLED
    assert (await client.cancel(job.id)).state is JobState.CANCELLED
    assert (await client.wait(job.id)).state is JobState.CANCELLED
    done_job = await client.submit([b"second"])
    entry = await gateway.queue.take(1)
    assert entry is not None
    await gateway.queue.ack(entry)
    done, _ = await gateway.work_once(RESULTS)
    assert done.id == done_job.id
    assert (await client.cancel(done.id)).state is JobState.DONE


async def test_lists_are_paged_and_filtered(
    gateway: GatewayUnderTest, client: IngestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.ingest.sender._LARGEST_PAGE", 2)
    made = [await client.submit([bytes([n])]) for n in range(5)]
    await client.cancel(made[1].id)
    listed = await client.list_jobs()
    assert [job.id for job in listed] == [job.id for job in reversed(made)]
    assert [job.id for job in await client.list_jobs(limit=3)] == [j.id for j in made[:1:-1]]
    cancelled = await client.list_jobs(state=JobState.CANCELLED)
    assert [job.id for job in cancelled] == [made[1].id]


async def test_a_lost_queue_does_not_lose_the_study(
    gateway: GatewayUnderTest, client: IngestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(job_id: str, priority: Priority) -> None:
        raise Transient("The queue is away.")

    monkeypatch.setattr(gateway.queue, "put", away)
    job = await client.submit(FILES)
    assert (await gateway.ledger.get(job.id)).state is JobState.RECEIVED
    assert await gateway.queue.job_ids() == frozenset()


async def test_a_ledger_that_may_have_committed_keeps_the_object(
    gateway: GatewayUnderTest, client: IngestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row may be there although its answer was lost: deleting its object would lose a study."""
    real = gateway.ledger.submit

    async def answer_lost(*what: object) -> tuple[Job, bool]:
        await real(*what)  # type: ignore[arg-type]
        raise Transient("The ledger is away.")

    monkeypatch.setattr(gateway.ledger, "submit", answer_lost)
    job = await client.submit(FILES)
    assert [path.name for path in gateway.stored_files()] == [job.id]


async def test_the_sender_encrypts_only_for_keys_it_trusts(gateway: GatewayUnderTest) -> None:
    worker = Keyring(gateway.keys.worker_keys)
    pinned = worker.newest()
    worker.create()
    settings = replace(gateway.sender_settings(), trusted_worker_keys=(pinned.key_id,))
    async with IngestClient(settings) as client:
        job = await client.submit(FILES)
        header = await open_study_header(gateway.vault, await gateway.ledger.get(job.id))
        assert header.key_id == pinned.key_id
    async with IngestClient(replace(settings, trusted_worker_keys=("0" * 32,))) as client:
        with pytest.raises(AccessDenied, match="trust"):
            await client.submit(FILES)


async def test_the_sender_refuses_the_result_of_another_upload(
    gateway: GatewayUnderTest, client: IngestClient
) -> None:
    first = await client.submit([b"first"])
    await gateway.work_once(RESULTS)
    second = await client.submit([b"second"])
    await gateway.work_once({"other.json": b"{}"})
    swapped = replace(first, id=second.id)
    with pytest.raises(Rejected, match="not that of job"):
        await client.fetch(swapped)


async def test_a_damaged_result_is_refused(gateway: GatewayUnderTest, client: IngestClient) -> None:
    job = await client.submit(FILES)
    done, _ = await gateway.work_once(RESULTS)
    path = gateway.store_root / done.result_key
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(Rejected, match="BAD_ENVELOPE"):
        await client.fetch(job)


async def test_the_sender_waits_for_a_gateway_that_is_not_there_yet(
    gateway: GatewayUnderTest,
) -> None:
    absent = replace(gateway.sender_settings(), address="localhost:1", attempts=2)
    async with IngestClient(absent) as client:
        assert not await client.is_ready()
        with pytest.raises(Transient, match="UNAVAILABLE"):
            await client.get(str(uuid.uuid4()))


async def test_compressed_and_oversized_messages_are_refused(gateway: GatewayUnderTest) -> None:
    tls = gateway.keys.sender_tls(TENANT)
    credentials = grpc.ssl_channel_credentials(
        tls.authority.read_bytes(), tls.private_key.read_bytes(), tls.certificate.read_bytes()
    )
    for compression, length, code in (
        (grpc.Compression.Gzip, 100, grpc.StatusCode.UNIMPLEMENTED),
        (grpc.Compression.NoCompression, 5 << 20, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ):
        async with grpc.aio.secure_channel(
            gateway.address, credentials, compression=compression
        ) as channel:
            call: Any = channel.unary_unary(
                "/hounsfield.ingest.v1.Ingest/ListJobs",
                ingest_pb2.ListJobsRequest.SerializeToString,
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(ingest_pb2.ListJobsRequest(page_token="x" * length))
            assert caught.value.code() is code


async def test_equal_files_under_two_pseudonyms_are_two_jobs(
    gateway: GatewayUnderTest, client: IngestClient
) -> None:
    """Else erasing the second patient would find nothing and leave the study readable."""
    jobs = [await client.send(sealed(gateway, FILES, patient_pseudonym=p * 64)) for p in "ab"]
    assert jobs[0].id != jobs[1].id
    for letter, job in zip("ab", jobs, strict=True):
        kept = await gateway.ledger.jobs_of_patient(TENANT, letter * 64)
        assert [found.id for found in kept] == [job.id]
        assert await gateway.vault.destroy(TENANT, letter * 64) == (kept[0].subject_key_id,)
