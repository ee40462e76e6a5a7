"""How a job looks on a screen: a table's row, every field, one sentence with what to do next.

Job (+ label, decrypted here) ──▶ short_row │ job_row │ sentence
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from client.crypto.labels import StudyLabel
from client.jobs import Job, JobState

__all__ = ("job_row", "sentence", "short_row")

_SHORT_ID = 8


def job_row(job: Job, label: StudyLabel | None) -> dict[str, Any]:
    """Return every field of a job, for JSON and for `hounsfield show`."""
    return {
        "id": job.id,
        "study": _named(label),
        "state": str(job.state),
        "priority": str(job.priority),
        "model": job.model,
        "attempt": job.attempt,
        "stage": job.stage,
        "progress": round(job.progress, 2),
        "code": job.code,
        "reason": job.reason,
        "study_bytes": job.object_bytes,
        "result_bytes": job.result_bytes,
        "created": f"{job.created_at:%Y-%m-%d %H:%M:%S}",
        "updated": f"{job.updated_at:%Y-%m-%d %H:%M:%S}",
        "upload_id": job.upload_id,
    }


def short_row(job: Job, label: StudyLabel | None) -> dict[str, Any]:
    """Return what fits a line of a table."""
    return {
        "id": job.id[:_SHORT_ID],
        "study": _named(label),
        "state": str(job.state),
        "priority": str(job.priority),
        "try": job.attempt,
        "stage": f"{job.stage} {job.progress:.0%}" if job.stage else "",
        "code": job.code,
        "created": f"{job.created_at:%Y-%m-%d %H:%M:%S}",
    }


def sentence(job: Job) -> str:
    """Return where a job is, and what a person does next."""
    short = job.id[:_SHORT_ID]
    match job.state:
        case JobState.DONE:
            return f"Job {short} is done. Get it:  hounsfield fetch {short} --out results"
        case JobState.DEAD:
            return (
                f"Job {short} is dead: {job.code}. {job.reason} When that is mended:  "
                f"hounsfield jobs retry {short}"
            )
        case JobState.REJECTED | JobState.FAILED:
            return f"Job {short} {job.state}: {job.code}. {job.reason}"
        case _:
            return f"Job {short} is {job.state}. Watch it:  hounsfield show {short}"


def _named(label: StudyLabel | None) -> str:
    """`Doe, Jane · 4711 · 2026-01-02`, as far as it is known."""
    if label is None:
        return ""
    name = ", ".join(part for part in label.name.split("^") if part)
    return " · ".join(part for part in (name, label.patient_id, _date(label.study_date)) if part)


def _date(value: str) -> str:
    try:
        return f"{datetime.strptime(value, '%Y%m%d').date()}"
    except ValueError:
        return value
