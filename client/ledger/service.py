"""Which models are in service, and which earlier job may answer for the same content.

    worker ──says what it serves──▶ served_models ──claim──▶ Job.made_with ──finish, if unchanged──┐
    gateway ◀──the earlier job, if its fingerprint is the only one in service──────────────────────┘

A job keeps the fingerprint of its worker's models only if that is the same at its claim and at its
end. So a result that is answered again is one that the models in service now would make.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    case,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from client.jobs import WAITING_STATES, Job, Priority
from client.ledger.records import ServedModel
from client.ledger.schema import jobs, served_models
from client.version import SOFTWARE_VERSION

__all__ = (
    "answers_for",
    "fingerprint",
    "in_service",
    "served_at_claim",
    "served_still",
    "tell_served",
    "told_models",
)

_FORGET_AFTER = timedelta(days=1)


def told_models(models: Collection[ServedModel]) -> str:
    """Return models as canonical JSON, whatever their order."""
    rows = sorted((asdict(model) for model in models), key=lambda row: str(row["name"]))
    return json.dumps(rows, sort_keys=True, separators=(",", ":"))


def fingerprint(models: Collection[ServedModel]) -> str:
    """Return what is equal for equal models under this software, hexadecimal; "" for none.

    The software counts too: it reads, routes and measures.
    """
    if not models:
        return ""
    return hashlib.sha256(f"{SOFTWARE_VERSION}|{told_models(models)}".encode()).hexdigest()


def answers_for(job: Job, priority: Priority, serving: Collection[str]) -> bool:
    """Return whether an earlier job of the same content answers a new submission.

    Routine: one that is not finished, or one whose models are those in service. STAT: one that is
    STAT too and not finished, as starting over would only delay it; a result that is there already
    is made anew, since a worker may be about to tell of a newer model.

    Args:
        job: Not finished, or done.
        priority: Of the new submission.
        serving: Fingerprints in service now.
    """
    current = bool(job.made_with) and set(serving) == {job.made_with}
    if priority is Priority.STAT:
        waits = job.state in WAITING_STATES
        return job.priority is Priority.STAT and not job.finished and (waits or current)
    return current or not job.finished


def in_service(now: datetime) -> Select[Any]:
    """Ask for the fingerprints of the workers that were heard of lately."""
    return select(served_models.c.fingerprint).where(served_models.c.until > now).distinct()


def served_at_claim(owner: str, now: datetime) -> ColumnElement[str]:
    """What a job that this worker claims now is going to be made with."""
    return _served_by(literal(owner), now)


def served_still(now: datetime) -> ColumnElement[str]:
    """What a job that ends now was made with: "" when its worker's models changed meanwhile."""
    same = jobs.c.made_with == _served_by(jobs.c.owner, now)
    return case((same, jobs.c.made_with), else_="")


def _served_by(owner: ColumnElement[str], now: datetime) -> ColumnElement[str]:
    told = select(served_models.c.fingerprint).where(
        served_models.c.worker == owner, served_models.c.until > now
    )
    return func.coalesce(told.correlate(jobs).scalar_subquery(), "")


async def tell_served(
    connection: AsyncConnection,
    worker: str,
    models: Collection[ServedModel],
    now: datetime,
    until: datetime,
) -> None:
    """Replace what a worker said before, within a transaction; rows of the forgotten go too."""
    old = or_(served_models.c.worker == worker, served_models.c.until < now - _FORGET_AFTER)
    await connection.execute(delete(served_models).where(old))
    if models:
        values = {
            "worker": worker,
            "fingerprint": fingerprint(models),
            "models": told_models(models),
            "until": until,
        }
        await connection.execute(insert(served_models).values(values))
