"""A gateway joins its senders' traces, keeps them in the ledger, and takes no harm from them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.crypto.digest import Digest
from client.crypto.keyring import Keyring
from client.crypto.studies import seal_study
from client.errors import Transient
from client.ingest.bundle import study_bundle
from client.ingest.calls import GatewayConnection
from client.ingest.submission import study_requests
from client.jobs import Job
from client.telemetry import traces
from client.telemetry.traceexport import SpanSink
from tests.collector import Collector, running_collector
from tests.gateways import TENANT, GatewayUnderTest, running_gateway

pytestmark = pytest.mark.contract

TRACE, STEP = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{STEP}-01"
HOSTILE = (
    (("traceparent", "CANARY^JANE"),),
    (("traceparent", GOOD[:-1]),),
    (("traceparent", f"{GOOD}-more"),),
    (("traceparent", "00-" + "a" * 6000),),
    (("traceparent-bin", b"\x00" * 55),),
    (("traceparent", ""),),
)
_MOST_JOINED_PER_S = 3.0


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayUnderTest]:
    async with running_gateway(tmp_path) as running:
        yield running


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as running:
        yield running


@pytest.fixture
def sink(collector: Collector) -> Iterator[SpanSink]:
    """What the gateway records goes to the collector; close it to see everything."""
    sink = SpanSink(collector.endpoint, "gateway", 1.0, _MOST_JOINED_PER_S)
    with traces.use(sink.provider.get_tracer("test")):
        yield sink
    sink.close()


async def sent(gateway: GatewayUnderTest, *metadata: tuple[str, str | bytes]) -> Job:
    """Send a study as a program does that has no OpenTelemetry, with this metadata."""
    bundle = study_bundle([b"DICM", b"pixels"])
    study = seal_study(
        bundle.chunks,
        Digest.of(bundle.chunks()),
        tenant=TENANT,
        upload_id=str(uuid.uuid4()),
        recipient=Keyring(gateway.keys.worker_keys).newest(),
        result_key=Keyring(gateway.keys.result_keys(TENANT)).newest(),
        process_again=True,
    )
    async with GatewayConnection(gateway.sender_settings()) as connection:
        upload: Any = connection._submit
        answer = await upload(study_requests(study, None), metadata=metadata)
    return await gateway.ledger.get(answer.job.id)


async def test_an_upload_joins_its_sender_and_the_ledger_keeps_it(
    gateway: GatewayUnderTest, sink: SpanSink, collector: Collector
) -> None:
    job = await sent(
        gateway, ("traceparent", GOOD), ("baggage", "name=CANARY"), ("tracestate", "a=CANARY")
    )
    sink.close()
    (seen,) = collector.spans
    assert (seen.name, seen.trace, seen.parent) == ("SubmitStudy", TRACE, STEP)
    assert seen.attributes == {"hounsfield.job": job.id}
    assert job.trace == f"00-{TRACE}-{seen.span}-01"
    assert not any(b"CANARY" in body for body in collector.raw)


@pytest.mark.parametrize("metadata", HOSTILE, ids=range(len(HOSTILE)))
async def test_what_is_no_traceparent_is_dropped(
    gateway: GatewayUnderTest,
    sink: SpanSink,
    collector: Collector,
    metadata: tuple[tuple[str, str | bytes], ...],
) -> None:
    job = await sent(gateway, *metadata)
    sink.close()
    (seen,) = collector.spans
    assert (seen.parent, seen.failed) == ("", None)
    assert seen.trace != TRACE
    assert job.trace is not None
    assert job.trace.startswith(f"00-{seen.trace}-{seen.span}-")
    assert len(job.trace) == traces.TRACEPARENT_CHARS


async def test_a_sender_that_does_not_want_to_be_recorded_is_not(
    gateway: GatewayUnderTest, sink: SpanSink, collector: Collector
) -> None:
    job = await sent(gateway, ("traceparent", f"{GOOD[:-1]}0"))
    sink.close()
    assert not collector.spans
    assert job.trace is not None
    assert (job.trace[3:35], job.trace[-2:]) == (TRACE, "00")


async def test_a_sender_cannot_have_every_upload_recorded(
    gateway: GatewayUnderTest, sink: SpanSink, collector: Collector
) -> None:
    jobs = [await sent(gateway, ("traceparent", GOOD)) for _ in range(12)]
    sink.close()
    recorded = [job for job in jobs if job.trace is not None and job.trace.endswith("1")]
    assert len(recorded) == len(collector.spans)
    assert _MOST_JOINED_PER_S <= len(recorded) < len(jobs)


async def test_an_upload_that_fails_is_an_error_without_words(
    gateway: GatewayUnderTest, sink: SpanSink, collector: Collector
) -> None:
    async with GatewayConnection(gateway.sender_settings()) as connection:
        upload: Any = connection._submit

        async def nothing() -> AsyncIterator[Any]:
            return
            yield

        with pytest.raises(grpc.aio.AioRpcError):
            await upload(nothing(), metadata=(("traceparent", GOOD),))
    sink.close()
    (seen,) = collector.spans
    assert (seen.trace, seen.failed) == (TRACE, "AbortError")


async def test_without_a_collector_nothing_is_kept(gateway: GatewayUnderTest) -> None:
    assert (await sent(gateway, ("traceparent", GOOD))).trace is None


async def test_the_sender_and_the_gateway_are_of_one_trace(
    gateway: GatewayUnderTest, sink: SpanSink, collector: Collector
) -> None:
    async with gateway.sender() as client:
        told = await client.submit([b"Jane Doe"])
    sink.close()
    by_name = {span.name: span for span in collector.spans}
    assert {span.trace for span in collector.spans} == {by_name["submit"].trace}
    assert by_name["prepare"].parent == by_name["send"].parent == by_name["submit"].span
    assert by_name["SubmitStudy"].parent == by_name["send"].span
    assert by_name["submit"].attributes["hounsfield.job"] == told.id
    assert told.trace is None  # the answer tells the sender nothing of it


async def test_a_sender_that_gives_up_ends_its_spans(
    gateway: GatewayUnderTest, sink: SpanSink, collector: Collector
) -> None:
    for key in gateway.keys.worker_keys.glob("*.public.json"):
        key.unlink()
    async with gateway.sender() as client:
        with pytest.raises(Transient):
            await client.submit([b"x"])
    sink.close()
    assert {span.name: span.failed for span in collector.spans} == {
        "submit": "Transient",
        "prepare": "Transient",
    }
