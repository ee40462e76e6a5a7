"""Audit messages are valid FHIR AuditEvents with DICOM's codes, and hold what the chain holds."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from fhir.resources.R4B.auditevent import AuditEvent as FhirAuditEvent

from client.auditmessages import audit_message
from client.audittrail import AuditEvent, Outcome
from client.proto import ingest_pb2

pytestmark = pytest.mark.unit

EVENT = AuditEvent(
    tenant="radiology",
    number=7,
    at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    actor="dr.x",
    role="clinician",
    action="call.FetchResult",
    outcome=Outcome.OK,
    job_id="6a1c6f8e-3f5d-4f7e-9d43-0b1c2d3e4f50",
    state="done",
    attempt=2,
    code="",
    detail="",
    hash="ab" * 32,
)
RPCS = [m.name for m in ingest_pb2.DESCRIPTOR.services_by_name["Ingest"].methods]
ACTIONS = [
    *(f"call.{name}" for name in RPCS),
    "job.received",
    "job.claimed",
    "job.finished",
    "job.rejected",
    "job.erased",
    "patient.erased",
    "key.rotated",
    "something.new",
]


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("action", ACTIONS)
def test_every_message_is_valid_fhir(action: str, outcome: Outcome) -> None:
    message = audit_message(replace(EVENT, action=action, outcome=outcome), "site-1")
    read = FhirAuditEvent.model_validate_json(json.dumps(message))
    assert (read.type.code or "").startswith("110")
    assert read.type.display


@pytest.mark.parametrize(
    ("action", "code", "verb"),
    [
        ("call.SubmitStudy", "110104", "C"),
        ("call.FetchResult", "110104", "R"),
        ("call.ListJobs", "110112", "E"),
        ("call.ListEvents", "110101", "R"),
        ("job.claimed", "110103", "R"),
        ("patient.erased", "110105", "D"),
        ("key.rotated", "110113", "U"),
    ],
)
def test_events_have_the_codes_of_the_standard(action: str, code: str, verb: str) -> None:
    message = audit_message(replace(EVENT, action=action), "site-1")
    assert (message["type"]["code"], message["action"]) == (code, verb)


def test_a_denied_call_is_a_security_alert() -> None:
    message = audit_message(replace(EVENT, outcome=Outcome.DENIED), "site-1")
    assert message["type"]["code"] == "110113"
    assert message["subtype"][0]["code"] == "110132"
    assert message["outcome"] == "4"


def test_breaking_the_glass_says_so() -> None:
    event = replace(EVENT, role="break_glass", detail="unconscious patient in the emergency room")
    message = audit_message(event, "site-1")
    assert message["agent"][0]["purposeOfUse"][0]["coding"][0]["code"] == "BTG"
    assert message["subtype"][-1]["code"] == "110127"
    assert "unconscious" in message["outcomeDesc"]


def test_a_message_can_be_found_in_the_chain_again() -> None:
    entity = audit_message(EVENT, "site-1")["entity"][0]
    details = {detail["type"]: detail["valueString"] for detail in entity["detail"]}
    assert details["number"] == "7"
    assert details["hash"] == EVENT.hash
    assert details["tenant"] == "radiology"
    assert entity["what"]["identifier"]["value"] == EVENT.job_id


def test_what_no_rpc_is_named_for_is_still_told() -> None:
    assert audit_message(replace(EVENT, action="x.y"), "s")["type"]["code"] == "110100"
