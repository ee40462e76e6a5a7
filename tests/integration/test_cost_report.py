"""What a real study takes on the real stack is measured, entered and told."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from client.ledger.spent import JobSpending
from client.triton.inference import connect
from client.triton.server import worker_headers
from tests.local_stack import LocalStack, running_stack

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples" / "colin27_mr"
SLICES = 181


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with running_stack(tmp_path_factory.mktemp("cost")) as running:
        yield running


async def computed_s(stack: LocalStack) -> float:
    """Seconds for which the network has computed, by Triton's statistics; a batch counts once."""
    worker = psutil.Process(stack.pid("worker")).environ()
    client = connect(worker["HOUNSFIELD_TRITON_URL"])
    try:
        answer = await client.get_inference_statistics(
            "brain_mr_net", headers=worker_headers(worker["HOUNSFIELD_TRITON_WORKER_KEY"])
        )
    finally:
        await client.close()
    batches = answer.model_stats[0].batch_stats
    return float(sum(batch.compute_infer.ns for batch in batches)) / 1e9


async def spending(stack: LocalStack) -> list[JobSpending]:
    now = datetime.now(UTC)
    async with stack.ledger() as ledger:
        return [job async for job in ledger.spending(now - timedelta(days=1), now)]


def test_a_studys_cost_is_what_it_took(stack: LocalStack, tmp_path: Path) -> None:
    before, began = asyncio.run(computed_s(stack)), time.monotonic()
    job = stack.hounsfield("submit", *sorted(SAMPLE.glob("*.dcm")), "--wait")
    wall_s = time.monotonic() - began
    computed = asyncio.run(computed_s(stack)) - before
    stack.hounsfield("fetch", job["id"], "--out", tmp_path)

    (spent,) = asyncio.run(spending(stack))
    (attempt,) = spent.attempts
    cost = attempt.cost
    assert (spent.id, attempt.attempt, attempt.state) == (job["id"], 1, "done")
    assert (cost.model, cost.version, cost.device) == ("brain_mr", "1", "cpu")
    assert (cost.engine, cost.slices) == ("OpenVINO f32", SLICES)
    # Triton counts here what starting requests took: nearly all of the time while there is always
    # a next slice (a tenth less on a machine at rest), less where others take the cores.
    assert 0.7 * cost.engine_us / 1e6 < computed <= cost.engine_us / 1e6
    assert 0 < cost.cpu_us / 1e6 < wall_s * (os.cpu_count() or 1)
    assert (cost.fetched_bytes, cost.stored_bytes) == (job["study_bytes"], job["result_bytes"])
    objects = (path for path in (stack.home / "objects").rglob("*") if path.is_file())
    sizes = sorted(path.stat().st_size for path in objects)
    assert sizes == sorted([cost.fetched_bytes, cost.stored_bytes])

    told = stack.hounsfield("report", "cost", "--since", "2020-01-01", "--by", "study")
    (line,) = told["lines"]
    assert line["study"] == job["id"]
    assert line["engines"] == [
        {
            "device": "cpu",
            "engine": "OpenVINO f32",
            "seconds": line["cpu_engine_seconds"],
        }
    ]
    assert float(line["cpu_engine_seconds"]) == pytest.approx(cost.engine_us / 1e6, abs=0.001)
    assert float(line["core_seconds"]) == pytest.approx(cost.cpu_us / 1e6, abs=0.001)
    assert (line["received_bytes"], line["sent_bytes"]) == (cost.fetched_bytes, cost.stored_bytes)
    assert (line["attempts"], line["unaccounted"]) == (1, 0)
    source = {path.name for path in SAMPLE.glob("*.dcm")}
    assert not any(name in json.dumps(told) for name in source)
