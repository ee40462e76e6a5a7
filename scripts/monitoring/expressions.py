"""Finds the metrics and labels that PromQL expressions use, and says which ones exist.

expression ──▶ names │ (name, label) ──▶ against the catalogue, Triton's list, the records
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from client.telemetry.catalogue import EVERY, GATEWAY, WORKER
from scripts.monitoring.rules import records

__all__ = ("KNOWN_TRITON", "TARGET_LABELS", "known_metrics", "used_labels", "used_metrics")

TARGET_LABELS = frozenset(("container", "namespace", "pod"))
"""Labels that the Prometheus operator gives every series of a pod."""
KNOWN_TRITON: Mapping[str, frozenset[str]] = {
    "nv_inference_request_success": frozenset(("model", "version")),
    "nv_inference_request_failure": frozenset(("model", "version", "reason")),
    "nv_inference_count": frozenset(("model", "version")),
    "nv_inference_exec_count": frozenset(("model", "version")),
    "nv_inference_queue_duration_us": frozenset(("model", "version")),
    "nv_inference_compute_infer_duration_us": frozenset(("model", "version")),
    "nv_inference_pending_request_count": frozenset(("model", "version")),
    "nv_gpu_memory_used_bytes": frozenset(("gpu_uuid",)),
    "nv_gpu_memory_total_bytes": frozenset(("gpu_uuid",)),
    "nv_gpu_utilization": frozenset(("gpu_uuid",)),
    "nv_gpu_power_usage": frozenset(("gpu_uuid",)),
}
"""Triton's own, as a running server shows them; those of GPUs as its page "Metrics" names them."""
_OTHERS: Mapping[str, frozenset[str]] = {
    "up": frozenset(),  # Prometheus itself
    "process_start_time_seconds": frozenset(),  # the Prometheus client of our processes
    "process_cpu_seconds_total": frozenset(),
    "process_resident_memory_bytes": frozenset(),
    "kubelet_volume_stats_available_bytes": frozenset(("persistentvolumeclaim",)),
    "kubelet_volume_stats_capacity_bytes": frozenset(("persistentvolumeclaim",)),
    "kube_cronjob_status_last_successful_time": frozenset(("cronjob",)),  # kube-state-metrics
}
_RECORD_LABELS = frozenset(("state", "priority", "model"))

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'')
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_LABEL_LISTS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_WORD = re.compile(r"[a-zA-Z_:][\w:]*(?!\w*\s*\()")
_OPERATORS = frozenset(("and", "or", "unless", "group_left", "group_right"))


def used_metrics(expression: str) -> set[str]:
    """Return the names of the metrics and records that an expression asks for."""
    bare = re.sub(r"\[[^\]]*\]", "", _STRING.sub("", expression))
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"\boffset\s+\w+", "", _LABEL_LISTS.sub("", bare))
    return {
        found.group()
        for found in _WORD.finditer(bare)
        if found.group() not in _OPERATORS and not _inside_a_number(bare, found.start())
    }


def _inside_a_number(text: str, start: int) -> bool:
    return start > 0 and (text[start - 1].isdigit() or text[start - 1] == ".")


def used_labels(expression: str) -> set[tuple[str, str]]:
    """Return the labels that an expression's selectors name, with their metric."""
    bare = _STRING.sub('""', expression)
    return {
        (name, label) for name, inner in _SELECTOR.findall(bare) for label in _LABEL.findall(inner)
    }


def known_metrics(root: Path) -> dict[str, frozenset[str]]:
    """Return every name that an expression may use, with its own labels."""
    known = {**KNOWN_TRITON, **_OTHERS}
    for spec in (*EVERY, *GATEWAY, *WORKER):
        if spec.kind == "histogram":
            known |= {f"{spec.name}_{part}": frozenset(spec.labels) for part in ("sum", "count")}
            known[f"{spec.name}_bucket"] = frozenset((*spec.labels, "le"))
        else:
            known[spec.name] = frozenset(spec.labels)
    return known | dict.fromkeys(records(root), _RECORD_LABELS)
