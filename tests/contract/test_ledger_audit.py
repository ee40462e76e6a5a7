"""The audit trail: complete, without gaps, and no one without its key can alter it unseen."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from datetime import UTC, datetime

import pytest

from client.audittrail import AuditEntry, AuditEvent, Outcome
from client.errors import Busy, ConfigurationError, RefusalCode, Rejected
from client.jobs import Actor, JobState
from client.ledger import recorder
from client.ledger.audit import AuditKey
from client.ledger.ledger import Ledger
from client.ledger.verification import ChainReport
from tests.ledgers import AUDIT_KEY, LEASE_S, Clock, raw_sql, result_of, submitted

pytestmark = pytest.mark.contract

DOCTOR = Actor("dr.x", "clinician")
READ = AuditEntry("call.FetchResult", Outcome.DENIED, job_id="j", code="C", detail="why")


async def faults(ledger: Ledger, tenant: str = "radiology") -> list[tuple[int, str]]:
    (report,) = await ledger.verify_chains(tenant)
    return [(fault.number, fault.what) for fault in report.faults]


async def filled(ledger: Ledger, count: int = 10) -> None:
    entries = [AuditEntry("call.GetJob", detail=str(number)) for number in range(count)]
    await asyncio.gather(*(ledger.record("radiology", DOCTOR, entry) for entry in entries))


async def test_events_say_who_did_what_and_are_chained(ledger: Ledger, clock: Clock) -> None:
    job = await submitted(ledger)
    claimed = await ledger.claim(job.id, "w1", LEASE_S)
    await ledger.finish(claimed, result_of(claimed))
    read = await ledger.record("radiology", DOCTOR, READ)
    events = await ledger.audit_events("radiology")
    assert [(e.number, e.actor, e.role, e.action, e.state, e.attempt) for e in events] == [
        (1, "gateway", "", "job.received", "received", 0),
        (2, "worker:w1", "", "job.claimed", "running", 1),
        (3, "worker:w1", "", "job.finished", "done", 1),
        (4, "dr.x", "clinician", "call.FetchResult", "", 0),
    ]
    assert events[3] == read
    assert (read.outcome, read.job_id, read.code, read.detail) == ("denied", "j", "C", "why")
    assert events[:3] == await ledger.events(job.id)
    assert await ledger.audit_events("radiology", after=1, limit=2) == events[1:3]
    assert all(event.at.tzinfo is UTC for event in events)
    assert await faults(ledger) == []


def test_the_hash_is_what_the_docstring_says() -> None:
    at = datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    values = ("t", 7, at, "a", "r", "x", "ok", "j", "done", 2, "C", 'ä"\n')
    event = dict(zip(AuditEvent.__dataclass_fields__, values, strict=False))
    text = (
        f'["hounsfield-event-1","{"f" * 64}","t",7,"2030-01-02T03:04:05.000006Z","a","r","x","ok",'
        '"j","done",2,"C","ä\\"\\n"]'
    )
    expected = hmac.new(AUDIT_KEY, text.encode(), hashlib.sha256).hexdigest()
    assert AuditKey(AUDIT_KEY).event_hash("f" * 64, event) == expected
    head = json.dumps(["hounsfield-head-1", "t", 7, "e" * 64], separators=(",", ":"))
    expected = hmac.new(AUDIT_KEY, head.encode(), hashlib.sha256).hexdigest()
    assert AuditKey(AUDIT_KEY).head_mac("t", 7, "e" * 64) == expected


async def test_each_tenant_has_its_own_chain_and_the_system_names_them(ledger: Ledger) -> None:
    for tenant in ("b", "a", "b"):
        await ledger.record(tenant, DOCTOR, READ)
    assert [e.number for e in await ledger.audit_events("b")] == [1, 2]
    system = await ledger.audit_events("")
    assert [(e.action, e.detail) for e in system] == [("chain.begun", "b"), ("chain.begun", "a")]
    reports = await ledger.verify_chains()
    assert [(r.tenant, r.events, r.intact) for r in reports] == [
        ("", 2, True),
        ("a", 1, True),
        ("b", 2, True),
    ]
    assert reports[2].head_hash == (await ledger.audit_events("b"))[-1].hash


COLUMNS = {
    "at": "'2029-01-01 00:00:00.000000'",
    "actor": "'mallory'",
    "role": "'auditor'",
    "action": "'call.Nothing'",
    "outcome": "'denied'",
    "job_id": "'other'",
    "state": "'done'",
    "attempt": "9",
    "code": "'X'",
    "detail": "'nothing happened'",
    "hash": f"'{'0' * 64}'",
}


@pytest.mark.parametrize("number", [1, 10])
async def test_an_edit_of_any_column_is_found(ledger: Ledger, url: str, number: int) -> None:
    await filled(ledger)
    for column, value in COLUMNS.items():
        where = f"WHERE tenant = 'radiology' AND number = {number}"
        old = (await raw_sql(url, f"SELECT {column} FROM events {where}"))[0][0]
        await raw_sql(url, f"UPDATE events SET {column} = {value} {where}")
        found = [at for at, _ in await faults(ledger)]
        assert found, column
        assert set(found) <= {number, number + 1, 10}, column
        await raw_sql(url, f"UPDATE events SET {column} = :old {where}", old=old)
        assert await faults(ledger) == [], column


@pytest.mark.parametrize(
    ("statements", "place"),
    [
        (("DELETE FROM events WHERE tenant = 'radiology' AND number = 1",), 1),
        (("DELETE FROM events WHERE tenant = 'radiology' AND number IN (4, 5)",), 4),
        (("DELETE FROM events WHERE tenant = 'radiology' AND number > 7",), 8),
        (("DELETE FROM events WHERE tenant = 'radiology'",), 1),
        (
            (
                "DELETE FROM events WHERE tenant = 'radiology' AND number = 10",
                "UPDATE chain_heads SET number = 9, hash = (SELECT hash FROM events WHERE "
                "tenant = 'radiology' AND number = 9) WHERE tenant = 'radiology'",
            ),
            0,
        ),
        (
            (
                "DELETE FROM events WHERE tenant = 'radiology' AND number = 4",
                "UPDATE events SET number = -number WHERE number > 4 AND tenant = 'radiology'",
                "UPDATE events SET number = -number - 1 WHERE number < 0",
                "UPDATE chain_heads SET number = 9 WHERE tenant = 'radiology'",
            ),
            0,
        ),
        (("DELETE FROM chain_heads WHERE tenant = 'radiology'",), 0),
        (("UPDATE chain_heads SET mac = hash WHERE tenant = 'radiology'",), 0),
    ],
    ids=["first", "middle", "tail", "all", "tail+end", "renumbered", "end", "mac"],
)
async def test_a_deletion_is_found(
    ledger: Ledger, url: str, statements: tuple[str, ...], place: int
) -> None:
    await filled(ledger)
    await raw_sql(url, *statements)
    found = await faults(ledger)
    assert found
    assert min(at for at, _ in found) == place


async def test_a_whole_chain_cannot_vanish(ledger: Ledger, url: str) -> None:
    await filled(ledger, 2)
    await raw_sql(
        url,
        "DELETE FROM events WHERE tenant = 'radiology'",
        "DELETE FROM chain_heads WHERE tenant = 'radiology'",
    )
    assert {r.tenant: r.intact for r in await ledger.verify_chains()} == {
        "": True,
        "radiology": False,
    }


async def test_reordering_is_found(ledger: Ledger, url: str) -> None:
    await filled(ledger)
    swap = "UPDATE events SET number = {} WHERE tenant = 'radiology' AND number = {}"
    await raw_sql(url, swap.format(99, 3), swap.format(3, 6), swap.format(6, 99))
    assert {3, 6} <= {at for at, _ in await faults(ledger)}


@pytest.mark.parametrize("number", [-1, 0, 11, 500])
async def test_an_insertion_is_found(ledger: Ledger, url: str, number: int) -> None:
    await filled(ledger)
    await raw_sql(
        url,
        "INSERT INTO events (tenant, number, at, actor, role, action, outcome, job_id, state, "
        f"attempt, code, detail, hash) SELECT tenant, {number}, at, actor, role, action, outcome, "
        "job_id, state, attempt, code, detail, hash FROM events WHERE number = 10",
    )
    assert [at for at, _ in await faults(ledger)] == [number]


async def test_an_event_of_another_tenant_or_key_does_not_fit(ledger: Ledger, url: str) -> None:
    await filled(ledger, 3)
    await ledger.record("cardiology", DOCTOR, READ)
    await raw_sql(
        url,
        "DELETE FROM events WHERE tenant = 'cardiology'",
        "UPDATE events SET tenant = 'cardiology' WHERE tenant = 'radiology' AND number = 1",
    )
    assert (1, "was altered, moved or added, or the one before it was") in await faults(
        ledger, "cardiology"
    )
    async with Ledger(url, bytes(32)) as other:
        assert not (await other.verify_chains("radiology"))[0].intact
        with pytest.raises(ConfigurationError):
            await other.record("radiology", DOCTOR, READ)


async def test_nothing_is_added_that_would_hide_a_cut(ledger: Ledger, url: str) -> None:
    await filled(ledger, 3)
    await raw_sql(
        url,
        "DELETE FROM events WHERE number = 3",
        "UPDATE chain_heads SET number = 2, hash = (SELECT hash FROM events WHERE number = 2 AND "
        "tenant = 'radiology') WHERE tenant = 'radiology'",
    )
    with pytest.raises(ConfigurationError, match="audit verify"):
        await ledger.record("radiology", DOCTOR, READ)
    with pytest.raises(ConfigurationError, match="audit verify"):
        await submitted(ledger)
    assert await ledger.counts() == {}
    assert (await submitted(ledger, tenant="cardiology")).state is JobState.RECEIVED


async def test_concurrent_writers_leave_no_gap(url: str, clock: Clock) -> None:
    async with (
        Ledger(url, AUDIT_KEY, clock=clock) as one,
        Ledger(url, AUDIT_KEY, clock=clock) as two,
    ):

        async def live(ledger: Ledger) -> None:
            job = await submitted(ledger)
            claimed = await ledger.claim(job.id, "w", LEASE_S)
            await ledger.finish(claimed, result_of(claimed))

        tenants = ("radiology", "radiology", "cardiology")
        await asyncio.gather(
            *(live(ledger) for ledger in (one, two) for _ in range(6)),
            *(one.record(t, DOCTOR, READ) for t in tenants for _ in range(10)),
            *(two.record(t, DOCTOR, READ) for t in tenants for _ in range(10)),
            *(reader.verify_chains() for reader in (one, two)),
        )
        reports = await two.verify_chains()
        assert {r.tenant: (r.events, r.faults) for r in reports} == {
            "": (2, ()),
            "cardiology": (20, ()),
            "radiology": (2 * 6 * 3 + 40, ()),
        }


async def test_verifying_while_events_are_written_finds_nothing(url: str, clock: Clock) -> None:
    async with (
        Ledger(url, AUDIT_KEY, clock=clock) as writer,
        Ledger(url, AUDIT_KEY, clock=clock) as reader,
    ):
        await filled(writer, 2)

        reports: list[ChainReport] = []

        async def write() -> None:
            while len(reports) < 12:
                await filled(writer, 3)

        writing = asyncio.create_task(write())
        while not writing.done():
            reports += await reader.verify_chains()
        await writing
        assert len({report.events for report in reports}) > 3
        assert [report.faults for report in reports if report.faults] == []


async def test_records_share_transactions_and_stay_in_order(ledger: Ledger) -> None:
    commits = 0
    table_record = ledger._table.record

    async def counted(drafts: object) -> list[AuditEvent]:
        nonlocal commits
        commits += 1
        return await table_record(drafts)  # type: ignore[arg-type]

    ledger._table.record = counted  # type: ignore[method-assign]
    entries = [AuditEntry("call.GetJob", detail=str(n)) for n in range(200)]
    events = await asyncio.gather(
        *(ledger.record(("a", "b")[n % 2], DOCTOR, entry) for n, entry in enumerate(entries))
    )
    assert [event.detail for event in events] == [entry.detail for entry in entries]
    assert [event.number for event in events[::2]] == list(range(1, 101))
    assert commits <= 3
    assert await faults(ledger, "a") == await faults(ledger, "b") == []


async def test_the_wait_for_the_audit_trail_is_bounded(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "_MAX_WAITING", 5)
    answers = await asyncio.gather(
        *(ledger.record("radiology", DOCTOR, READ) for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(answer, Busy) for answer in answers) == 15
    assert len(await ledger.audit_events("radiology")) == 5


async def test_what_cannot_be_kept_is_refused_alone(ledger: Ledger) -> None:
    good, bad = await asyncio.gather(
        ledger.record("radiology", DOCTOR, READ),
        ledger.record("radiology", Actor("a\0b"), READ),
        return_exceptions=True,
    )
    assert isinstance(good, AuditEvent)
    assert isinstance(bad, Rejected)
    assert bad.code is RefusalCode.INVALID_REQUEST


async def test_a_change_and_its_event_stand_or_fall_together(ledger: Ledger, url: str) -> None:
    job = await submitted(ledger)
    await raw_sql(url, "UPDATE chain_heads SET mac = hash WHERE tenant = 'radiology'")
    with pytest.raises(ConfigurationError):
        await ledger.claim(job.id, "w", LEASE_S)
    assert (await ledger.get(job.id)).state is JobState.RECEIVED
    assert len(await ledger.events(job.id)) == 1


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ConfigurationError, match="32 bytes"):
        Ledger("sqlite+aiosqlite:////tmp/never", bytes(length))


def test_equal_texts_in_other_columns_hash_differently() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    names = tuple(AuditEvent.__dataclass_fields__)
    first = ("t", 1, at, "ab", "", "x", "ok", "", "", 0, "", "")
    second = ("t", 1, at, "a", "b", "x", "ok", "", "", 0, "", "")
    key = AuditKey(AUDIT_KEY)
    hashes = {
        key.event_hash("0" * 64, dict(zip(names, values, strict=False)))
        for values in (first, second)
    }
    assert len(hashes) == 2
