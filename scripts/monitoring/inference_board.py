"""The dashboard "inference": does Triton keep up, and are its answers what they were?"""

from __future__ import annotations

from scripts.monitoring.boards import Board, Graph, Query, Row

__all__ = ("INFERENCE",)


def _per_request(part: str) -> str:
    """Mean microseconds of a request in one part of Triton."""
    return (
        f"sum by (model) (rate(nv_inference_{part}_duration_us[$__rate_interval])) "
        "/ sum by (model) (rate(nv_inference_request_success[$__rate_interval]))"
    )


_WORKERS = Row(
    "Slices, as the workers see them",
    (
        Graph(
            "Slices per second",
            "By model and version of its network.",
            "short",
            (
                Query(
                    "sum by (model, version) (rate(hounsfield_slices_total[5m]))",
                    "{{model}} {{version}}",
                ),
            ),
            width=6,
            stacked=True,
        ),
        Graph(
            "Slices of a request",
            "Mean and p95 of what workers send in one request.",
            "short",
            (
                Query(
                    "sum by (model) (rate(hounsfield_request_slices_sum[5m])) "
                    "/ sum by (model) (rate(hounsfield_request_slices_count[5m]))",
                    "{{model}} mean",
                ),
                Query(
                    "histogram_quantile(0.95, "
                    "sum by (le, model) (rate(hounsfield_request_slices_bucket[5m])))",
                    "{{model}} p95",
                ),
            ),
            width=6,
        ),
        Graph(
            "Slices in flight and their aim",
            "The aim follows Triton's queue: it falls while slices wait there.",
            "short",
            (
                Query("sum(hounsfield_triton_slices_in_flight)", "in flight"),
                Query("sum(hounsfield_triton_slices_target)", "aim"),
            ),
            width=6,
        ),
        Graph(
            "Wait in Triton, as workers measure it",
            "Mean of the last second of work; the worst worker.",
            "s",
            (Query("max by (model) (hounsfield_triton_queue_seconds)", "{{model}}"),),
            width=6,
        ),
    ),
)
_TRITON = Row(
    "Triton",
    (
        Graph(
            "Queue, mean of a request",
            "From one second on, for ten minutes, there is a ticket.",
            "µs",
            (Query(_per_request("queue"), "{{model}}"),),
            width=6,
            limit=1e6,
        ),
        Graph(
            "Compute, mean of a request",
            "The network alone, without queue and copies.",
            "µs",
            (Query(_per_request("compute_infer"), "{{model}}"),),
            width=6,
        ),
        Graph(
            "Requests per second",
            "Answered, and failed.",
            "reqps",
            (
                Query(
                    "sum by (model) (rate(nv_inference_request_success[$__rate_interval]))",
                    "{{model}}",
                ),
                Query(
                    "sum by (model, reason) (rate(nv_inference_request_failure[$__rate_interval])) "
                    "> 0",
                    "{{model}} failed: {{reason}}",
                ),
            ),
            width=6,
        ),
        Graph(
            "Slices of an execution; requests that wait",
            "Above 1: Triton computes several slices together.",
            "short",
            (
                Query(
                    "sum by (model) (rate(nv_inference_count[$__rate_interval])) "
                    "/ sum by (model) (rate(nv_inference_exec_count[$__rate_interval]))",
                    "{{model}} slices",
                ),
                Query("sum by (model) (nv_inference_pending_request_count)", "{{model}} waiting"),
            ),
            width=6,
        ),
    ),
)
_GPU = Row(
    "GPU",
    (
        Graph(
            "Utilisation",
            "Part of the time in which a kernel ran; empty where there is no GPU.",
            "percentunit",
            (Query("max by (pod, gpu_uuid) (nv_gpu_utilization)", "{{pod}}"),),
        ),
        Graph(
            "Memory in use",
            "Share; above 92 % for ten minutes there is a ticket.",
            "percentunit",
            (
                Query(
                    "max by (pod, gpu_uuid) "
                    "(nv_gpu_memory_used_bytes / (nv_gpu_memory_total_bytes > 0))",
                    "{{pod}}",
                ),
            ),
            limit=0.92,
        ),
        Graph(
            "Power",
            "Watts of each GPU.",
            "watt",
            (Query("max by (pod, gpu_uuid) (nv_gpu_power_usage)", "{{pod}}"),),
        ),
    ),
)
_MODELS = Row(
    "Models",
    (
        Graph(
            "Workers by model version",
            "Two versions of a model side by side for more than an hour: a rollout that hangs.",
            "short",
            (
                Query(
                    "count by (model, version, engine) (hounsfield_model_info)",
                    "{{model}} {{version}} {{engine}}",
                ),
            ),
        ),
        Graph(
            "Marked part of a series",
            "Mean of a day against the seven days before; a step may be a new model, another "
            "mix of studies, or drift.",
            "percentunit",
            (
                Query("hounsfield:foreground:mean1d", "{{model}} day"),
                Query("hounsfield:foreground:mean7d_before", "{{model}} week before"),
            ),
        ),
        Graph(
            "Series segmented, per day",
            "How many the means rest upon.",
            "short",
            (Query("hounsfield:foreground:count1d", "{{model}}"),),
        ),
    ),
)

INFERENCE = Board(
    "inference",
    "Hounsfield: inference",
    "Does Triton keep up, and are its answers what they were?",
    (_WORKERS, _TRITON, _GPU, _MODELS),
)
"""For who looks after models and engines."""
