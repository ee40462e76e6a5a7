"""Run checkov's Kubernetes policies over what was rendered; every skip has a reason and a need."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scripts.manifests.objects import Finding, Rendered

__all__ = ("PolicyResult", "read_skips", "scan")

_SKIP = re.compile(r"^\s*-\s*(?P<check>CKV\w+)\s*(#\s*(?P<reason>\S.*))?$")


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """What one scan saw.

    Attributes:
        passed: How many policies held.
        findings: By target, those that failed without a reason to be skipped.
        others: What is wrong with the scan itself: skips that nothing needs or without a reason,
            files it could not read.
    """

    passed: int
    findings: dict[str, list[Finding]]
    others: list[Finding]


def read_skips(path: Path) -> dict[str, str]:
    """Read the skipped policies and their reasons from a .checkov.yaml.

    Args:
        path: The file; each line of `skip-check` is `- CKV_K8S_1 # reason`.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    found = [match for line in lines if (match := _SKIP.match(line))]
    return {match["check"]: match["reason"] or "" for match in found}


def scan(everything: Sequence[Rendered], checkov: Path, skips: dict[str, str]) -> PolicyResult:
    """Scan all targets in one run, without skips; then take out what a reason covers.

    Args:
        everything: What to scan.
        checkov: The program.
        skips: Policies that may fail, with the reason.
    """
    failed: list[tuple[str, str, str, str]] = []
    with tempfile.TemporaryDirectory(prefix="manifests-") as scratch:
        for rendered in everything:
            path = Path(scratch) / f"{rendered.name.replace('/', '_')}.yaml"
            path.write_text(yaml.safe_dump_all(rendered.objects))
        report = _run(checkov, Path(scratch))
        names = {rendered.name.replace("/", "_"): rendered.name for rendered in everything}
        for check in report["results"]["failed_checks"]:
            target = names[Path(check["file_path"]).stem]
            failed.append((target, check["check_id"], check["resource"], check["check_name"]))
    findings: dict[str, list[Finding]] = {rendered.name: [] for rendered in everything}
    for target, check_id, resource, what in failed:
        if check_id not in skips:
            findings[target].append(Finding("policy", resource, f"{check_id}: {what}"))
    others = list(_unneeded(skips, {check_id for _, check_id, _, _ in failed}))
    summary = report["summary"]
    if summary["parsing_errors"] or not summary["passed"]:
        others.append(Finding("policy", "checkov", f"it could not read everything: {summary}"))
    return PolicyResult(int(summary["passed"]), findings, others)


def _run(checkov: Path, folder: Path) -> Any:
    done = subprocess.run(
        [
            str(checkov.absolute()),
            *("-d", str(folder), "--framework", "kubernetes"),
            *("--skip-download", "--compact", "--output", "json", "--soft-fail", "--quiet"),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,  # no configuration of the repository is read
    )
    return json.loads(done.stdout)


def _unneeded(skips: dict[str, str], failing: set[str]) -> Iterator[Finding]:
    for check_id, reason in skips.items():
        if not reason:
            yield Finding("policy-skip", ".checkov.yaml", f"{check_id} is skipped without a reason")
        if check_id not in failing:
            yield Finding("policy-skip", ".checkov.yaml", f"nothing needs the skip of {check_id}")
