"""Alerts, dashboards and runbook fit together, and ask only for metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from client.cli.main import app
from client.settings import PREFIX, Settings
from client.telemetry.catalogue import EVERY, GATEWAY, WORKER
from client.telemetry.metrics import WorkerMetrics
from scripts.monitoring.__main__ import BOARDS, outputs, stale
from scripts.monitoring.boards import Graph
from scripts.monitoring.expressions import (
    TARGET_LABELS,
    known_metrics,
    used_labels,
    used_metrics,
)
from scripts.monitoring.rules import COMPONENT, RULES, alerts, groups, records

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
RUNBOOK_URL = "https://github.com/hounsfield/hounsfield/blob/main/docs/runbook.md#"
PARTS = ("Meaning", "Patients", "Look", "Causes", "Do", "Over", "Call")
ALERTS = alerts(ROOT)
EXPRESSIONS = [
    *(alert.expression for alert in ALERTS),
    *records(ROOT).values(),
    *(
        query.expression
        for board in BOARDS
        for row in board.rows
        for panel in row.panels
        for query in (panel.queries if isinstance(panel, Graph) else (panel.query,))
    ),
]


def sections() -> dict[str, str]:
    """The runbook's sections of alerts by heading."""
    return dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))


def cases(root: Path) -> Iterator[tuple[str, bool]]:
    """Every alert that a test expects, and whether it expects it to fire."""
    for path in sorted((root / RULES / "tests").glob("*.yaml")):
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test.get("alert_rule_test", []):
                yield case["alertname"], bool(case["exp_alerts"])


def without_a_case(root: Path) -> set[tuple[str, bool]]:
    wanted = {(alert.name, fires) for alert in ALERTS for fires in (True, False)}
    return wanted - set(cases(root))


def test_every_alert_is_tested_firing_and_silent() -> None:
    assert len(ALERTS) >= 25
    assert without_a_case(ROOT) == set()
    assert {name for name, _ in cases(ROOT)} == {alert.name for alert in ALERTS}


def test_a_missing_case_is_seen(tmp_path: Path) -> None:
    shutil.copytree(ROOT / RULES, tmp_path / RULES)
    (tmp_path / RULES / "tests" / "inference.yaml").unlink()
    assert without_a_case(tmp_path) == {
        (name, fires)
        for name in ("TritonQueueLong", "TritonFails", "GpuMemoryFull", "ModelVersionsDiffer")
        for fires in (True, False)
    }


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    assert sorted(sections()) == sorted(alert.name for alert in ALERTS)


@pytest.mark.parametrize("name", sorted(sections()))
def test_a_section_says_everything_that_is_needed_at_night(name: str) -> None:
    parts = re.findall(r"^\*\*(\w+)\.\*\*", sections()[name], re.MULTILINE)
    assert tuple(parts) == PARTS
    assert re.search(r"`[^`]+`|```", sections()[name]), "nothing to type"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_says_what_where_and_how_much(alert: Any) -> None:
    assert alert.severity in {"page", "ticket"}
    assert set(alert.annotations) == {"summary", "description", "runbook_url"}
    assert alert.annotations["runbook_url"] == RUNBOOK_URL + alert.name.lower()
    assert "$value" in alert.annotations["description"]


def test_expressions_use_only_metrics_and_labels_that_exist() -> None:
    known = known_metrics(ROOT)
    assert {name for text in EXPRESSIONS for name in used_metrics(text)} - set(known) == set()
    unknown = {
        (name, label)
        for text in EXPRESSIONS
        for name, label in used_labels(text)
        if label not in known[name] | TARGET_LABELS
    }
    assert unknown == set()


def test_names_and_labels_are_found_in_an_expression() -> None:
    text = (
        'sum by (le) (rate(one_total{code=~"a{2}b|c",pod!="x"}[5m] offset 1h)) / ignoring (kind) '
        "group_left 1e6 * job:two:max > 3 or histogram_quantile(0.5, three_bucket) unless vector(0)"
    )
    assert used_metrics(text) == {"one_total", "job:two:max", "three_bucket"}
    assert used_labels(text) == {("one_total", "code"), ("one_total", "pod")}


def test_every_metric_is_looked_at_by_an_alert_or_a_dashboard() -> None:
    used = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for text in EXPRESSIONS
        for name in used_metrics(text)
    }
    assert {spec.name for spec in (*EVERY, *GATEWAY, *WORKER)} - used == set()


def test_the_objectives_limit_is_a_bucket_as_the_client_spells_it() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)._turnaround_s.labels("stat").observe(3)
    shown = set(
        re.findall(r'turnaround_seconds_bucket\{le="([^"]+)"', generate_latest(registry).decode())
    )
    asked = {le for text in EXPRESSIONS for le in re.findall(r'le="([^"]+)"', text)}
    assert asked == {"60.0"}
    assert asked <= shown


def test_made_files_are_up_to_date() -> None:
    assert stale(ROOT) == []


def test_a_changed_rule_and_a_foreign_dashboard_are_seen(tmp_path: Path) -> None:
    shutil.copytree(ROOT / COMPONENT, tmp_path / COMPONENT)
    assert stale(tmp_path) == []
    changed = tmp_path / RULES / "upkeep.yaml"
    changed.write_text(changed.read_text().replace("14 * 86400", "7 * 86400"))
    foreign = COMPONENT / "dashboards" / "clicked.json"
    (tmp_path / foreign).write_text("{}")
    assert stale(tmp_path) == [COMPONENT / "prometheusrule.yaml", foreign]


def test_the_operators_manifest_has_the_same_groups() -> None:
    manifest = yaml.safe_load((ROOT / COMPONENT / "prometheusrule.yaml").read_text())
    assert manifest["kind"] == "PrometheusRule"
    assert manifest["spec"]["groups"] == groups(ROOT)


def dashboards() -> dict[str, Any]:
    return {
        path.stem: json.loads(text)
        for path, text in outputs(ROOT).items()
        if path.suffix == ".json"
    }


@pytest.mark.parametrize("name", sorted(dashboards()))
def test_a_dashboard_can_be_imported(name: str) -> None:
    """What Grafana asks of a dashboard: an address of at most 40 characters, panels with ids of
    their own that fit into 24 columns and do not cover each other, queries with ids of their own.
    """
    board = dashboards()[name]
    assert re.fullmatch(r"[a-z-]{1,40}", board["uid"])
    (variable,) = board["templating"]["list"]
    assert (variable["name"], variable["type"]) == ("datasource", "datasource")
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + column, place["y"] + row)
            for column in range(place["w"])
            for row in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        targets = panel.get("targets", [])
        assert bool(targets) == (panel["type"] != "row")
        assert len({target["refId"] for target in targets}) == len(targets)
        for part in (panel, *targets):
            if part["type" if part is panel else "refId"] != "row":
                assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_panels_explain_themselves() -> None:
    for board in dashboards().values():
        for panel in board["panels"]:
            if panel["type"] != "row":
                assert panel["description"].endswith((".", "too much.")), panel["title"]
                assert panel["fieldConfig"]["defaults"]["unit"]
                assert all(target["legendFormat"] for target in panel["targets"])


PAGES = {
    name: (ROOT / "docs" / name).read_text()
    for name in ("monitoring.md", "runbook.md", "upgrade.md")
}
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_pages_name_metrics_and_settings_that_exist(name: str) -> None:
    page = PAGES[name]
    named = set(re.findall(r"\b(?:hounsfield[_:][a-z0-9_:]+|nv_\w+)\b", page))
    assert named - set(known_metrics(ROOT)) == set()
    settings = {f"{PREFIX}{field.name.upper()}" for field in fields(Settings)}
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", page)) - settings == set()


@pytest.mark.parametrize("page", [*PAGES.values(), OPERATIONS], ids=[*PAGES, "operations.md"])
def test_pages_name_commands_and_options_that_exist(page: str) -> None:
    cli = typer.main.get_command(app)
    assert isinstance(cli, typer.core.TyperGroup)
    lines = re.findall(r"\bhounsfield ((?:[a-z]+ ?)+)([^`\n#;&|)]*)", _commands(page))
    assert lines
    for words, rest in lines:
        command: Any = cli
        for word in words.split():
            if not isinstance(command, typer.core.TyperGroup) or word not in command.commands:
                break
            command = command.commands[word]
        assert command is not cli, words
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known, (words, rest)


def _commands(page: str) -> str:
    """What a page sets as code, in lines or in the text."""
    blocks = re.findall(r"^```sh\n(.*?)^```|^((?:    .*\n)+)", page, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page, flags=re.M | re.S))
    return "\n".join([*(one or other for one, other in blocks), *inline])


@pytest.mark.parametrize("name", ["monitoring.md", "operations.md", "runbook.md", "upgrade.md"])
def test_links_of_a_page_lead_somewhere(name: str) -> None:
    page = (ROOT / "docs" / name).read_text()
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page):
        path = ROOT / "docs" / (target or name)
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            anchors = {
                re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings
            }
            assert anchor in anchors, (target, anchor)
