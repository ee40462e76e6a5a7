"""What is fuzzed: each target takes bytes, and says how they were answered, or breaks.

dicom      file ──▶ read_study
messages   first byte chooses: a message's parser and rules │ open_study │ open_result
           │ read_bundle │ a public keyset │ a certificate
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, Message

from client.crypto.binding import study_binding
from client.crypto.certificates import issue_sender, make_authority, parse_certificate, tenant_of
from client.crypto.digest import Digest
from client.crypto.envelope import DataKey
from client.crypto.keyring import Keyring, PublicKey, key_id_of
from client.crypto.studies import open_result, open_study, seal_result, seal_study
from client.dicom.reader import read_study
from client.errors import ClientError, Rejected
from client.ingest.bundle import read_bundle, study_bundle
from client.ingest.messages import Undecodable, check, from_status, priority_of, state_of
from client.limits import BundleLimits, ReadLimits
from client.proto import ingest_pb2
from tests.fuzz.message_mutations import MESSAGES, join, split
from tests.fuzz.tally import ACCEPTED

__all__ = ("message_seeds", "parse_message", "read_dicom")

_LIMITS = BundleLimits(max_bytes=1 << 24)
_UPLOAD = "11111111-2222-4333-8444-555555555555"


def read_dicom(data: bytes) -> str:
    """Read one file as a study, as the worker does; the code of its refusal, or ``ACCEPTED``."""
    memory = np.frombuffer(bytearray(data), np.uint8)
    try:
        content = read_study([("1.dcm", memory.data)], ReadLimits(), memory=memory)
    except Rejected as refusal:
        return refusal.code
    for series in content.series:
        (copied,) = read_study([("1.dcm", data)], ReadLimits()).series
        assert np.array_equal(series.stored, copied.stored)
        assert series.stored.shape[1:] == (series.geometry.rows, series.geometry.columns)
        return ACCEPTED
    (found,) = content.refusals
    assert len(found.reason) > 40
    return found.code


def parse_message(data: bytes) -> str:
    """Give one input to the parser that its first byte chooses; how it ended."""
    if not data:
        return ACCEPTED
    parsers = _parsers()
    try:
        parsers[data[0] % len(parsers)](data[1:])
    except Rejected as refusal:
        return refusal.code
    except ClientError as error:
        return type(error).__name__
    return ACCEPTED


def message_seeds() -> list[bytes]:
    """One right input for every parser."""
    return [bytes((kind,)) + payload for kind, payload in enumerate(_material().payloads)]


@cache
def _parsers() -> tuple[Callable[[bytes], object], ...]:
    return (
        *(_message_parser(kind) for kind in MESSAGES),
        _open_study,
        _open_result,
        lambda payload: list(read_bundle(payload, _LIMITS)),
        _wrap_for,
        lambda payload: tenant_of(parse_certificate(payload)),
        _hostile_sender,
    )


def _message_parser(kind: type[Message]) -> Callable[[bytes], object]:
    def parse(payload: bytes) -> None:
        message: Any
        try:
            message = kind.FromString(payload)
        except DecodeError:
            message = Undecodable()
        check(message)
        if isinstance(message, ingest_pb2.StudyHeader):
            study_binding(message)
            priority_of(message.priority)
        elif isinstance(message, ingest_pb2.ListJobsRequest):
            state_of(message.state)
        elif isinstance(message, ingest_pb2.JobStatus):
            from_status(message, "radiology")

    return parse


def _open_study(payload: bytes) -> None:
    raw, ciphertext = split(payload)
    header = ingest_pb2.StudyHeader()
    _parse(header, raw)
    limit = _LIMITS.max_bytes
    _run(open_study(header, _stream(ciphertext), _material().keyring, max_bytes=limit))


def _open_result(payload: bytes) -> None:
    raw, ciphertext = split(payload)
    header = ingest_pb2.ResultHeader()
    _parse(header, raw)
    limit = _LIMITS.max_bytes
    _run(open_result(header, _stream(ciphertext), _material().keyring, max_bytes=limit))


def _hostile_sender(payload: bytes) -> None:
    """A study whose header says anything, but is bound as it should be."""
    raw, content = split(payload)
    header = ingest_pb2.StudyHeader()
    _parse(header, raw)
    material, data_key = _material(), DataKey.new()
    header.key_id = material.key.key_id
    binding = study_binding(header)
    header.wrapped_dek = data_key.wrap(material.key, binding)
    ciphertext = b"".join(data_key.seal([content], binding, Digest.of([content])))
    limit = _LIMITS.max_bytes
    _run(open_study(header, _stream(ciphertext), material.keyring, max_bytes=limit))


def _wrap_for(payload: bytes) -> None:
    PublicKey(key_id_of(payload), payload, datetime.now(UTC)).wrap(b"secret", b"context")


def _parse(header: Message, raw: bytes) -> None:
    try:
        header.ParseFromString(raw)
    except DecodeError:
        check(Undecodable())


async def _stream(ciphertext: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(ciphertext), 1000):
        yield ciphertext[start : start + 1000]


@cache
def _runner() -> asyncio.Runner:
    return asyncio.Runner()


def _run(work: Any) -> None:
    _runner().run(work)


@dataclass(frozen=True)
class _Material:
    """Keys made for this process, and the right inputs."""

    folder: TemporaryDirectory[str]
    keyring: Keyring
    key: PublicKey
    payloads: tuple[bytes, ...]


@cache
def _material() -> _Material:
    folder = TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True)
    keyring = Keyring(Path(folder.name))
    key = keyring.create()
    bundle = study_bundle([b"DICM" * 300, b"x" * 700])
    content = b"".join(bundle.chunks())
    study = seal_study(
        bundle.chunks,
        bundle.digest(),
        tenant="radiology",
        upload_id=_UPLOAD,
        recipient=key,
        result_key=key,
    )
    result = seal_result(study.header, _UPLOAD, [content], Digest.of([content]))
    sealed_study = join(study.header.SerializeToString(), b"".join(study.chunks()))
    sealed_result = join(result.header.SerializeToString(), b"".join(result.chunks))
    certificate = issue_sender(make_authority(), "radiology").certificate
    payloads = (
        *(made.SerializeToString() for made in _right_messages(study.header, result.header)),
        sealed_study,
        sealed_result,
        content,
        key.keyset,
        certificate,
        join(study.header.SerializeToString(), content),
    )
    return _Material(folder, keyring, key, payloads)


def _right_messages(
    study: ingest_pb2.StudyHeader, result: ingest_pb2.ResultHeader
) -> tuple[Message, ...]:
    pb = ingest_pb2
    return (
        pb.SubmitStudyRequest(header=study),
        pb.ListRecipientKeysRequest(),
        pb.GetJobRequest(job_id=_UPLOAD),
        pb.ListJobsRequest(page_size=5, page_token="", state="JOB_STATE_DONE"),
        pb.WatchJobRequest(job_id=_UPLOAD),
        pb.FetchResultRequest(job_id=_UPLOAD),
        pb.CancelJobRequest(job_id=_UPLOAD),
        pb.RetryJobRequest(job_id=_UPLOAD),
        pb.ErasePatientRequest(patient_pseudonym="a" * 64, reason="asked for"),
        pb.ListEventsRequest(after=3, page_size=10),
        pb.JobStatus(id=_UPLOAD, state="JOB_STATE_DONE", priority="PRIORITY_STAT", progress=1.0),
        study,
        result,
    )
