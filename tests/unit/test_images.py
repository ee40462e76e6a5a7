from __future__ import annotations

import ast
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from client.triton.release import describe, name_of
from scripts.check_images import check, ignored, instructions
from scripts.lock_images import IMAGES, findings

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
LAUNCHER = ROOT / "docker" / "launch_triton.py"
DIGEST = "0" * 64
GOOD = f"""\
ARG BASE=python:3.11-slim@sha256:{DIGEST}
FROM ${{BASE}} AS build
COPY client client
RUN ["pip", "install", "-r", "requirements.txt"]
FROM ${{BASE}}
COPY --from=build /venv /venv
USER 10001:10001
CMD ["python"]
"""


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_every_dockerfile_is_in_order(path: Path) -> None:
    assert list(check(path.read_text(), ROOT)) == []


def test_nothing_is_said_about_a_good_one() -> None:
    assert list(check(GOOD, ROOT)) == []


@pytest.mark.parametrize(
    ("right", "wrong", "finding"),
    [
        (f"@sha256:{DIGEST}", "", "expected name:tag@sha256"),
        (f"3.11-slim@sha256:{DIGEST}", f"latest@sha256:{DIGEST}", "says nothing"),
        ("COPY client client", "COPY clinet client", "there is no such file"),
        ("COPY client client", "COPY docs docs", ".dockerignore keeps it"),
        ("COPY client client", "COPY . .", "name what the image is made of"),
        ("COPY client client", "ADD https://example.org/x.tar.gz /", "ADD"),
        ("USER 10001:10001", "USER root", "USER"),
        ("USER 10001:10001\n", "", "USER"),
        ("USER 10001:10001", "USER 1000:1000", "USER"),
        ('CMD ["python"]', "CMD python", "no shell"),
        ('RUN ["pip", "install", "-r", "requirements.txt"]', "RUN pip install numpy", "no shell"),
        ('"-r", "requirements.txt"', '"numpy"', "a file with hashes"),
        ("CMD", "ENV DB_PASSWORD=x\nCMD", "keeps every word"),
    ],
)
def test_each_mistake_is_named(right: str, wrong: str, finding: str) -> None:
    assert right in GOOD
    found = list(check(GOOD.replace(right, wrong), ROOT))
    assert len(found) >= 1
    assert any(finding in one for one in found), found


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("client/jobs.py", False),
        ("client", False),
        ("client/__pycache__/jobs.cpython-311.pyc", True),
        ("client/jobs.pyc", True),
        ("tests/conftest.py", True),
        ("demo-output", True),
        (".venv/bin/python", True),
        (".git", True),
        ("loadtest/traffic/run.py", False),
        ("loadtest/peers/work.py", True),
    ],
)
def test_the_builder_gets_no_more_than_an_image_needs(path: str, out: bool) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored(path, [line for line in lines if line and not line.startswith("#")]) is out


@pytest.mark.parametrize("image", IMAGES)
def test_every_package_is_pinned_by_hash_and_was_tested(image: str) -> None:
    assert list(findings(image)) == []


def test_the_commands_of_the_manifests_are_in_the_images() -> None:
    manifests = "\n".join(path.read_text() for path in (ROOT / "k8s").rglob("*.yaml"))
    modules = set(re.findall(r"command: \[python, -m, ([a-z_.]+)", manifests))
    assert {"client.ingest.process", "client.worker", "client.triton.delivery"} <= modules
    for module in modules:
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    copied = {
        source
        for file in DOCKERFILES
        for i in instructions(file.read_text())
        if i.word == "COPY" and "--from" not in i.rest
        for source in i.rest.split()[:-1]
    }
    for used in re.findall(r"/app/([a-z_]+)", manifests):
        assert used in copied


def test_the_laptop_serves_the_models_of_this_tree() -> None:
    pinned = (ROOT / "k8s/overlays/laptop/models.env").read_text()
    assert f"release={name_of(describe(ROOT / 'model_repository'))}\n" in pinned


def test_nvidias_python_can_run_the_launcher(tmp_path: Path) -> None:
    source = LAUNCHER.read_text()
    tree = ast.parse(source, feature_version=(3, 10))
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        str(node.module).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
    assert imported <= sys.stdlib_module_names
    (tmp_path / "arguments.json").write_text(json.dumps(["--http-port=8000"]))
    launcher = runpy.run_path(str(LAUNCHER))
    argv = launcher["command"](tmp_path / "arguments.json")
    assert argv == ["/opt/tritonserver/bin/tritonserver", "--http-port=8000"]


def test_the_launcher_becomes_the_server_and_leaves_no_core_dumps(tmp_path: Path) -> None:
    source = LAUNCHER.read_text()
    server = tmp_path / "tritonserver"
    server.write_text(
        f"#!{sys.executable}\nimport os, resource, sys\n"
        "print(os.getpid(), resource.getrlimit(resource.RLIMIT_CORE), sys.argv[1:])\n"
    )
    server.chmod(0o755)
    launcher = tmp_path / "launch.py"
    launcher.write_text(source.replace("/opt/tritonserver/bin/tritonserver", str(server)))
    (tmp_path / "arguments.json").write_text(json.dumps(["--http-port=8000"]))
    child = subprocess.Popen(
        [sys.executable, str(launcher), str(tmp_path / "arguments.json")],
        stdout=subprocess.PIPE,
        text=True,
    )
    out, _ = child.communicate(timeout=30)
    assert out == f"{child.pid} (0, 0) ['--http-port=8000']\n"
