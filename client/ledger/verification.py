"""Recomputes the audit trail from the database and tells every place where it was tampered with."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, func, select

from client.ledger.audit import FIRST_HASH, SYSTEM_TENANT, AuditKey
from client.ledger.jobtable import JobTable
from client.ledger.schema import chain_heads, events

__all__ = ("ChainFault", "ChainReport", "verify_chain", "verify_chains")

_PAGE = 1000
_MAX_FAULTS = 1000


@dataclass(frozen=True, slots=True)
class ChainFault:
    """A place where a chain is not what it was: an event's number (0: its end), and the fault."""

    number: int
    what: str


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What came of one tenant's chain.

    Attributes:
        tenant: Whose; "" is the system's own.
        events: How many there are.
        head_hash: Hash of the last event that the chain's end names; 64 zeros when there is none.
        faults: What was found, by number; at most 1000.
    """

    tenant: str
    events: int
    head_hash: str
    faults: tuple[ChainFault, ...]

    @property
    def intact(self) -> bool:
        """Whether nothing was found."""
        return not self.faults


async def verify_chains(table: JobTable, key: AuditKey) -> tuple[ChainReport, ...]:
    """Check the chain of every tenant that has one, or should have one.

    Raises:
        Transient: The database is away.
    """
    begun = select(events.c.detail).where(
        events.c.tenant == SYSTEM_TENANT, events.c.action == "chain.begun"
    )
    tenants = {SYSTEM_TENANT}
    for query in (begun, select(chain_heads.c.tenant), select(events.c.tenant).distinct()):
        tenants |= {row[0] for row in await table.fetch(query)}
    return tuple([await verify_chain(table, key, tenant) for tenant in sorted(tenants)])


async def verify_chain(table: JobTable, key: AuditKey, tenant: str) -> ChainReport:
    """Check one tenant's chain; writers may go on meanwhile.

    Raises:
        Transient: The database is away.
    """
    head, highest, count = await _extent(table, tenant)
    if head is None:
        fault = ChainFault(0, "the end of the chain is missing, so events may be missing too")
        return ChainReport(tenant, count, FIRST_HASH, (fault,))
    faults = []
    if not hmac.compare_digest(head.mac, key.head_mac(tenant, head.number, head.hash)):
        faults.append(ChainFault(0, "the end of the chain was altered"))
    if highest > head.number:
        faults.append(ChainFault(highest, f"was added: the chain ends with {head.number}"))
    faults += await _Walk(table, key, tenant).to(head.number, head.hash)
    return ChainReport(tenant, count, head.hash, tuple(faults[:_MAX_FAULTS]))


async def _extent(table: JobTable, tenant: str) -> tuple[Row[Any] | None, int, int]:
    """Return the chain's end, its highest number and its length, all of one moment."""
    highest = func.coalesce(func.max(events.c.number), 0).label("highest")
    own = select(func.count().label("length"), highest)
    counted = own.where(events.c.tenant == tenant).subquery()
    query = select(counted, chain_heads)
    joined = query.select_from(counted).outerjoin(chain_heads, chain_heads.c.tenant == tenant)
    row = (await table.fetch(joined))[0]
    return (row if row.number is not None else None), row.highest, row.length


class _Walk:
    """Goes along one chain, page by page, and notes what does not fit."""

    def __init__(self, table: JobTable, key: AuditKey, tenant: str) -> None:
        self._table = table
        self._key = key
        self._tenant = tenant
        self._faults: list[ChainFault] = []
        self._expected = 1
        self._previous = FIRST_HASH

    async def to(self, end: int, end_hash: str) -> list[ChainFault]:
        """Return what is wrong with the events up to the number ``end``."""
        after: int | None = None
        while len(self._faults) < _MAX_FAULTS:
            page = await self._page(after, end)
            for row in page:
                self._check(row)
            if len(page) < _PAGE:
                self._miss(end + 1)
                if self._previous != end_hash and not self._faults:
                    self._fault(end, "is not the event that the chain's end names")
                break
            after = page[-1].number
        return self._faults

    async def _page(self, after: int | None, end: int) -> list[Row[Any]]:
        query = select(events).where(events.c.tenant == self._tenant, events.c.number <= end)
        if after is not None:
            query = query.where(events.c.number > after)
        return await self._table.fetch(query.order_by(events.c.number).limit(_PAGE))

    def _check(self, row: Row[Any]) -> None:
        if row.number < self._expected:
            self._fault(row.number, "was added: a chain begins with 1")
            return
        known = row.number == self._expected
        self._miss(row.number)
        if known and row.hash != self._key.event_hash(self._previous, dict(row._mapping)):
            self._fault(row.number, "was altered, moved or added, or the one before it was")
        self._expected, self._previous = row.number + 1, row.hash

    def _miss(self, number: int) -> None:
        """Note that the events from the expected one up to this number are not there."""
        if number > self._expected:
            self._fault(self._expected, f"is missing, with all up to {number - 1}")

    def _fault(self, number: int, what: str) -> None:
        self._faults.append(ChainFault(number, what))
