"""Run every check over every target, and say the outcome as one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scripts.manifests.agreement import check_agreement
from scripts.manifests.configuration import check_configuration, check_secrets_used
from scripts.manifests.lifecycle import check_lifecycle
from scripts.manifests.names import check_names
from scripts.manifests.network import check_network
from scripts.manifests.objects import Finding, Rendered
from scripts.manifests.pods import check_pods
from scripts.manifests.policies import read_skips, scan
from scripts.manifests.ports import check_ports
from scripts.manifests.rendering import RenderError, render, targets
from scripts.manifests.scaling import check_scaling, load_triggers
from scripts.manifests.schemas import VERSIONS, SchemaChecker
from scripts.manifests.secretfolders import check_secret_folders
from scripts.manifests.unset import unset_values

__all__ = ("Outcome", "check_references", "print_outcome", "validate")

_REPOSITORY = Path(__file__).parent.parent.parent / "model_repository"


@dataclass
class Outcome:
    """What was found.

    Attributes:
        columns: Names of the checks that were run, in the order of the table.
        rows: By target and column, the findings; a column that is missing was not run.
        objects: By target, how many objects it gives.
        unset: By overlay, what an operator has to fill in before it is applied.
        policies: How often a policy held.
    """

    columns: list[str]
    rows: dict[str, dict[str, list[Finding]]] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    unset: dict[str, set[str]] = field(default_factory=dict)
    policies: int = 0

    @property
    def findings(self) -> list[tuple[str, Finding]]:
        """Every finding with its target."""
        return [
            (target, finding)
            for target, row in self.rows.items()
            for found in row.values()
            for finding in found
        ]


def check_references(rendered: Rendered, root: Path) -> Iterator[Finding]:
    """Run every check that is not a schema's or a policy's.

    Args:
        rendered: What to check.
        root: The folder k8s.
    """
    yield from check_pods(rendered)
    yield from check_names(rendered)
    yield from check_ports(rendered)
    yield from check_scaling(rendered, load_triggers(root / "schemas"))
    yield from check_network(rendered)
    yield from check_configuration(rendered)
    yield from check_secret_folders(rendered)
    yield from check_lifecycle(rendered)
    yield from check_agreement(rendered, _REPOSITORY)


def validate(root: Path, checkov: Path | None) -> Outcome:
    """Build and check every overlay and component.

    Args:
        root: The folder k8s.
        checkov: The policy scanner; None: its column is left out.
    """
    outcome = Outcome(["builds", *VERSIONS, "custom", "references"])
    everything = []
    schemas = SchemaChecker(root / "schemas")
    for name, folder in targets(root):
        try:
            rendered = render(name, folder, root)
        except RenderError as error:
            outcome.rows[name] = {"builds": [Finding("build", name, str(error))]}
            continue
        everything.append(rendered)
        outcome.objects[name] = len(rendered.objects)
        if name.startswith("overlays/"):
            outcome.unset[name] = unset_values(rendered)
        outcome.rows[name] = _check(rendered, schemas, root)
    outcome.rows["all"] = {"references": list(check_secrets_used(everything))}
    if checkov is not None:
        _add_policies(outcome, everything, checkov, root)
    return outcome


def _check(rendered: Rendered, schemas: SchemaChecker, root: Path) -> dict[str, list[Finding]]:
    row: dict[str, list[Finding]] = {"builds": []}
    since = VERSIONS.index(rendered.since) if rendered.since else 0
    row |= {version: list(schemas.check(rendered, version)) for version in VERSIONS[since:]}
    row["custom"] = list(schemas.check_custom(rendered))
    if not any(row.values()):  # what does not fit its schema cannot be followed
        row["references"] = sorted(set(check_references(rendered, root)))
    return row


def _add_policies(
    outcome: Outcome, everything: Sequence[Rendered], checkov: Path, root: Path
) -> None:
    outcome.columns.append("policy")
    result = scan(everything, checkov, read_skips(root / ".checkov.yaml"))
    for name, found in result.findings.items():
        outcome.rows[name]["policy"] = found
    outcome.rows["all"]["policy"] = result.others
    outcome.policies = result.passed


def print_outcome(outcome: Outcome, console: Console) -> None:
    """Print the table, then every finding once with the targets and versions it was seen in."""
    table = Table(box=None, header_style="bold")
    table.add_column("target")
    for column in outcome.columns:
        table.add_column(column, justify="right")
    for target, row in outcome.rows.items():
        cells = [_cell(column, row, outcome.objects.get(target)) for column in outcome.columns]
        table.add_row(target, *cells)
    console.print(table)
    seen: dict[Finding, list[str]] = {}
    for target, finding in outcome.findings:
        seen.setdefault(finding, []).append(target)
    for finding, places in seen.items():
        where = ", ".join(dict.fromkeys(places))
        console.print(f"[red]{finding.check}[/] {finding.subject} ({where})", highlight=False)
        console.print(f"    {finding.message}", markup=False, highlight=False)
    for target, values in outcome.unset.items():
        if values:
            told = f"{target}: to be filled in before it is applied: {'  '.join(sorted(values))}"
            console.print(told, markup=False, highlight=False)
    policies = f"policies held {outcome.policies} times, " if outcome.policies else ""
    count = f"{len(outcome.rows) - 1} targets, {policies}{len(seen)} findings"
    console.print(count, highlight=False)


def _cell(column: str, row: dict[str, list[Finding]], objects: int | None) -> str:
    found = row.get(column)
    if found is None:
        return ""
    if found:
        return f"[red]{len(found)}[/]"
    return f"{objects} objects" if column == "builds" else "ok"
