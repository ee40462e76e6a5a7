"""Sends the studies of a load: through the gateway as a hospital does, or straight to Triton.

arrival ─▶ files ─▶ encrypt, send ─▶ acknowledged ─▶ ended ─▶ fetch, decrypt ─▶ looked at
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
from pydicom import dcmread

from client.cli.sending import connect
from client.dicom.reader import read_study
from client.errors import ClientError, Rejected
from client.ingest.sender import IngestClient
from client.jobs import Job, JobState, Priority
from client.limits import ReadLimits
from client.settings import Settings, load_settings
from client.triton.inference import TritonModel, TritonModelSettings
from loadtest.traffic.arrivals import Arrival
from loadtest.traffic.journal import Journal
from loadtest.traffic.payloads import Payloads
from loadtest.traffic.plan import Plan
from preprocess.spec import load_model_spec

__all__ = ("Sender", "open_sender")

MODEL = "brain_mr"
_WATCHES = {Priority.STAT: 12, Priority.ROUTINE: 36}
"""WatchJob calls of all generators at one time; a gateway has 64 for all senders. Studies behind
them are told later than they end, but those before them in the queue have not ended either."""


class Sender(Protocol):
    """Sends one study and notes what becomes of it."""

    async def send(self, arrival: Arrival) -> tuple[str, str]:
        """Send a study; return its outcome and code. Never raises for what became of it."""
        ...


@contextlib.asynccontextmanager
async def open_sender(plan: Plan, payloads: Payloads, journal: Journal) -> AsyncIterator[Sender]:
    """Connect as the plan says.

    Raises:
        ConfigurationError: A certificate, a key or the model is missing.
    """
    settings = load_settings()
    if plan.target == "triton":
        async with _model(plan.triton_url, settings) as model:
            yield _TritonSender(model, payloads, journal)
    else:
        async with connect(settings) as client:
            yield _StudySender(client, payloads, journal, plan.generators)


@contextlib.asynccontextmanager
async def _model(url: str, settings: Settings) -> AsyncIterator[TritonModel]:
    spec = load_model_spec(Path(settings.model_repository) / MODEL / "model.yaml")
    async with TritonModel(spec, TritonModelSettings(url)) as model:
        yield model


class _StudySender:
    """The ingest API, by the real client: upload, watch, fetch, decrypt."""

    def __init__(
        self, client: IngestClient, payloads: Payloads, journal: Journal, generators: int
    ) -> None:
        self._client = client
        self._payloads = payloads
        self._journal = journal
        self._watches = {
            priority: asyncio.Semaphore(max(1, most // generators))
            for priority, most in _WATCHES.items()
        }

    async def send(self, arrival: Arrival) -> tuple[str, str]:
        """See ``Sender.send``."""
        upload_id = str(uuid.uuid4())
        self._journal.sent(arrival.number, upload_id)
        try:
            outcome, code = await self._one(arrival, upload_id)
        except Rejected as refusal:
            outcome, code = "rejected", str(refusal.code)
        except (ClientError, ValueError, KeyError, StopIteration) as error:
            outcome, code = "error", type(error).__name__
        self._journal.ended(arrival.number, outcome, code)
        return outcome, code

    async def _one(self, arrival: Arrival, upload_id: str) -> tuple[str, str]:
        files = await asyncio.to_thread(self._payloads.files, arrival)
        job = await self._client.submit(
            files, priority=arrival.priority, upload_id=upload_id, process_again=True
        )
        self._journal.acknowledged(arrival.number, job.id, sum(map(len, files)))
        async with self._watches[arrival.priority]:
            job = await self._client.wait(job.id)
        if job.state is JobState.REJECTED:
            return "rejected", job.code
        if job.state is not JobState.DONE:
            return "failed", job.code
        result = await self._client.fetch(job)
        await asyncio.to_thread(_look_at, result, job, arrival.slices)
        return "done", ""


def _look_at(result: dict[str, bytes], job: Job, slices: int) -> None:
    """Open a result: the report is of this job and size, and the DICOM SEG can be read.

    Raises:
        ValueError: It is another job's, or of other slices.
    """
    report = json.loads(result["measurements.json"])
    seen = [series["slices"] for series in report["series"]]
    name = next(name for name in result if name.endswith(".dcm"))
    segmentation = dcmread(BytesIO(result[name]), stop_before_pixels=True)
    if report["job"] != job.id or seen != [slices] or segmentation.Modality != "SEG":
        raise ValueError("expected the result of the study that was sent")


class _TritonSender:
    """The served model, without gateway, queue and worker: slices in messages."""

    def __init__(self, model: TritonModel, payloads: Payloads, journal: Journal) -> None:
        self._model = model
        self._payloads = payloads
        self._journal = journal

    async def send(self, arrival: Arrival) -> tuple[str, str]:
        """See ``Sender.send``."""
        self._journal.sent(arrival.number)
        outcome, code = "done", ""
        try:
            await self._one(arrival)
        except (ClientError, ValueError) as error:
            outcome, code = "error", type(error).__name__
        self._journal.ended(arrival.number, outcome, code)
        return outcome, code

    async def _one(self, arrival: Arrival) -> None:
        files = await asyncio.to_thread(self._payloads.files, arrival)
        named = [(f"{place}.dcm", content) for place, content in enumerate(files)]
        content = await asyncio.to_thread(read_study, named, ReadLimits())
        (series,) = content.series
        masks = await self._model.segment(
            series.plan(self._model.spec), series.stored, priority=arrival.priority
        )
        if len(masks) != arrival.slices or not np.any(masks):
            raise ValueError("expected a mask of every slice, and structures in some of them")
