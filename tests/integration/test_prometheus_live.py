"""A real Prometheus looks at a real stack: rules find their series, and panels show something."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from scripts.monitoring.__main__ import BOARDS
from scripts.monitoring.boards import Graph
from scripts.monitoring.rules import RULES, records
from tests.local_stack import LocalStack, running_stack, two_ports
from tests.prometheus_tools import Prometheus, find_program, running_prometheus

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples" / "colin27_mr"
# What a stack of a minute on a machine without GPU and kubelet cannot have.
NOT_HERE = ("nv_gpu_", "kubelet_", "rejected_ratio", "7d_before", 'code!=""', "request_failure")
NOT_YET = ("hounsfield:ended:grown1h", "hounsfield:rejected_ratio", "7d_before")


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, random_repository: Path
) -> Iterator[LocalStack]:
    find_program("prometheus")
    home = tmp_path_factory.mktemp("live")
    metrics = two_ports()
    with running_stack(
        home, metrics_listen=metrics, model_repository=str(random_repository)
    ) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Looks at the stack while three studies go the whole way."""
    folder = tmp_path_factory.mktemp("prometheus")
    host, _, port = stack.settings.metrics_listen.rpartition(":")
    targets = {
        "gateway": f"{host}:{port}",
        "worker": f"{host}:{int(port) + 1}",
        "triton": f"{host}:{triton_metrics_port(stack)}",
    }
    rules = every_second(folder / "rules")
    address = two_ports()
    with running_prometheus(folder, address, rules, targets) as server:
        wait_for(server, 'count(up{container=~"gateway|worker|triton"} == 1) == 3')
        for priority in ("stat", "routine", "routine"):
            submit(stack, priority)
            time.sleep(2)
        wait_for(server, "hounsfield:ended:sum == 3", 90)  # what has ended is counted each minute
        time.sleep(3)
        yield server


def triton_metrics_port(stack: LocalStack) -> str:
    (port,) = (
        argument.partition("=")[2]
        for argument in psutil.Process(stack.pid("triton")).cmdline()
        if argument.startswith("--metrics-port=")
    )
    return port


def every_second(folder: Path) -> Path:
    """The same rules, but none waits for minutes until it is asked for the first time."""
    shutil.copytree(ROOT / RULES, folder, ignore=shutil.ignore_patterns("tests", "*.md"))
    for path in folder.iterdir():
        content = yaml.safe_load(path.read_text())
        for group in content["groups"]:
            group.pop("interval", None)
        path.write_text(yaml.safe_dump(content))
    return folder


def submit(stack: LocalStack, priority: str) -> None:
    slices = sorted(SAMPLE.glob("*.dcm"))[80:96]
    stack.hounsfield("submit", *slices, "--wait", "--again", "--priority", priority)


def wait_for(server: Prometheus, expression: str, longest_s: float = 30.0) -> None:
    deadline = time.monotonic() + longest_s
    while not server.ask(expression):
        assert time.monotonic() < deadline, f"{expression}: {server.ask('up')}"
        time.sleep(0.5)


def test_every_panel_shows_something(prometheus: Prometheus) -> None:
    empty = [
        query.expression
        for board in BOARDS
        for row in board.rows
        for panel in row.panels
        for query in (panel.queries if isinstance(panel, Graph) else (panel.query,))
        if not prometheus.ask(query.expression.replace("$__rate_interval", "30s"))
    ]
    assert [text for text in empty if not any(part in text for part in NOT_HERE)] == []


def test_every_record_has_a_value(prometheus: Prometheus) -> None:
    missing = [name for name in records(ROOT) if not prometheus.ask(name)]
    assert [name for name in missing if not any(part in name for part in NOT_YET)] == []


def test_the_numbers_are_those_of_the_studies(prometheus: Prometheus) -> None:
    def value(expression: str) -> float:
        (series,) = prometheus.ask(expression)
        return float(series["value"][1])

    assert value("hounsfield:ended:sum") == 3
    assert value("hounsfield:unfinished:sum") == 0
    assert value("sum(hounsfield:dead:max)") == 0
    # Not one is lost at the beginning of a series: increase() sees each study.
    assert round(value('sum(hounsfield:turnaround:count1h{priority="routine"})')) == 2
    assert round(value('sum(hounsfield:turnaround:count1h{priority="stat"})')) == 1
    assert value("sum(hounsfield_slices_total)") == 3 * 16


def test_no_alert_is_on_in_a_healthy_stack(prometheus: Prometheus) -> None:
    assert prometheus.alerts() == {}


def test_a_gateway_that_is_gone_is_noticed(prometheus: Prometheus, stack: LocalStack) -> None:
    """The last test of the module: it stops the gateway."""
    gateway = psutil.Process(stack.pid("gateway"))
    gateway.suspend()
    try:
        wait_for(prometheus, 'up{container="gateway"} == 0', 60)
        wait_for(prometheus, 'ALERTS{alertname="GatewayDown",alertstate="pending"}')
    finally:
        gateway.resume()
