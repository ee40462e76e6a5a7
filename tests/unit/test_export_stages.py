"""Stages run when something changed, and only then."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from export.stages import Stage, StageRunner, file_sha256

pytestmark = pytest.mark.unit


class Recorder:
    """Counts runs; writes one file."""

    def __init__(self, text: str = "a", error: Exception | None = None) -> None:
        self.runs = 0
        self._text, self._error = text, error

    def __call__(self, folder: Path) -> Mapping[str, Any]:
        self.runs += 1
        (folder / "sub").mkdir()
        (folder / "sub" / "out.txt").write_text(self._text)
        if self._error:
            raise self._error
        return {"length": len(self._text)}


@pytest.fixture
def events() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def runner(tmp_path: Path, events: list[tuple[str, str]]) -> StageRunner:
    return StageRunner(tmp_path / "work", lambda name, what, _: events.append((name, what)))


def test_a_stage_runs_once_for_the_same_inputs(
    runner: StageRunner, events: list[tuple[str, str]]
) -> None:
    work = Recorder()
    first = runner.run(Stage("graph", {"x": 1}, work))
    second = runner.run(Stage("graph", {"x": 1}, work))
    assert work.runs == 1
    assert (first.ran, second.ran) == (True, False)
    assert (
        first.outputs
        == second.outputs
        == {"sub/out.txt": file_sha256(first.folder / "sub" / "out.txt")}
    )
    assert second.facts == {"length": 1}
    assert second.seconds == first.seconds
    assert events == [("graph", "run"), ("graph", "done"), ("graph", "skip")]


def test_changed_inputs_run_it_again_and_change_the_hash(runner: StageRunner) -> None:
    first = runner.run(Stage("graph", {"x": 1}, Recorder("a")))
    second = runner.run(Stage("graph", {"x": 2}, Recorder("b")))
    assert second.ran
    assert first.sha256 != second.sha256


@pytest.mark.parametrize("damage", ["change", "remove", "add", "record"])
def test_damaged_outputs_run_it_again(runner: StageRunner, damage: str) -> None:
    work = Recorder()
    folder = runner.run(Stage("graph", {}, work)).folder
    if damage == "change":
        (folder / "sub" / "out.txt").write_text("other")
    elif damage == "remove":
        (folder / "sub" / "out.txt").unlink()
    elif damage == "add":
        (folder / "more.txt").write_text("other")
    else:
        (folder / "stage.json").write_text("{")
    assert runner.run(Stage("graph", {}, work)).ran
    assert work.runs == 2


def test_byte_code_that_a_server_left_is_no_change(runner: StageRunner) -> None:
    work = Recorder()
    folder = runner.run(Stage("staged", {}, work)).folder
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "model.pyc").write_bytes(b"x")
    assert not runner.run(Stage("staged", {}, work)).ran


def test_a_failed_stage_leaves_nothing_and_the_former_result_stands(
    runner: StageRunner, tmp_path: Path
) -> None:
    runner.run(Stage("graph", {"x": 1}, Recorder()))
    with pytest.raises(OSError, match="full"):
        runner.run(Stage("graph", {"x": 2}, Recorder(error=OSError("disk full"))))
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["graph"]
    assert runner.finished(Stage("graph", {"x": 1}, Recorder())) is not None
