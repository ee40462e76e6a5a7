"""Turns audit events into DICOM audit messages: FHIR AuditEvent resources, a JSON line each.

AuditEvent (ledger) ──event code of PS3.15 A.5.3──▶ FHIR AuditEvent ──▶ SIEM, audit repository

The fields are those of DICOM PS3.15 A.5.2 under the names that FHIR R4 gives them ("AuditEvent",
mapping to DICOM); the codes are DICOM's own (PS3.16 CID 400, 401). Nothing of a patient is in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydicom.sr.codedict import codes

from client.audittrail import AuditEvent, Outcome

__all__ = ("audit_message",)

_DCM = "http://dicom.nema.org/resources/ontology/DCM"
_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
_ENTITY_TYPE = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_SOURCE_TYPE = "http://terminology.hl7.org/CodeSystem/security-source-type"
_OUTCOMES = {Outcome.OK: "0", Outcome.NOT_FOUND: "4", Outcome.FAILED: "8", Outcome.DENIED: "4"}
"""EventOutcomeIndicator of PS3.15 A.5.2: 0 success, 4 minor failure, 8 serious failure."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """DICOM's name of an event and the action of it: Create, Read, Update, Delete, Execute."""

    code: Any
    action: str
    subtype: Any = None


_DCM_CODES = codes.DCM
_QUERY = _Kind(_DCM_CODES.Query, "E")
_PROCEDURE = _Kind(_DCM_CODES.ProcedureRecord, "U")
_DELETED = _Kind(_DCM_CODES.DICOMStudyDeleted, "D")
_KEYS = _Kind(_DCM_CODES.SecurityAlert, "U", _DCM_CODES.SecurityConfiguration)
_REFUSED = _Kind(_DCM_CODES.SecurityAlert, "E", _DCM_CODES.UseOfRestrictedFunction)
_ACTIVITY = _Kind(_DCM_CODES.ApplicationActivity, "E")

_KINDS: dict[str, _Kind] = {
    "call.SubmitStudy": _Kind(_DCM_CODES.DICOMInstancesTransferred, "C"),
    "call.FetchResult": _Kind(_DCM_CODES.DICOMInstancesTransferred, "R"),
    "call.ListRecipientKeys": _QUERY,
    "call.GetJob": _QUERY,
    "call.ListJobs": _QUERY,
    "call.WatchJob": _QUERY,
    "call.CancelJob": _PROCEDURE,
    "call.RetryJob": _PROCEDURE,
    "call.ErasePatient": _DELETED,
    "call.ListEvents": _Kind(_DCM_CODES.AuditLogUsed, "R"),
    "job.received": _Kind(_DCM_CODES.DICOMInstancesTransferred, "C"),
    "job.claimed": _Kind(_DCM_CODES.DICOMInstancesAccessed, "R"),
    "job.finished": _Kind(_DCM_CODES.DICOMInstancesAccessed, "C"),
    "job.erased": _DELETED,
    "job.expired": _DELETED,
    "job.study_expired": _DELETED,
    "patient.erased": _DELETED,
}
_FAMILIES = {"job.": _PROCEDURE, "key.": _KEYS, "call.": _ACTIVITY}


def audit_message(event: AuditEvent, source: str) -> dict[str, Any]:
    """Return one entry as a FHIR R4 AuditEvent.

    Args:
        event: As the ledger has it.
        source: Name of this installation: AuditSourceID of PS3.15 A.5.2.3.

    Returns:
        JSON-ready; the entry's place and hash in the chain are in ``entity`` details, so that a
        repository can be compared with the ledger.
    """
    kind = _kind_of(event)
    message: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "type": _coding(kind.code),
        "subtype": [_coding(code) for code in _subtypes(event, kind)],
        "action": kind.action,
        "recorded": event.at.isoformat(),
        "outcome": _OUTCOMES[Outcome(event.outcome)],
        "agent": [_agent(event)],
        "source": {
            "observer": {"display": source},
            "type": [{"system": _SOURCE_TYPE, "code": "4", "display": "Application Server"}],
        },
        "entity": [_entity(event)],
    }
    if event.detail or event.code:
        message["outcomeDesc"] = " ".join(part for part in (event.code, event.detail) if part)
    return {key: value for key, value in message.items() if value}


def _kind_of(event: AuditEvent) -> _Kind:
    if event.outcome == Outcome.DENIED:
        return _REFUSED
    if event.action in _KINDS:
        return _KINDS[event.action]
    for family, kind in _FAMILIES.items():
        if event.action.startswith(family):
            return kind
    return _ACTIVITY


def _subtypes(event: AuditEvent, kind: _Kind) -> list[Any]:
    found = [kind.subtype] if kind.subtype is not None else []
    if event.role == "break_glass":
        found.append(_DCM_CODES.EmergencyOverrideStarted)
    return found


def _coding(code: Any) -> dict[str, str]:
    return {"system": _DCM, "code": code.value, "display": code.meaning}


def _agent(event: AuditEvent) -> dict[str, Any]:
    agent: dict[str, Any] = {
        "who": {"identifier": {"value": event.actor}},
        "requestor": bool(event.role),
    }
    if event.role:
        agent["role"] = [{"text": event.role}]
    if event.role == "break_glass":
        agent["purposeOfUse"] = [
            {"coding": [{"system": _REASON, "code": "BTG", "display": "break the glass"}]}
        ]
    return agent


def _entity(event: AuditEvent) -> dict[str, Any]:
    details = {
        "tenant": event.tenant,
        "action": event.action,
        "number": str(event.number),
        "hash": event.hash,
        "state": event.state,
        "attempt": str(event.attempt) if event.job_id else "",
    }
    entity: dict[str, Any] = {
        "type": {"system": _ENTITY_TYPE, "code": "2", "display": "System Object"},
        "detail": [
            {"type": name, "valueString": value} for name, value in details.items() if value
        ],
    }
    if event.job_id:
        entity["what"] = {"identifier": {"value": event.job_id}}
    return entity
