"""Jobs and errors cross the wire and come back as they were."""

from __future__ import annotations

from datetime import UTC, datetime

import grpc
import pytest
from grpc.aio import Metadata

from client.errors import (
    AccessDenied,
    Busy,
    ClientError,
    ConfigurationError,
    Conflict,
    LeaseLost,
    NotFound,
    RefusalCode,
    Rejected,
    Transient,
    Unauthenticated,
)
from client.ingest.messages import (
    ChunkStream,
    Undecodable,
    check,
    check_chunk,
    encoded,
    from_status,
    state_of,
    to_status,
)
from client.ingest.statuses import RETRY_AFTER_KEY, Status, error_of, status_of
from client.jobs import Job, JobState, Priority
from client.limits import MessageLimits
from client.proto import ingest_pb2

pytestmark = pytest.mark.unit

NOW = datetime(2030, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("priority", Priority)
def test_a_job_crosses_the_wire_without_what_is_ours(state: JobState, priority: Priority) -> None:
    job = Job(
        id="1",
        tenant="a",
        upload_id="2",
        priority=priority,
        model="m",
        state=state,
        attempt=3,
        stage="infer",
        progress=0.25,
        code="COLOUR",
        reason="It is in colour.",
        object_key="studies/1",
        object_bytes=10,
        header=b"header",
        result_key="results/1-3",
        result_bytes=20,
        result_header=b"result",
        created_at=NOW,
        updated_at=NOW,
        lease_expires_at=NOW,
    )
    message = ingest_pb2.JobStatus.FromString(to_status(job, job.sealed_label).SerializeToString())
    assert b"studies" not in message.SerializeToString()
    back = from_status(message, "a")
    ours = ("object_key", "header", "result_key", "result_header", "lease_expires_at")
    for name in Job.__dataclass_fields__:
        if name in ours:
            assert not getattr(back, name)
        else:
            assert getattr(back, name) == getattr(job, name), name
    assert state_of(message.state) is state


def test_every_state_and_priority_has_a_wire_name() -> None:
    for ours, theirs, prefix in (
        (JobState, ingest_pb2.JobState.DESCRIPTOR, "JOB_STATE_"),
        (Priority, ingest_pb2.Priority.DESCRIPTOR, "PRIORITY_"),
    ):
        names = {name.removeprefix(prefix) for name in theirs.values_by_name}
        assert names == {"UNSPECIFIED", *ours.__members__}


def on_the_wire(status: Status) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        status.code, Metadata(), Metadata(*status.metadata), details=status.details
    )


@pytest.mark.parametrize(
    ("error", "code", "back"),
    [
        (Busy("full", 2.5), grpc.StatusCode.RESOURCE_EXHAUSTED, Busy),
        (Transient("away"), grpc.StatusCode.UNAVAILABLE, Transient),
        (Rejected(RefusalCode.TOO_LARGE, "x"), grpc.StatusCode.INVALID_ARGUMENT, Rejected),
        (NotFound("none"), grpc.StatusCode.NOT_FOUND, NotFound),
        (AccessDenied("no"), grpc.StatusCode.PERMISSION_DENIED, AccessDenied),
        (Conflict("other"), grpc.StatusCode.ALREADY_EXISTS, Conflict),
        (LeaseLost("late"), grpc.StatusCode.ABORTED, Transient),
        (ConfigurationError("secret"), grpc.StatusCode.INTERNAL, ClientError),
        (ZeroDivisionError("secret"), grpc.StatusCode.INTERNAL, ClientError),
    ],
)
def test_errors_cross_the_wire(
    error: Exception, code: grpc.StatusCode, back: type[ClientError]
) -> None:
    status = status_of(error)
    assert status.code is code
    assert ("secret" in status.details) is False
    returned = error_of(on_the_wire(status))
    assert type(returned) is back
    if isinstance(error, Busy | Rejected):
        assert returned.args[-1] == error.args[-1]
        assert str(returned).count(str(error)) == 1


@pytest.mark.parametrize("value", ["", "soon", "-1", "nan", "inf", "1e12"])
def test_a_senseless_retry_hint_does_no_harm(value: str) -> None:
    status = Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", ((RETRY_AFTER_KEY, value),))
    error = error_of(on_the_wire(status))
    assert isinstance(error, Busy)
    assert 0.0 <= error.retry_after_s <= 300.0


def test_what_grpc_itself_answers_is_translated_too() -> None:
    for code, kind in (
        (grpc.StatusCode.DEADLINE_EXCEEDED, Transient),
        (grpc.StatusCode.UNAUTHENTICATED, Unauthenticated),
        (grpc.StatusCode.UNIMPLEMENTED, ConfigurationError),
        (grpc.StatusCode.UNKNOWN, ClientError),
        (grpc.StatusCode.INVALID_ARGUMENT, Rejected),
    ):
        assert type(error_of(on_the_wire(Status(code, "")))) is kind


def test_broken_rules_are_named_without_their_values() -> None:
    with pytest.raises(Rejected) as caught:
        check(ingest_pb2.StudyHeader(tenant="DOE^JANE", version=7))
    assert caught.value.code is RefusalCode.INVALID_REQUEST
    assert "tenant" in caught.value.reason
    assert "JANE" not in caught.value.reason
    with pytest.raises(Rejected, match="INVALID_REQUEST"):
        check(Undecodable())


LENGTHS = (0, 1, 127, 128, 16_383, 16_384, 65_536, (1 << 21) - 1, 1 << 21, (1 << 21) + 1)


@pytest.mark.parametrize("kind", [ingest_pb2.SubmitStudyRequest, ingest_pb2.FetchResultResponse])
@pytest.mark.parametrize("length", LENGTHS)
def test_chunks_are_encoded_as_protobuf_does(kind: type[ChunkStream], length: int) -> None:
    message = kind(chunk=bytes(range(256)) * (length // 256) + bytes(length % 256))
    assert encoded(message) == message.SerializeToString()


def test_headers_and_empty_messages_are_encoded_as_protobuf_does() -> None:
    header = ingest_pb2.StudyHeader(version=1, tenant="a")
    for message in (
        ingest_pb2.SubmitStudyRequest(),
        ingest_pb2.SubmitStudyRequest(header=header),
        ingest_pb2.FetchResultResponse(header=ingest_pb2.ResultHeader(job_id="x")),
    ):
        assert encoded(message) == message.SerializeToString()


@pytest.mark.parametrize(
    "length", [0, 1, 2, *(MessageLimits().max_chunk_bytes + n for n in (-1, 0, 1))]
)
def test_chunks_are_held_to_the_same_rules(length: int) -> None:
    message = ingest_pb2.SubmitStudyRequest(chunk=bytes(length))
    told = []
    for judge in (check, lambda each: check_chunk(each, each.chunk)):
        try:
            judge(message)
        except Rejected as error:
            told.append(str(error))
        else:
            told.append("")
    assert told[0] == told[1]
    assert bool(told[0]) == (not 1 <= length <= MessageLimits().max_chunk_bytes)
