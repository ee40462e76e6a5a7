"""Every metric of the gateway and the worker: its name, labels, meaning and buckets.

catalogue ─▶ metrics.py (sets them) │ docs/metrics.md (explains them)

No label holds an id of a job, a tenant or anything of a patient: only what has few values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ("EVERY", "GATEWAY", "WORKER", "MetricSpec", "metric_tables")


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: As Prometheus shows it; a histogram's without ``_bucket``, ``_sum`` and ``_count``.
        kind: How it behaves.
        help: What it says, with its unit.
        labels: Names of its labels.
        buckets: Upper bounds of a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_CALL_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TURNAROUND_S = (
    1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 900, 1800, 3600, 7200, 14400, 21600,
)  # fmt: skip
_WAIT_S = (0.1, 0.25, 0.5, *_TURNAROUND_S)
_STAGE_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 60, 120)
_SLICES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
_FRACTIONS = (0, 0.001, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1)

EVERY = (
    MetricSpec("hounsfield_build_info", "gauge", "1, with the software's version.", ("version",)),
)
"""Of both processes; both show ``process_*`` of the Prometheus client as well."""

GATEWAY = (
    MetricSpec(
        "hounsfield_calls_total",
        "counter",
        "Calls of the ingest service that ended, by method and gRPC status code.",
        ("method", "code"),
    ),
    MetricSpec(
        "hounsfield_call_seconds",
        "histogram",
        "Seconds from a call's beginning to its end; a WatchJob lasts as long as it is watched.",
        ("method",),
        _CALL_S,
    ),
    MetricSpec(
        "hounsfield_calls_in_flight", "gauge", "Calls that are being answered.", ("method",)
    ),
    MetricSpec(
        "hounsfield_received_bytes_total",
        "counter",
        "Bytes of studies that senders sent, in whole messages of SubmitStudy.",
    ),
    MetricSpec(
        "hounsfield_sent_bytes_total",
        "counter",
        "Bytes of results that senders fetched, in whole messages of FetchResult.",
    ),
    MetricSpec(
        "hounsfield_jobs",
        "gauge",
        "Jobs in the ledger, by state. Every gateway tells the same: take max(). Unfinished ones "
        "are counted every 5 s, the others every 60 s.",
        ("state", "priority"),
    ),
    MetricSpec(
        "hounsfield_oldest_waiting_seconds",
        "gauge",
        "Age of the oldest job that is received or queued, in seconds; 0 if there is none.",
        ("priority",),
    ),
    MetricSpec(
        "hounsfield_oldest_unfinished_seconds",
        "gauge",
        "Age of the oldest job that has not ended, in seconds; 0 if there is none.",
        ("priority",),
    ),
    MetricSpec(
        "hounsfield_queue_entries",
        "gauge",
        "Entries of the queue, waiting or in work: the length of its stream.",
        ("priority",),
    ),
    MetricSpec("hounsfield_ledger_up", "gauge", "1 if the ledger answered when last asked."),
    MetricSpec("hounsfield_queue_up", "gauge", "1 if the queue answered when last asked."),
    MetricSpec(
        "hounsfield_store_up",
        "gauge",
        "1 if an object could be written and deleted when last tried, every 60 s.",
    ),
    MetricSpec(
        "hounsfield_certificate_expiry_timestamp_seconds",
        "gauge",
        "When what the gateway uses ends, as Unix time: its own certificate (gateway), the "
        "senders' CA (authority), the list of revoked certificates (revocations, if there is one).",
        ("certificate",),
    ),
    MetricSpec(
        "hounsfield_last_sweep_timestamp_seconds",
        "gauge",
        "When the reconciler last looked for lost work to the end, as Unix time.",
    ),
    MetricSpec(
        "hounsfield_requeued_total", "counter", "Jobs that the queue had lost and got again."
    ),
    MetricSpec(
        "hounsfield_dead_total",
        "counter",
        "Jobs that the reconciler let die because all tries were used up.",
    ),
)
"""Of the gateway alone."""

WORKER = (
    MetricSpec(
        "hounsfield_jobs_ended_total",
        "counter",
        "Attempts that ended: done, rejected, failed, lost (another worker has the job), retried, "
        "dead; code is the refusal's, model that of the study's first segmented series.",
        ("outcome", "code", "priority", "model"),
    ),
    MetricSpec(
        "hounsfield_wait_seconds",
        "histogram",
        "Seconds from a job's receipt to its first claim.",
        ("priority",),
        _WAIT_S,
    ),
    MetricSpec(
        "hounsfield_turnaround_seconds",
        "histogram",
        "Seconds from a job's receipt until the ledger knew its end: done, rejected, failed, dead.",
        ("priority",),
        _TURNAROUND_S,
    ),
    MetricSpec(
        "hounsfield_stage_seconds",
        "histogram",
        "Seconds that one attempt spent in a stage, all its series together.",
        ("stage",),
        _STAGE_S,
    ),
    MetricSpec(
        "hounsfield_stage_bytes_total",
        "counter",
        "Bytes that came out of a stage: study decrypted (fetch), pixels (read), masks (segment), "
        "DICOM SEG (write), encrypted result (store).",
        ("stage",),
    ),
    MetricSpec("hounsfield_studies_in_work", "gauge", "Studies in work.", ("priority",)),
    MetricSpec(
        "hounsfield_slices_total",
        "counter",
        "Slices segmented, by the model and the version of its network.",
        ("model", "version"),
    ),
    MetricSpec(
        "hounsfield_request_slices",
        "histogram",
        "Slices of a request to Triton.",
        ("model",),
        _SLICES,
    ),
    MetricSpec("hounsfield_triton_slices_in_flight", "gauge", "Slices that Triton has now."),
    MetricSpec(
        "hounsfield_triton_slices_target", "gauge", "Slices that Triton may have at a time."
    ),
    MetricSpec(
        "hounsfield_triton_queue_seconds",
        "gauge",
        "Mean seconds that requests waited in Triton during the last second of work; 0 when idle.",
        ("model",),
    ),
    MetricSpec(
        "hounsfield_model_info",
        "gauge",
        "1 for each model in service, with its network's version and engine.",
        ("model", "version", "engine"),
    ),
    MetricSpec(
        "hounsfield_cost_seconds_total",
        "counter",
        "Seconds that studies cost: cpu (of the worker), engine (of the network).",
        ("kind", "model"),
    ),
    MetricSpec(
        "hounsfield_foreground_fraction",
        "histogram",
        "Part of a series' voxels that lie in any structure, 0 to 1; its mean tells of drift.",
        ("model",),
        _FRACTIONS,
    ),
    MetricSpec(
        "hounsfield_last_outcome_timestamp_seconds",
        "gauge",
        "When an attempt last ended, as Unix time; 0 before the first.",
    ),
)
"""Of the worker alone."""


def metric_tables() -> str:
    """Return the Markdown of every metric for ``docs/metrics.md``."""
    parts = [("Both", EVERY), ("Gateway", GATEWAY), ("Worker", WORKER)]
    return "\n\n".join(f"## {title}\n\n{_table(specs)}" for title, specs in parts)


def _table(specs: tuple[MetricSpec, ...]) -> str:
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for spec in specs:
        labels = ", ".join(f"`{label}`" for label in spec.labels) or "–"
        bounds = f" Buckets: {', '.join(f'{b:g}' for b in spec.buckets)}." if spec.buckets else ""
        rows.append(f"| `{spec.name}` | {spec.kind} | {labels} | {spec.help}{bounds} |")
    return "\n".join(rows)
