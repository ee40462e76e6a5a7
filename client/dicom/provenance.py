"""What made a result, and the UIDs that follow from it.

job + series + model ──▶ the same UIDs on every attempt
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from client.dicom.series import Series
from preprocess.spec import ModelSpec

__all__ = ("Provenance", "result_uid")


@dataclass(frozen=True)
class Provenance:
    """What made a result.

    Attributes:
        job_id: The job, the same on every attempt: results of a repeated attempt keep their UIDs.
        software_version: Version of this software.
        engine: Inference engine and device, as "OpenVINO 2026.4 CPU".
        model_sha256: Hash of the network's weights as served.
        created_at: When the job was accepted, with its time zone.
    """

    job_id: str
    software_version: str
    engine: str
    model_sha256: str
    created_at: datetime


def result_uid(series: Series, spec: ModelSpec, provenance: Provenance, kind: str) -> str:
    """A UUID-derived UID (PS3.5 B.2) that is the same on every attempt at one job."""
    key = "\0".join((provenance.job_id, series.uid, series.sop_class_uid, spec.sha256, kind))
    return f"2.25.{uuid.UUID(bytes=sha256(key.encode()).digest()[:16], version=4).int}"
