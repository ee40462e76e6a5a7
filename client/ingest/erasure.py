"""Erases a patient: the key first, then the proof of it, then the ciphertext nobody can read.

    destroy the key ──▶ ledger: jobs marked, proof entered, one transaction ──▶ delete the objects

The order makes every crash harmless. Once the key is gone nothing can be read any more, whatever
comes next; the proof is entered only after that, so it never says more than is true; the objects
are only taking up room by then. Whoever calls again after a crash finishes what is left, since each
step finds what it did before. Until then a worker that takes such a job fails it with ERASED, and
the sweep of the store removes objects of erased jobs.
"""

from __future__ import annotations

from dataclasses import dataclass

from client.audittrail import AuditEvent
from client.errors import NotFound, RefusalCode, Rejected
from client.faultpoints import Step, reach
from client.jobs import Actor, Job
from client.ledger.ledger import Ledger
from client.objectstore.objects import ObjectStore
from client.vault.headers import unreadable
from client.vault.vault import Vault

__all__ = ("Subject", "erase_subject")


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose key a study's header is sealed under.

    Attributes:
        tenant: Whose patient.
        patient: The pseudonym, "" where the sender gave none.
        upload_id: The upload that stands for the patient then.
    """

    tenant: str
    patient: str
    upload_id: str = ""

    @property
    def name(self) -> str:
        """What the vault knows it by."""
        return self.patient or f"upload:{self.upload_id}"


async def erase_subject(
    subject: Subject, actor: Actor, reason: str, *, vault: Vault, ledger: Ledger, store: ObjectStore
) -> tuple[int, AuditEvent]:
    """Make every copy of a patient's studies and results unreadable for good.

    A study that arrives after the key was destroyed is under a new key and stays.

    Args:
        subject: Whom.
        actor: Who asked for it.
        reason: Why, for the audit trail; no patient data.
        vault: Has the key.
        ledger: Has the jobs, and keeps the proof.
        store: Has the objects.

    Returns:
        How many jobs are unreadable now, and the event that proves it.

    Raises:
        NotFound: There is nothing of that patient, or it is another tenant's.
        Rejected: INVALID_REQUEST; the upload belongs to a pseudonym.
        Transient: A part of the system is away; call again, it is taken up where it stopped.
    """
    await _check_name(subject, ledger)
    destroyed = await vault.destroy(subject.tenant, subject.name)
    reach(Step.KEY_DESTROYED)
    jobs = await unreadable(vault, await _jobs(subject, ledger))
    if not destroyed and not jobs:
        raise NotFound("Nothing of that patient or upload is here.")
    job_ids = [job.id for job in jobs]
    _, event = await ledger.erase(subject.tenant, job_ids, actor, reason)
    reach(Step.ERASURE_PROVED)
    for key in (key for job in jobs for key in (job.object_key, job.result_key) if key):
        await store.delete(key)
    return len(jobs), event


async def _check_name(subject: Subject, ledger: Ledger) -> None:
    if not subject.patient and any(job.patient for job in await _jobs(subject, ledger)):
        raise Rejected(
            RefusalCode.INVALID_REQUEST,
            "That upload was sent with a patient's pseudonym: erase the patient by it.",
        )


async def _jobs(subject: Subject, ledger: Ledger) -> tuple[Job, ...]:
    if subject.patient:
        return await ledger.jobs_of_patient(subject.tenant, subject.patient)
    job = await ledger.job_of_upload(subject.tenant, subject.upload_id)
    return () if job is None else (job,)
