"""A benchmark of engines for people: a table for the terminal, a plot."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from export.benchmark.records import BenchReport, EngineBench

__all__ = ("bench_markdown", "bench_table", "draw_bench", "ratios")

COLORS = ("#2166c4", "#c2570c", "#14805e", "#8a3ab9", "#b3261e", "#7a6a00", "#0b7a8c", "#a8326e")
MIB = 2**20


def ratios(report: BenchReport) -> dict[str, float]:
    """Each engine's highest throughput as a multiple of the first engine's."""
    first = report.engines[0].best.images_per_s
    return {one.name: one.best.images_per_s / first for one in report.engines}


def bench_table(report: BenchReport) -> Table:
    """The figures that are compared most, narrow enough for a terminal."""
    table = Table(title=f"{report.model}: engines by themselves", caption=_caption(report))
    table.add_column("engine", no_wrap=True)
    for name in ("img/s\nbatch 1", "img/s\nbest", "at\nbatch", "ratio", "CPU ms\nper image",
                 "p50 ms\nbatch 1", "peak\nMiB"):  # fmt: skip
        table.add_column(name, justify="right")
    share = ratios(report)
    for one in report.engines:
        table.add_row(
            one.name,
            f"{one.batches[0].images_per_s:.1f}",
            f"{one.best.images_per_s:.1f}",
            f"{one.best.batch}",
            f"{share[one.name]:.2f}",
            f"{1000 * one.best.cpu_s_per_image:.1f}",
            f"{1000 * one.latency_p50_s:.1f}",
            f"{max(found.peak_bytes for found in one.batches) / MIB:.0f}",
        )
    return table


def bench_markdown(report: BenchReport) -> str:
    """Every figure for a page: each batch size, latency, memory; and what it was measured on."""
    first = report.engines[0]
    heads = ["engine", *(f"images/s, batch {found.batch}" for found in first.batches)]
    heads += [f"ratio to {first.name}", "CPU ms per image", "p50 ms, batch 1", "p99 ms, batch 1"]
    heads += ["load s", "peak MiB", "libraries MiB"]
    share = ratios(report)
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    lines += ["| " + " | ".join(_row(one, share[one.name])) + " |" for one in report.engines]
    return "\n".join(lines) + f"\n\n{_caption(report)}\n"


def draw_bench(report: BenchReport) -> bytes:
    """Throughput and CPU time over the batch size, as a PNG."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    speed, cost = figure.subplots(1, 2)
    for index, one in enumerate(report.engines):
        style = {"color": COLORS[index % len(COLORS)], "marker": "o", "label": one.name}
        batches = [found.batch for found in one.batches]
        speed.plot(batches, [found.images_per_s for found in one.batches], **style)
        cost.plot(batches, [1000 * found.cpu_s_per_image for found in one.batches], **style)
    for axes, title in ((speed, "images per second"), (cost, "CPU milliseconds per image")):
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [f"{batch}" for batch in batches])
        axes.set_xlabel("batch")
        axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=11)
        axes.grid(color="#d9dde1", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = speed.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(f"{report.model}, {_size(report)}: engines by themselves", fontsize=12)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()


def _row(one: EngineBench, ratio: float) -> list[str]:
    return [
        one.name,
        *(f"{found.images_per_s:.1f}" for found in one.batches),
        f"{ratio:.2f}",
        f"{1000 * one.best.cpu_s_per_image:.1f}",
        f"{1000 * one.latency_p50_s:.1f}",
        f"{1000 * one.latency_p99_s:.1f}",
        f"{one.load_s:.1f}",
        f"{max(found.peak_bytes for found in one.batches) / MIB:.0f}",
        f"{one.imports_bytes / MIB:.0f}",
    ]


def _caption(report: BenchReport) -> str:
    threads = report.engines[0].threads
    facts = report.facts
    left_out = "".join(f"\n{one.name} was not run: {one.reason}" for one in report.skipped)
    return (
        f"{_size(report)}; {facts.get('processor', '')}, {facts.get('cores', '?')} cores, "
        f"{f'{threads} threads each' if threads else 'threads as each engine chooses'}; medians of "
        f"{report.rounds} interleaved rounds in {report.duration_s:.0f} s; other processes used "
        f"{report.others_share:.0%} of the cores. CPU time at the batch of highest "
        f"throughput.{left_out}"
    )


def _size(report: BenchReport) -> str:
    return " x ".join(map(str, report.shape[1:]))
