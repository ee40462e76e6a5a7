"""Gives up studies and results when the time for which they are kept is over.

ledger: finished long ago ──▶ study given up │ job expired, with an event ──▶ objects deleted

The ledger comes first: what a crash then leaves in the store is an orphan, which the sweep finds.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from client.ledger.ledger import Ledger
from client.objectstore.objects import ObjectStore

__all__ = ("RetentionRules", "apply_retention")

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """Days after the end of a job; 0 keeps for ever.

    Attributes:
        study_days: Until its study is deleted; it cannot be processed again then.
        result_days: Until its result is deleted, and its study with it.
    """

    study_days: float = 0.0
    result_days: float = 0.0


async def apply_retention(
    rules: RetentionRules, ledger: Ledger, store: ObjectStore, now: datetime
) -> int:
    """Give up what is older than the rules keep it; return how many objects were deleted.

    Raises:
        Transient: The ledger or the store is away; what was given up until then stays so.
    """
    deleted = 0
    if rules.result_days:
        deleted += await _expire_jobs(ledger, store, now - timedelta(days=rules.result_days))
    if rules.study_days:
        deleted += await _expire_studies(ledger, store, now - timedelta(days=rules.study_days))
    return deleted


async def _expire_jobs(ledger: Ledger, store: ObjectStore, finished_before: datetime) -> int:
    deleted = 0
    while old := await ledger.expirable(finished_before):
        for job in await ledger.expire([job.id for job in old]):
            for key in filter(None, (job.object_key, job.result_key)):
                await store.delete(key)
                deleted += 1
            _LOG.info("%s expired: its study and result are deleted", job.id)
    return deleted


async def _expire_studies(ledger: Ledger, store: ObjectStore, finished_before: datetime) -> int:
    deleted = 0
    while old := await ledger.with_study(finished_before):
        keys = {job.id: job.object_key for job in old}
        for job in await ledger.give_up_studies(list(keys)):
            await store.delete(keys[job.id])
            deleted += 1
            _LOG.info("%s expired in part: its study is deleted", job.id)
    return deleted
