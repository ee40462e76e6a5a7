"""The dashboard "capacity": what is used, what it costs, how much room is left."""

from __future__ import annotations

from scripts.monitoring.boards import Board, Graph, Query, Row

__all__ = ("CAPACITY",)

_ENGINE = 'hounsfield_cost_seconds_total{kind="engine"}'

_LOAD = Row(
    "Load",
    (
        Graph(
            "Studies per hour",
            "That ended, whatever the outcome.",
            "short",
            (
                Query(
                    "sum by (priority) (rate(hounsfield_turnaround_seconds_count[1h])) * 3600",
                    "{{priority}}",
                ),
            ),
            stacked=True,
        ),
        Graph(
            "Pods that answer",
            "Gateways, workers and their Tritons; processes by version of the software.",
            "short",
            (
                Query(
                    'count by (container) (up{container=~"gateway|worker|triton"} == 1)',
                    "{{container}}",
                ),
                Query("count by (version) (hounsfield_build_info)", "version {{version}}"),
            ),
        ),
        Graph(
            "Studies in work for each worker",
            "Its places are HOUNSFIELD_STUDIES_IN_FLIGHT and one for STAT.",
            "short",
            (Query('sum(hounsfield_studies_in_work) / sum(up{container="worker"})', "studies"),),
        ),
    ),
)
_COST = Row(
    "Cost",
    (
        Graph(
            "Engine seconds per hour",
            "On the gpu profile GPU seconds, on the cpu profile CPU time of the engine.",
            "short",
            (Query(f"sum by (model) (rate({_ENGINE}[1h])) * 3600", "{{model}}"),),
            stacked=True,
        ),
        Graph(
            "CPU seconds of the workers per hour",
            "What studies cost beside the engine.",
            "short",
            (
                Query(
                    'sum by (model) (rate(hounsfield_cost_seconds_total{kind="cpu"}[1h])) * 3600',
                    "{{model}}",
                ),
            ),
            stacked=True,
        ),
        Graph(
            "Seconds of a study",
            "Engine and CPU seconds divided by the studies that ended.",
            "s",
            (
                Query(
                    "sum by (kind) (rate(hounsfield_cost_seconds_total[1h])) / ignoring (kind) "
                    "group_left sum(rate(hounsfield_turnaround_seconds_count[1h]))",
                    "{{kind}}",
                ),
            ),
        ),
    ),
)
_ROOM = Row(
    "Room",
    (
        Graph(
            "Engine in use",
            "Engine seconds per second and worker: on one GPU, 1 is full.",
            "percentunit",
            (Query(f'sum(rate({_ENGINE}[5m])) / sum(up{{container="worker"}})', "engine"),),
            width=6,
        ),
        Graph(
            "CPU of each process",
            "Cores in use; the isolated readers and writers of a worker are not in it.",
            "short",
            (
                Query(
                    "rate(process_cpu_seconds_total"
                    '{container=~"gateway|worker"}[$__rate_interval])',
                    "{{pod}} {{container}}",
                ),
            ),
            width=6,
        ),
        Graph(
            "Memory of each process",
            "Resident bytes.",
            "bytes",
            (
                Query(
                    'process_resident_memory_bytes{container=~"gateway|worker"}',
                    "{{pod}} {{container}}",
                ),
            ),
            width=6,
        ),
        Graph(
            "Free space of volumes",
            "Share; from the kubelet. Below 10 % somebody is called.",
            "percentunit",
            (
                Query(
                    'kubelet_volume_stats_available_bytes{namespace="hounsfield"} '
                    '/ kubelet_volume_stats_capacity_bytes{namespace="hounsfield"}',
                    "{{persistentvolumeclaim}}",
                ),
            ),
            width=6,
        ),
    ),
)

CAPACITY = Board(
    "capacity",
    "Hounsfield: cost and capacity",
    "What is used, what it costs, how much room is left.",
    (_LOAD, _COST, _ROOM),
)
"""For who plans and pays."""
