"""Keeps the figures on the performance page equal to the committed report.

    python -m loadtest.page [--check]

docs/performance/quick.json ─▶ the block between two markers of docs/performance.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from client.cli.console import report_error
from client.errors import ClientError, ConfigurationError
from loadtest.report import Report, read_report
from loadtest.summary import summarise
from loadtest.tables import cpu_table, markdown, stage_table, summary_table

__all__ = ("BEGIN", "END", "PAGE", "REPORT", "figures", "main", "with_figures")

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "performance.md"
REPORT = DOCS / "performance" / "quick.json"
BEGIN = "<!-- figures: written by `python -m loadtest.page` from performance/quick.json -->"
END = "<!-- end of figures -->"
QUIET_SHARE = 0.05


def with_figures(page: str, report: Report) -> str:
    """The page with its block of figures written anew.

    Raises:
        ConfigurationError: The page does not have the two markers, once each, in order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ConfigurationError(
            f"Expected the markers {BEGIN} and {END} once each in {PAGE.name}; put them back."
        )
    return f"{before}{BEGIN}\n{figures(report)}\n{END}{after}"


def figures(report: Report) -> str:
    """Everything on the page that comes from the report."""
    return "\n\n".join(
        (
            _where(report),
            markdown(summary_table(summarise(report))),
            _noise(report),
            "### Where the CPU time goes",
            "CPU milliseconds per slice, medians, by process (ended children included):",
            markdown(cpu_table(report)),
            "### Where the time of a study goes",
            "Wall seconds per stage, as the worker wrote them into the result's measurements:",
            markdown(stage_table(report)),
            "### The same answer",
            _agreement(report),
        )
    )


def _where(report: Report) -> str:
    machine, work = report.machine, report.workload
    return (
        f"`{report.command}`, {report.created_at[:16].replace('T', ' ')} UTC, "
        f"{report.duration_s:.0f} s: {len(report.rounds)} rounds, {work.slices} slices "
        f"({work.rows} x {work.columns}) of `{work.sample}`, "
        f"a study of {work.study_bytes / 1e6:.1f} MB. Model `{work.model}`, {work.precision}, "
        f"network `{work.network_sha256[:12]}`. {machine.cpu}, {machine.cores} cores, "
        f"{machine.memory_gib:g} GiB, {machine.system}; GPU: {machine.gpu}. "
        f"{', '.join(machine.versions)}."
    )


def _noise(report: Report) -> str:
    loads = ", ".join(f"{one.load_average[0]:.1f}" for one in report.rounds)
    worst = max(row.others_share for row in summarise(report))
    verdict = (
        f"**The machine also ran other work**: up to {worst:.0%} of its cores (median of a row). "
        "Trust the ratios and the CPU times more than the rates."
        if worst > QUIET_SHARE
        else f"Other work took at most {worst:.0%} of the cores (median of a row)."
    )
    return f"Load average (1 minute) before each round: {loads}. {verdict}"


def _agreement(report: Report) -> str:
    same = report.agreement
    return (
        f"Ensemble (DALI preprocessing) against raw engine (NumPy reference preprocessing): "
        f"{same.ensemble_equal:.5%} of {same.pixels:,} pixels have the same class, "
        f"{same.ensemble_equal_in_structures:.5%} of those that either puts into a structure. "
        f"DICOM SEG that came back against the ensemble's masks on the native grid: "
        f"{same.whole_way_equal:.5%} of {same.voxels:,} voxels."
    )


def main() -> int:
    """Writes the page; with --check only says whether it is up to date (exit status 1 if not)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    try:
        page = PAGE.read_text(encoding="utf-8")
        fresh = with_figures(page, read_report(REPORT)[0])
    except ClientError as error:
        return report_error(error, as_json=False)
    if check and fresh != page:
        sys.stderr.write(f"{PAGE.name} differs from {REPORT.name}; run python -m loadtest.page\n")
        return 1
    PAGE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
