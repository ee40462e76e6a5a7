"""Reads objects again and tells which are not what the ledger says they are.

ledger: key, length, SHA-256 ──read every byte in the store──▶ faults
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from client.errors import NotFound
from client.ledger.ledger import Ledger
from client.objectstore.objects import ObjectStore, StoredObject, job_id_of

__all__ = ("ObjectFault", "check_ledger_objects", "check_objects", "fault_of", "in_parallel")

_AT_ONCE = 4
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class ObjectFault:
    """An object that is not what it was, and how it differs."""

    key: str
    what: str


async def check_objects(
    store: ObjectStore, expected: Iterable[StoredObject]
) -> tuple[ObjectFault, ...]:
    """Read every object; return those that are gone or altered.

    Raises:
        Transient: The store is away.
    """
    found = await in_parallel(lambda stored: fault_of(store, stored), expected)
    return tuple(fault for fault in found if fault is not None)


async def check_ledger_objects(
    ledger: Ledger, store: ObjectStore
) -> tuple[int, tuple[ObjectFault, ...]]:
    """Read every object that a running ledger names; return their number and the faults.

    Raises:
        Transient: The ledger or the store is away.
    """
    number, after = 0, ""
    faults: list[ObjectFault] = []
    while page := await ledger.stored(after):
        faults += await check_objects(store, page)
        number, after = number + len(page), page[-1].key
    # What was erased, expired or replaced while we read is no fault.
    jobs = await ledger.known({job_id_of(fault.key) for fault in faults})
    named = {
        key
        for job in jobs.values()
        if not job.withdrawn
        for key in (job.object_key, job.result_key)
    }
    return number, tuple(fault for fault in faults if fault.key in named)


async def fault_of(store: ObjectStore, expected: StoredObject) -> ObjectFault | None:
    """Read one object; return how it differs, None when it does not."""
    digest = hashlib.sha256()
    length = 0
    try:
        async for piece in store.get(expected.key):
            digest.update(piece)
            length += len(piece)
    except NotFound:
        return ObjectFault(expected.key, "is missing")
    if length != expected.length:
        return ObjectFault(expected.key, f"has {length} bytes instead of {expected.length}")
    if digest.hexdigest() != expected.sha256:
        return ObjectFault(expected.key, "was altered: its SHA-256 is another")
    return None


async def in_parallel(work: Callable[[T], Awaitable[R]], items: Iterable[T]) -> list[R]:
    """Do the same with every item, a few at a time; results come in the items' order."""
    results: list[R] = []
    rest = iter(items)
    while batch := list(itertools.islice(rest, _AT_ONCE)):
        results += await asyncio.gather(*(work(item) for item in batch))
    return results
