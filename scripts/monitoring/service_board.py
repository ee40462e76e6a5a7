"""The dashboard "service": does every study get its answer, and in time?"""

from __future__ import annotations

from scripts.monitoring.boards import Board, Graph, Number, Query, Row

__all__ = ("SERVICE",)

_SLO_S = 60
_BUCKETS = "hounsfield_turnaround_seconds_bucket"


def _quantile(share: float, metric: str, label: str) -> Query:
    expression = f"histogram_quantile({share}, sum by (le, {label}) (rate({metric}_bucket[15m])))"
    return Query(expression, f"{{{{{label}}}}} p{share * 100:g}")


_PROMISE = Row(
    "Is the promise kept?",
    (
        Number(
            "Routine: slower than 60 s, last hour",
            "Share of the routine studies; the objective allows 5 %.",
            "percentunit",
            Query('hounsfield:turnaround:slow_ratio1h{priority="routine"}', "routine"),
            limit=0.05,
        ),
        Number(
            "STAT: slower than 60 s, last hour",
            "Share of the STAT studies; the objective allows 1 %.",
            "percentunit",
            Query('hounsfield:turnaround:slow_ratio1h{priority="stat"}', "stat"),
            limit=0.01,
        ),
        Number(
            "Budget left of 30 days",
            "1: nothing was slow; 0: as much as the objective allows; below: too much.",
            "percentunit",
            Query(
                f'1 - (1 - sum by (priority) (increase({_BUCKETS}{{le="60.0"}}[30d])) '
                "/ sum by (priority) (increase(hounsfield_turnaround_seconds_count[30d]))) "
                "/ on (priority) hounsfield:turnaround:budget",
                "{{priority}}",
            ),
            limit=0,
            red_below=True,
        ),
        Number(
            "Oldest STAT study waits",
            "Nobody has begun it; from 30 s on somebody is called.",
            "s",
            Query('max(hounsfield_oldest_waiting_seconds{priority="stat"})', "stat"),
            limit=30,
        ),
        Number(
            "Unfinished studies",
            "Received, queued or in work, as the ledger counts them.",
            "short",
            Query("hounsfield:unfinished:sum", "unfinished"),
        ),
        Number(
            "Died in the last day",
            "Every try failed; nothing tries them again by itself.",
            "short",
            Query("sum(hounsfield:dead:max - min_over_time(hounsfield:dead:max[1d]))", "dead"),
            limit=1,
        ),
    ),
)
_TIME = Row(
    "Turnaround",
    (
        Graph(
            "From received to ended",
            "Of studies that ended in the last 15 minutes; what never ends is not in it: see the "
            "oldest unfinished study.",
            "s",
            tuple(_quantile(q, "hounsfield_turnaround_seconds", "priority") for q in (0.5, 0.95)),
            width=12,
            limit=_SLO_S,
        ),
        Graph(
            "From received to begun",
            "How long studies that were begun in the last 15 minutes had waited.",
            "s",
            (_quantile(0.95, "hounsfield_wait_seconds", "priority"),),
            width=6,
        ),
        Graph(
            "Slower than 60 s",
            "Share of the studies that ended within 30 minutes, and of 6 hours.",
            "percentunit",
            (
                Query("hounsfield:turnaround:slow_ratio30m", "{{priority}} 30 min"),
                Query("hounsfield:turnaround:slow_ratio6h", "{{priority}} 6 h"),
            ),
            width=6,
        ),
    ),
)
_QUEUE = Row(
    "Queue",
    (
        Graph(
            "Oldest study",
            "That waits, and that has not ended.",
            "s",
            (
                Query(
                    "max by (priority) (hounsfield_oldest_waiting_seconds)", "{{priority}} waits"
                ),
                Query(
                    "max by (priority) (hounsfield_oldest_unfinished_seconds)",
                    "{{priority}} unfinished",
                ),
            ),
        ),
        Graph(
            "Unfinished by state",
            "As the ledger counts them.",
            "short",
            (
                Query(
                    'hounsfield:jobs:max{state=~"received|queued|running"}',
                    "{{state}} {{priority}}",
                ),
            ),
            stacked=True,
        ),
        Graph(
            "Entries of the queue, studies in work",
            "The queue is a hint: it may lack what the ledger has for some seconds.",
            "short",
            (
                Query("max by (priority) (hounsfield_queue_entries)", "{{priority}} entries"),
                Query("sum by (priority) (hounsfield_studies_in_work)", "{{priority}} in work"),
            ),
        ),
    ),
)
_OUTCOMES = Row(
    "Outcomes",
    (
        Graph(
            "Tries that ended, per hour",
            "done, rejected, failed, dead are ends of studies; lost and retried are not.",
            "short",
            (
                Query(
                    "sum by (outcome) (rate(hounsfield_jobs_ended_total[15m])) * 3600",
                    "{{outcome}}",
                ),
            ),
            stacked=True,
        ),
        Graph(
            "Refusals by code, per hour",
            "docs/protocol.md says what each code means and what the sender has to do.",
            "short",
            (
                Query(
                    'sum by (code) (rate(hounsfield_jobs_ended_total{code!=""}[15m])) * 3600',
                    "{{code}}",
                ),
            ),
            stacked=True,
        ),
        Graph(
            "Refused share",
            "Of the studies that ended in an hour, and in a week.",
            "percentunit",
            (
                Query("hounsfield:rejected_ratio:1h", "hour"),
                Query("hounsfield:rejected_ratio:7d", "week"),
            ),
        ),
    ),
)
_STAGES = Row(
    "Stages of a study",
    (
        Graph(
            "p95 of each stage",
            "fetch, read, segment, write, store; of tries that ended in 15 minutes.",
            "s",
            (_quantile(0.95, "hounsfield_stage_seconds", "stage"),),
        ),
        Graph(
            "Mean of each stage",
            "The stages add up to a study's time in work.",
            "s",
            (
                Query(
                    "sum by (stage) (rate(hounsfield_stage_seconds_sum[15m])) "
                    "/ sum by (stage) (rate(hounsfield_stage_seconds_count[15m]))",
                    "{{stage}}",
                ),
            ),
            stacked=True,
        ),
        Graph(
            "Bytes out of each stage",
            "Per second.",
            "Bps",
            (
                Query(
                    "sum by (stage) (rate(hounsfield_stage_bytes_total[$__rate_interval]))",
                    "{{stage}}",
                ),
            ),
        ),
    ),
)
_GATEWAY = Row(
    "Gateway",
    (
        Graph(
            "Calls per second by code",
            "RESOURCE_EXHAUSTED: told to try later. UNAVAILABLE and INTERNAL are our fault.",
            "reqps",
            (Query("sum by (code) (rate(hounsfield_calls_total[$__rate_interval]))", "{{code}}"),),
            width=6,
        ),
        Graph(
            "p95 of each call",
            "Without WatchJob, which lasts as long as somebody watches.",
            "s",
            (
                Query(
                    "histogram_quantile(0.95, sum by (le, method) "
                    '(rate(hounsfield_call_seconds_bucket{method!="WatchJob"}[5m])))',
                    "{{method}}",
                ),
            ),
            width=6,
        ),
        Graph(
            "Calls in flight",
            "By method, over all gateways.",
            "short",
            (Query("sum by (method) (hounsfield_calls_in_flight)", "{{method}}"),),
            width=6,
        ),
        Graph(
            "Parts that answer",
            "1: a gateway reaches it.",
            "short",
            (
                Query("max(hounsfield_ledger_up)", "ledger"),
                Query("max(hounsfield_queue_up)", "queue"),
                Query("max(hounsfield_store_up)", "object store"),
            ),
            width=6,
        ),
        Graph(
            "Bytes in and out",
            "Studies received and results fetched, per second.",
            "Bps",
            (
                Query("sum(rate(hounsfield_received_bytes_total[$__rate_interval]))", "received"),
                Query("sum(rate(hounsfield_sent_bytes_total[$__rate_interval]))", "sent"),
            ),
            width=6,
        ),
        Graph(
            "Certificates end in",
            "Below 14 days there is a ticket, below 2 days somebody is called.",
            "s",
            (
                Query(
                    "min by (certificate) (hounsfield_certificate_expiry_timestamp_seconds) "
                    "- time()",
                    "{{certificate}}",
                ),
            ),
            width=6,
        ),
        Graph(
            "Put into the queue again, died",
            "By the reconciler, per hour.",
            "short",
            (
                Query("sum(rate(hounsfield_requeued_total[15m])) * 3600", "queued again"),
                Query("sum(rate(hounsfield_dead_total[15m])) * 3600", "died"),
            ),
            width=6,
        ),
        Graph(
            "Since the last look for lost work",
            "Every few seconds; from 5 minutes on there is a ticket.",
            "s",
            (Query("time() - max(hounsfield_last_sweep_timestamp_seconds)", "ago"),),
            width=6,
            limit=300,
        ),
    ),
)

SERVICE = Board(
    "service",
    "Hounsfield: service",
    "Does every study get its answer, and in time?",
    (_PROMISE, _TIME, _QUEUE, _OUTCOMES, _STAGES, _GATEWAY),
)
"""What people on call look at first."""
