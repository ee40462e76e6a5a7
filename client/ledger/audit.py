"""The audit trail: one chain of events for each tenant, which only our processes can lengthen.

    event n: hash = HMAC-SHA256(key, [format, hash of event n-1, every field of event n])
    head:    mac  = HMAC-SHA256(key, [format, tenant, n, hash of event n])

Both lists are hashed as JSON in the canonical form of RFC 8785: no spaces, UTF-8, times as
``2030-01-01T00:00:00.000000Z``. Numbers begin with 1 and have no gap; the event before the first
has 64 zeros for a hash. The chain of the tenant "" is the system's own, and its ``chain.begun``
events name every other chain, so that not even a whole chain can vanish.

Who can write to the database but lacks the key cannot alter, add, remove or reorder an event, nor
cut off the last ones. A whole database that is set back to an earlier state is told only by the
hash of a later event that was kept elsewhere.
"""

from __future__ import annotations

import hmac
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from client.audittrail import AuditEntry, AuditEvent
from client.errors import ConfigurationError
from client.jobs import Actor
from client.ledger.schema import chain_heads, events

__all__ = (
    "FIRST_HASH",
    "SYSTEM_TENANT",
    "AuditKey",
    "Draft",
    "append",
    "begin_chain",
    "to_event",
)

SYSTEM_TENANT = ""
"""Whose chain holds what belongs to no tenant."""
FIRST_HASH = "0" * 64
"""Stands for the event before the first."""
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Draft:
    """An event that has no place in its chain yet; ``state`` is "" when no job changed."""

    tenant: str
    at: datetime
    actor: Actor
    entry: AuditEntry
    state: str = ""
    attempt: int = 0


_FIELDS = tuple(field.name for field in fields(AuditEvent))
_HASHED = tuple(name for name in _FIELDS if name != "hash")


class AuditKey:
    """What makes the chains: 32 secret bytes, shared by our processes.

    Raises:
        ConfigurationError: They are not 32 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != _KEY_BYTES:
            raise ConfigurationError(
                f"Expected an audit key of {_KEY_BYTES} bytes, got {len(secret)}."
            )
        self._secret = secret

    def event_hash(self, previous: str, values: dict[str, Any]) -> str:
        """Return the hash of an event whose fields are ``values``."""
        plain = {**values, "at": _told(values["at"])}
        return self._mac(["hounsfield-event-1", previous, *(plain[name] for name in _HASHED)])

    def head_mac(self, tenant: str, number: int, last_hash: str) -> str:
        """Return what proves the end of a chain."""
        return self._mac(["hounsfield-head-1", tenant, number, last_hash])

    def _mac(self, values: list[Any]) -> str:
        text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
        return hmac.digest(self._secret, text.encode(), "sha256").hex()


def _told(moment: datetime) -> str:
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def to_event(row: Row[Any]) -> AuditEvent:
    """Return the event that a row of ``events`` describes."""
    return AuditEvent(**{name: row._mapping[name] for name in _FIELDS})


async def begin_chain(
    connection: AsyncConnection, key: AuditKey, tenant: str, at: datetime
) -> None:
    """Make the chain of a tenant unless it is there; the system's own chain comes first."""
    system = await _locked_head(connection, SYSTEM_TENANT)
    if tenant == SYSTEM_TENANT:
        if system is None:
            await _insert_head(connection, key, tenant)
        return
    if await _locked_head(connection, tenant) is not None:
        return
    entry = AuditEntry("chain.begun", detail=tenant)
    await append(connection, key, [Draft(SYSTEM_TENANT, at, Actor("ledger"), entry)])
    await _insert_head(connection, key, tenant)


async def append(
    connection: AsyncConnection, key: AuditKey, drafts: Iterable[Draft]
) -> list[AuditEvent]:
    """Lengthen the chains within a transaction; chains stay locked until it ends.

    Returns:
        The events, in the order of their drafts within each tenant, tenants sorted.

    Raises:
        ConfigurationError: A chain's end was tampered with: nothing may be added that would hide
            it.
    """
    added: list[AuditEvent] = []
    # Always in the same order: two transactions must not wait for each other.
    for tenant, of_tenant in itertools.groupby(
        sorted(drafts, key=lambda d: d.tenant), key=lambda d: d.tenant
    ):
        head = await _locked_head(connection, tenant)
        if head is None or not hmac.compare_digest(
            head.mac, key.head_mac(tenant, head.number, head.hash)
        ):
            raise ConfigurationError(
                f"The end of the audit trail of tenant {tenant!r} is missing, was altered, or was "
                "made under another audit key: run `hounsfield audit verify`."
            )
        number, last = head.number, head.hash
        rows = []
        for draft in of_tenant:
            number += 1
            row = _row(draft, number)
            last = row["hash"] = key.event_hash(last, row)
            rows.append(row)
        await connection.execute(events.insert(), rows)
        end = {"number": number, "hash": last, "mac": key.head_mac(tenant, number, last)}
        await connection.execute(
            update(chain_heads).where(chain_heads.c.tenant == tenant).values(end)
        )
        added += [AuditEvent(**row) for row in rows]
    return added


def _row(draft: Draft, number: int) -> dict[str, Any]:
    entry = draft.entry
    return {
        "tenant": draft.tenant,
        "number": number,
        "at": draft.at,
        "actor": draft.actor.name,
        "role": draft.actor.role,
        "action": entry.action,
        "outcome": str(entry.outcome),
        "job_id": entry.job_id,
        "state": draft.state,
        "attempt": draft.attempt,
        "code": entry.code,
        "detail": entry.detail,
    }


async def _locked_head(connection: AsyncConnection, tenant: str) -> Row[Any] | None:
    query = select(chain_heads).where(chain_heads.c.tenant == tenant).with_for_update()
    return (await connection.execute(query)).one_or_none()


async def _insert_head(connection: AsyncConnection, key: AuditKey, tenant: str) -> None:
    mac = key.head_mac(tenant, 0, FIRST_HASH)
    values = {"tenant": tenant, "number": 0, "hash": FIRST_HASH, "mac": mac}
    await connection.execute(chain_heads.insert().values(values))
