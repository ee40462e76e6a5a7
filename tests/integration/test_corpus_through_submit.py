"""Every DICOM file of the test wheels through the whole stack: a result or a coded refusal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from client.errors import RefusalCode
from client.ingest.sender import IngestClient
from client.jobs import JobState
from preprocess.spec import find_model_specs
from tests.corpus import Sample, corpus, read_and_route
from tests.local_stack import running_stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

AT_ONCE = 8
LONGEST_S = 60.0


async def push(client: IngestClient, sample: Sample, places: asyncio.Semaphore) -> tuple[str, str]:
    """Submit one sample and return how it ended: state and code."""
    async with places, asyncio.timeout(LONGEST_S):
        job = await client.wait((await client.submit(list(sample.paths))).id)
    assert job.attempt == 1, sample.name
    return str(job.state), job.code


async def test_every_file_ends_as_a_result_or_a_coded_refusal(
    tmp_path: Path, random_repository: Path
) -> None:
    samples = corpus()
    assert len(samples) > 200
    places = asyncio.Semaphore(AT_ONCE)
    with running_stack(tmp_path, model_repository=str(random_repository)) as stack:
        workers = {name: stack.pid(name) for name in ("worker", "triton", "gateway")}
        async with stack.client() as client:
            ends = await asyncio.gather(*(push(client, s, places) for s in samples))
        assert {name: stack.pid(name) for name in workers} == workers  # nothing was restarted
    specs = find_model_specs(random_repository)
    for sample, (state, code) in zip(samples, ends, strict=True):
        expected = {outcome.code for outcome in read_and_route(sample, specs)}
        if "RESULT" in expected:
            assert state == JobState.DONE, sample.name
        else:
            assert state == JobState.REJECTED, sample.name
            assert RefusalCode(code) in expected, sample.name
