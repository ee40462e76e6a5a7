"""Keeps the figures on the performance page equal to the committed reports.

    python -m loadtest.page [--check]

docs/performance/full.json, soak.json ─▶ the block between two markers of docs/performance.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from client.cli.console import report_error
from client.errors import ClientError, ConfigurationError
from loadtest.loads import RAW, WHOLE, Load
from loadtest.report import Report, read_report
from loadtest.soakreport import SoakReport, read_soak, soak_verdicts
from loadtest.summary import runs_of, summarise
from loadtest.tables import (
    agreement_table,
    cpu_table,
    markdown,
    memory_table,
    stage_table,
    summary_table,
    tier_table,
    verdict_table,
)
from loadtest.verdicts import Verdict, verdicts_of

__all__ = ("BEGIN", "END", "PAGE", "REPORT", "SOAK", "figures", "main", "with_figures")

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "performance.md"
REPORT = DOCS / "performance" / "full.json"
SOAK = DOCS / "performance" / "soak.json"
BEGIN = (
    "<!-- figures: written by `python -m loadtest.page` from performance/full.json, soak.json -->"
)
END = "<!-- end of figures -->"
QUIET_SHARE = 0.05


def with_figures(page: str, report: Report, soak: SoakReport | None) -> str:
    """The page with its block of figures written anew.

    Args:
        page: The page.
        report: The full run.
        soak: The long run; None where there was none yet, which the page then says.

    Raises:
        ConfigurationError: The page does not have the two markers, once each, in order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ConfigurationError(
            f"Expected the markers {BEGIN} and {END} once each in {PAGE.name}; put them back."
        )
    return f"{before}{BEGIN}\n{figures(report, soak)}\n{END}{after}"


def figures(report: Report, soak: SoakReport | None) -> str:
    """Everything on the page that comes from the reports."""
    precisions = dict.fromkeys(load.precision for load in report.loads if load.way == WHOLE)
    verdicts = (*verdicts_of(report), *(soak_verdicts(soak) if soak else ()))
    parts = [
        _where(report),
        "### The aims",
        markdown(verdict_table(verdicts)),
        _how(verdicts),
        "### Every way",
        markdown(summary_table(summarise(report))),
        _missing(report),
        _noise(report),
        "![Throughput and CPU time by way](img/bench-ways.png)",
        "### Where the time of a study goes",
        "Wall seconds per stage, as the worker wrote them into the result's measurements. Stages "
        "of one study follow each other; with several in flight they wait for each other.",
        markdown(stage_table(report)),
        "![The time of one study by stage](img/bench-stages.png)",
        "### Where the CPU time goes",
        "CPU milliseconds per slice, medians, by process (ended children included).",
    ]
    for precision in precisions:
        parts += [f"**{precision}**", markdown(cpu_table(report, precision))]
    if any(one.tier is not None for one in report.rounds):
        parts += [
            "The client tier by itself: each step in one process, per 512 x 512 slice, the least "
            "of the rounds.",
            markdown(tier_table(report)),
        ]
    parts += [
        "### Memory",
        "Highest proportional set size in MiB on the whole way, f32, sampled while it ran.",
        markdown(memory_table(report, next(iter(precisions), "f32"))),
        "### The same answer",
        markdown(agreement_table(report)),
        "### A GPU",
        f"{report.gpu[0].upper()}{report.gpu[1:]}.",
        "### Soak",
        *(_soak(soak) if soak else ("Not measured yet: `python -m loadtest.soak`.",)),
    ]
    return "\n\n".join(part for part in parts if part)


def _where(report: Report) -> str:
    machine, work = report.machine, report.workload
    engines = "; ".join(
        f"{one.engine}{'' if one.admitted else ' (not admitted to service)'}"
        for one in work.engines
    )
    unfinished = (
        ""
        if len(report.rounds) == report.rounds_wanted
        else f" **Only {len(report.rounds)} of {report.rounds_wanted} rounds are done.**"
    )
    return (
        f"`{report.command}`, {report.created_at[:16].replace('T', ' ')} UTC, "
        f"{report.duration_s / 60:.0f} minutes: {len(report.rounds)} rounds, {work.slices} slices "
        f"({work.rows} x {work.columns}) of `{work.sample}`, "
        f"a study of {work.study_bytes / 1e6:.1f} MB.{unfinished} Model `{work.model}`, network "
        f"`{work.engines[0].network_sha256[:12]}`: {engines}. {machine.cpu}, {machine.cores} "
        f"cores, {machine.memory_gib:g} GiB, {machine.system}. {', '.join(machine.versions)}."
    )


def _how(verdicts: tuple[Verdict, ...]) -> str:
    lines = [f"- **{one.name}.** {one.how[0].upper()}{one.how[1:]}." for one in verdicts]
    return "How each was computed:\n\n" + "\n".join(lines)


def _missing(report: Report) -> str:
    return (
        f"Not installed, so not measured: {', '.join(report.peers_missing)}."
        if report.peers_missing
        else ""
    )


def _noise(report: Report) -> str:
    loads = ", ".join(f"{one.load_average[0]:.1f}" for one in report.rounds)
    worst = max(row.others_share for row in summarise(report))
    raws = [
        run.slices_per_s
        for load in report.distinct_loads
        if load == Load(RAW, "f32", 16, "slice", 16)
        for run in runs_of(report, load)
    ]
    spread = (
        f" The raw engine itself (f32, 16 in flight) varied from {min(raws):.1f} to "
        f"{max(raws):.1f} slices/s."
        if raws
        else ""
    )
    verdict = (
        f"**The machine also ran other work**: up to {worst:.0%} of its cores (median of a row). "
        "Trust the ratios and the CPU times more than the rates."
        if worst > QUIET_SHARE
        else f"Other work took at most {worst:.0%} of the cores (median of a row)."
    )
    return f"Load average (1 minute) before each round: {loads}. {verdict}{spread}"


def _soak(soak: SoakReport) -> tuple[str, ...]:
    return (
        f"`{soak.command}`, {soak.created_at[:16].replace('T', ' ')} UTC: {soak.minutes:.0f} "
        f"minutes at {soak.load:.0%} of the measured throughput, {soak.studies_per_min:.1f} "
        f"studies of {soak.slices} slices per minute; {soak.studies} studies, "
        f"{len(soak.samples)} samples.",
        "![Memory, descriptors and queue over time](img/soak.png)",
    )


def main() -> int:
    """Writes the page; with --check only says whether it is up to date (exit status 1 if not)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    try:
        page = PAGE.read_text(encoding="utf-8")
        soak = read_soak(SOAK) if SOAK.exists() else None
        fresh = with_figures(page, read_report(REPORT)[0], soak)
    except ClientError as error:
        return report_error(error, as_json=False)
    if check and fresh != page:
        sys.stderr.write(f"{PAGE.name} differs from {REPORT.name}; run python -m loadtest.page\n")
        return 1
    PAGE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
