"""A study and its result survive the way through hands that can read only ciphertext."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.crypto.binding import encode_fields, result_binding, study_binding
from client.crypto.bridge import in_thread, read_in_thread
from client.crypto.digest import Digest
from client.crypto.keyring import Keyring
from client.crypto.studies import (
    Rewrapped,
    SealedStudy,
    open_result,
    open_study,
    rewrap_study,
    seal_result,
    seal_study,
)
from client.errors import NotFound, RefusalCode, Rejected, Transient
from client.jobs import Priority
from client.proto import ingest_pb2

pytestmark = pytest.mark.unit

BUNDLE = bytes(range(256)) * 9000
UPLOAD = "11111111-2222-3333-4444-555555555555"
JOB = "99999999-8888-7777-6666-555555555555"


async def stream(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


@pytest.fixture
def worker(tmp_path: Path) -> Keyring:
    ring = Keyring(tmp_path / "worker")
    ring.create()
    return ring


@pytest.fixture
def sender(tmp_path: Path) -> Keyring:
    ring = Keyring(tmp_path / "sender")
    ring.create()
    return ring


@pytest.fixture
def study(worker: Keyring, sender: Keyring) -> SealedStudy:
    return seal_study(
        lambda: [BUNDLE],
        Digest.of([BUNDLE]),
        tenant="radiology",
        upload_id=UPLOAD,
        recipient=worker.newest(),
        result_key=sender.newest(),
        model="brain_mr",
        patient_pseudonym="a" * 64,
    )


async def test_study_and_result_round_trip(
    study: SealedStudy, worker: Keyring, sender: Keyring
) -> None:
    for _ in range(2):
        got = await open_study(study.header, stream(study.chunks()), worker, max_bytes=1 << 24)
        assert got == BUNDLE
    result = b"segmentation" * 1000
    sealed = seal_result(study.header, JOB, [result], Digest.of([result]))
    assert (sealed.header.job_id, sealed.header.upload_id) == (JOB, UPLOAD)
    assert sealed.header.tenant == study.header.tenant != ""
    ciphertext = list(sealed.chunks)
    assert sum(map(len, ciphertext)) == sealed.header.ciphertext_bytes
    opened = await open_result(sealed.header, stream(ciphertext), sender, max_bytes=1 << 24)
    assert opened == result
    with pytest.raises(NotFound):
        await open_result(sealed.header, stream(ciphertext), worker, max_bytes=1 << 24)


CHANGES: list[Callable[[ingest_pb2.StudyHeader], None]] = [
    lambda h: setattr(h, "tenant", "cardiology"),
    lambda h: setattr(h, "upload_id", JOB),
    lambda h: setattr(h, "model", ""),
    lambda h: setattr(h, "plaintext_sha256", bytes(32)),
    lambda h: setattr(h, "recipient_key_id", "0" * 32),
    lambda h: setattr(h, "recipient_public_keyset", bytes(64)),
    lambda h: setattr(h, "version", 2),
    lambda h: setattr(h, "ciphertext_bytes", h.ciphertext_bytes + 1),
    lambda h: setattr(h, "plaintext_bytes", h.plaintext_bytes - 1),
    lambda h: setattr(h, "patient_pseudonym", "b" * 64),
    lambda h: setattr(h, "patient_pseudonym", ""),
]


@pytest.mark.parametrize("change", range(len(CHANGES)))
async def test_no_bound_field_can_be_changed(
    study: SealedStudy, worker: Keyring, change: int
) -> None:
    CHANGES[change](study.header)
    with pytest.raises(Rejected) as caught:
        await open_study(study.header, stream(study.chunks()), worker, max_bytes=1 << 24)
    assert caught.value.code is RefusalCode.BAD_ENVELOPE


async def test_a_study_for_another_worker_waits_for_that_one(
    study: SealedStudy, worker: Keyring, sender: Keyring
) -> None:
    with pytest.raises(Transient, match="does not have"):
        await open_study(study.header, stream(study.chunks()), sender, max_bytes=1 << 24)
    second = worker.create()
    study.header.key_id = second.key_id
    with pytest.raises(Rejected, match="BAD_ENVELOPE"):
        await open_study(study.header, stream(study.chunks()), worker, max_bytes=1 << 24)


async def test_a_study_opens_with_a_new_key_alone_after_it_was_rewrapped(
    study: SealedStudy, worker: Keyring
) -> None:
    ciphertext = b"".join(study.chunks())
    header = study.header.SerializeToString(deterministic=True)
    current = None
    for _ in range(3):
        old, new = worker.newest(), worker.create()
        current = rewrap_study(study.header, worker, new, current)
        worker.withdraw(old.key_id)
        worker.destroy(old.key_id)
    assert current is not None
    assert [key.key_id for key in worker.public_keys()] == [current.key_id]
    got = await open_study(
        study.header, stream([ciphertext]), worker, max_bytes=1 << 24, rewrapped=current
    )
    assert got == BUNDLE
    assert study.header.SerializeToString(deterministic=True) == header
    with pytest.raises(Transient):
        await open_study(study.header, stream([ciphertext]), worker, max_bytes=1 << 24)


async def test_a_rewrapped_key_of_another_study_or_key_is_refused(
    study: SealedStudy, worker: Keyring, sender: Keyring
) -> None:
    other = seal_study(
        lambda: [BUNDLE],
        Digest.of([BUNDLE]),
        tenant="radiology",
        upload_id=JOB,
        recipient=worker.newest(),
        result_key=sender.newest(),
    )
    first, second = worker.create(), worker.create()
    foreign = rewrap_study(other.header, worker, first)
    renamed = Rewrapped(second.key_id, rewrap_study(study.header, worker, first).wrapped_dek)
    unrenamed = Rewrapped(first.key_id, study.header.wrapped_dek)
    for wrong in (foreign, renamed, unrenamed):
        with pytest.raises(Rejected, match="BAD_ENVELOPE"):
            await open_study(
                study.header, stream(study.chunks()), worker, max_bytes=1 << 24, rewrapped=wrong
            )


async def test_the_header_of_one_study_does_not_open_another(
    study: SealedStudy, worker: Keyring, sender: Keyring
) -> None:
    other = seal_study(
        lambda: [BUNDLE],
        Digest.of([BUNDLE]),
        tenant="radiology",
        upload_id=JOB,
        recipient=worker.newest(),
        result_key=sender.newest(),
    )
    with pytest.raises(Rejected, match="BAD_ENVELOPE"):
        await open_study(study.header, stream(other.chunks()), worker, max_bytes=1 << 24)


async def test_priority_may_be_raised_on_the_way(study: SealedStudy, worker: Keyring) -> None:
    study.header.priority = ingest_pb2.PRIORITY_STAT
    got = await open_study(study.header, stream(study.chunks()), worker, max_bytes=1 << 24)
    assert got == BUNDLE


def test_a_header_says_what_was_asked_for_and_nothing_else(
    worker: Keyring, sender: Keyring
) -> None:
    def header(**asked: Any) -> ingest_pb2.StudyHeader:
        return seal_study(
            lambda: [BUNDLE],
            Digest.of([BUNDLE]),
            tenant="radiology",
            upload_id=UPLOAD,
            recipient=worker.newest(),
            result_key=sender.newest(),
            **asked,
        ).header

    plain = header()
    assert (plain.model, plain.patient_pseudonym, plain.sealed_label) == ("", "", b"")
    assert plain.process_again is False
    assert plain.priority == ingest_pb2.PRIORITY_ROUTINE
    full = header(
        model="brain_mr",
        priority=Priority.STAT,
        patient_pseudonym="a" * 64,
        sealed_label=b"label",
        process_again=True,
    )
    assert (full.model, full.patient_pseudonym) == ("brain_mr", "a" * 64)
    assert (full.sealed_label, full.process_again) == (b"label", True)
    assert full.priority == ingest_pb2.PRIORITY_STAT


async def test_memory_is_given_only_up_to_the_limit(study: SealedStudy, worker: Keyring) -> None:
    most = study.header.plaintext_bytes
    whole = await open_study(study.header, stream(study.chunks()), worker, max_bytes=most)
    assert whole == BUNDLE
    with pytest.raises(Rejected, match="TOO_LARGE"):
        await open_study(
            study.header, stream(study.chunks()), worker, max_bytes=study.header.plaintext_bytes - 1
        )


async def test_the_stores_error_is_not_mistaken_for_damage(
    study: SealedStudy, worker: Keyring
) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield next(study.chunks())
        raise Transient("the store went away")

    with pytest.raises(Transient):
        await open_study(study.header, breaking(), worker, max_bytes=1 << 24)


async def test_a_cancelled_reader_ends_its_thread() -> None:
    ended = threading.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.Event().wait()

    def work(file: object) -> bytes:
        try:
            return b"".join(iter(lambda: file.read(10), b""))  # type: ignore[attr-defined]
        finally:
            ended.set()

    task = asyncio.create_task(read_in_thread(endless(), work))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 5)


async def test_in_thread_keeps_order_and_errors() -> None:
    def failing() -> Iterable[bytes]:
        yield b"1"
        yield b"2"
        raise OSError("gone")

    steps = in_thread(iter(failing()))
    assert [await anext(steps), await anext(steps)] == [b"1", b"2"]
    with pytest.raises(OSError, match="gone"):
        await anext(steps)


FIELDS = st.lists(st.one_of(st.binary(max_size=20), st.text(max_size=20)), max_size=6)


@given(FIELDS, FIELDS)
def test_different_fields_never_encode_alike(
    one: list[bytes | str], two: list[bytes | str]
) -> None:
    def raw(fields: list[bytes | str]) -> list[bytes]:
        return [f if isinstance(f, bytes) else f.encode() for f in fields]

    assert (encode_fields(*one) == encode_fields(*two)) == (raw(one) == raw(two))


def test_the_worked_example_of_the_protocol_page() -> None:
    header = ingest_pb2.StudyHeader(
        version=1,
        tenant="radiology",
        upload_id=UPLOAD,
        model="brain_mr",
        key_id="0123456789abcdef0123456789abcdef",
        plaintext_bytes=2048,
        plaintext_sha256=bytes(range(32)),
        recipient_key_id="fedcba9876543210fedcba9876543210",
        recipient_public_keyset=b"public keyset",
        patient_pseudonym="00112233445566778899aabbccddeeff" * 2,
    )
    assert study_binding(header).hex() == (
        "00000013" + b"hounsfield/study/v1".hex()
        + "00000009" + b"radiology".hex()
        + "00000024" + UPLOAD.encode().hex()
        + "00000008" + b"brain_mr".hex()
        + "00000020" + header.key_id.encode().hex()
        + "00000008" + "0000000000000800"
        + "00000020" + bytes(range(32)).hex()
        + "00000020" + header.recipient_key_id.encode().hex()
        + "00000020" + "0ea079e67813c5082726089ff5f26297ac2361786561b6ca2eb11f77a4a21af5"
        + "00000040" + b"00112233445566778899aabbccddeeff".hex() * 2
    )  # fmt: skip


def test_a_result_is_bound_to_job_and_upload() -> None:
    header = ingest_pb2.ResultHeader(tenant="a", job_id=JOB, upload_id=UPLOAD)
    bindings = {result_binding(header)}
    for change in ({"tenant": "b"}, {"job_id": UPLOAD}, {"upload_id": JOB}, {"plaintext_bytes": 1}):
        other = ingest_pb2.ResultHeader()
        other.CopyFrom(header)
        for name, value in change.items():
            setattr(other, name, value)
        bindings.add(result_binding(other))
    assert len(bindings) == 5
