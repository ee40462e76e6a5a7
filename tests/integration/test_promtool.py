"""Prometheus' own tool judges rules, their unit tests, and the dashboards' expressions."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.triton.embedded import EmbeddedTriton
from scripts.monitoring.__main__ import BOARDS
from scripts.monitoring.boards import Graph
from scripts.monitoring.expressions import KNOWN_TRITON
from scripts.monitoring.rules import COMPONENT, RULES, alerts
from tests.prometheus_tools import find_program

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
TEST_FILES = sorted((ROOT / RULES / "tests").glob("*.yaml"))
_CASE = re.compile(r"alertname: (\w+), time: .*?exp:(\[\s*\]|\[\n)", re.DOTALL)


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus' tool."""
    return find_program("promtool")


def run(promtool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command: Sequence[str | Path] = (promtool, *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_rule_file_is_valid(promtool: str) -> None:
    checked = run(promtool, "check", "rules", *sorted((ROOT / RULES).glob("*.yaml")))
    assert checked.returncode == 0, checked.stderr
    counted = sum(map(int, re.findall(r"SUCCESS: (\d+) rules found", checked.stdout)))
    assert counted > len(alerts(ROOT))


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.stem)
def test_rules_do_what_their_tests_say(promtool: str, path: Path) -> None:
    tested = run(promtool, "test", "rules", path)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize(
    ("expression", "kind"), [("vector(0) == 1", "firing"), ("vector(1)", "silent")]
)
def test_an_alert_that_never_or_always_fires_fails_its_test(
    promtool: str, tmp_path: Path, expression: str, kind: str
) -> None:
    """No case of any alert passes whatever the rule says."""
    shutil.copytree(ROOT / RULES, tmp_path / "rules")
    for path in (tmp_path / "rules").glob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        for group in content["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    rule["expr"] = expression
                    rule.pop("for", None)
        path.write_text(yaml.safe_dump(content))
    tested = run(promtool, "test", "rules", *sorted((tmp_path / "rules" / "tests").glob("*.yaml")))
    assert tested.returncode != 0
    failed = {
        name
        for name, expected in _CASE.findall(tested.stdout + tested.stderr)
        if (expected != "[\n") == (kind == "silent")
    }
    assert failed == {alert.name for alert in alerts(ROOT)}


def test_every_expression_of_the_dashboards_parses(promtool: str, tmp_path: Path) -> None:
    rules: list[dict[str, Any]] = [
        {
            "record": f"board:{board.name}:{number}",
            "expr": query.expression.replace("$__rate_interval", "5m"),
        }
        for board in BOARDS
        for number, query in enumerate(
            query
            for row in board.rows
            for panel in row.panels
            for query in (panel.queries if isinstance(panel, Graph) else (panel.query,))
        )
    ]
    path = tmp_path / "boards.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "boards", "rules": rules}]}))
    checked = run(promtool, "check", "rules", path)
    assert checked.returncode == 0, checked.stderr
    assert f"SUCCESS: {len(rules)} rules found" in checked.stdout

    rules[0]["expr"] = "rate(hounsfield_calls_total)"  # a range is missing
    path.write_text(yaml.safe_dump({"groups": [{"name": "boards", "rules": rules}]}))
    assert run(promtool, "check", "rules", path).returncode != 0


def test_the_operators_manifest_is_valid_too(promtool: str, tmp_path: Path) -> None:
    manifest = yaml.safe_load((ROOT / COMPONENT / "prometheusrule.yaml").read_text())
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(manifest["spec"]))
    checked = run(promtool, "check", "rules", path)
    assert checked.returncode == 0, checked.stderr


def test_triton_shows_the_metrics_that_rules_and_dashboards_ask_for(
    triton_server: EmbeddedTriton,
) -> None:
    """Those of GPUs can be seen on a machine with one only."""
    address = f"http://127.0.0.1:{triton_server.settings.metrics_port}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    shown: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(nv_\w+)(?:\{(.*)\})? ", text, re.MULTILINE):
        shown.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    for name, labels in KNOWN_TRITON.items():
        if not name.startswith("nv_gpu_"):
            assert shown[name] == labels, name
