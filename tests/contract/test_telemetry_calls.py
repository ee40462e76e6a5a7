"""A gateway counts each call once, by how it ended, and the bytes of studies and results."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from client.errors import AccessDenied, NotFound
from client.jobs import JobState
from tests.dicom_factory import Recipe, classic_files, numbered_volume
from tests.gateways import GatewayUnderTest, running_gateway
from tests.scrapes import Scrape, scrape_registry

pytestmark = pytest.mark.contract

STUDY = [content for _, content in classic_files(Recipe(volume=numbered_volume(4, 32, 32)))]


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayUnderTest]:
    async with running_gateway(tmp_path) as running:
        yield running


def calls(seen: Scrape, method: str) -> dict[str, float]:
    samples = seen.samples("hounsfield_calls_total")
    return {labels["code"]: value for labels, value in samples if labels["method"] == method}


async def test_calls_are_counted_by_how_they_ended(gateway: GatewayUnderTest) -> None:
    async with gateway.sender() as client:
        job = await client.submit(STUDY)
        with pytest.raises(NotFound):
            await client.get(str(uuid.uuid4()))
        await client.get(job.id)
        watching = asyncio.create_task(client.wait(job.id))
        await asyncio.sleep(0.2)
        during = scrape_registry(gateway.registry)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        async with asyncio.timeout(5):
            while not calls(scrape_registry(gateway.registry), "WatchJob"):
                await asyncio.sleep(0.02)
    seen = scrape_registry(gateway.registry)
    assert calls(seen, "SubmitStudy") == {"OK": 1}
    assert calls(seen, "GetJob") == {"OK": 1, "NOT_FOUND": 1}
    assert calls(seen, "WatchJob") == {"CANCELLED": 1}
    assert during.total("hounsfield_calls_in_flight", method="WatchJob") == 1
    assert seen.total("hounsfield_calls_in_flight") == 0


async def test_a_refused_caller_is_counted(gateway: GatewayUnderTest) -> None:
    async with gateway.sender(token="no.real.token") as client:
        with pytest.raises(AccessDenied):
            await client.get(str(uuid.uuid4()))
    codes = calls(scrape_registry(gateway.registry), "GetJob")
    assert sum(codes.values()) == 1
    assert "OK" not in codes


async def test_studies_and_results_are_weighed(gateway: GatewayUnderTest) -> None:
    async with gateway.sender() as client:
        job = await client.submit(STUDY)
        await gateway.work_once({"segmentation-001.dcm": bytes(200_000)})
        done = await client.wait(job.id)
        assert done.state is JobState.DONE
        await client.fetch(done)
        await client.fetch(done)
    seen = scrape_registry(gateway.registry)
    received = seen.total("hounsfield_received_bytes_total")
    stored = (await gateway.ledger.get(job.id)).object_bytes
    assert 0 < received - stored < 4096  # the header, and the frame of each message
    sent = seen.total("hounsfield_sent_bytes_total")
    assert 0 < sent - 2 * done.result_bytes < 4096
