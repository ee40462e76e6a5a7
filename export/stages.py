"""Resumable stages: a stage whose inputs did not change and whose outputs are whole is not run.

inputs ─▶ key ─▶ (same key, same outputs: skip │ run in a scratch folder ─▶ rename) ─▶ files
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

__all__ = ("Stage", "StageResult", "StageRunner", "file_sha256", "tree_sha256")

_RECORD = "stage.json"
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Stage:
    """One step of the build.

    Attributes:
        name: Its name, and its folder's.
        inputs: Everything that decides the outcome, as JSON values; files by their hash.
        run: Writes the outputs into the folder it is given, and returns facts for the record.
    """

    name: str
    inputs: Mapping[str, Any]
    run: Callable[[Path], Mapping[str, Any]]

    @property
    def key(self) -> str:
        """Hash of the inputs."""
        content = json.dumps(self.inputs, sort_keys=True, separators=(",", ":"), default=str)
        return sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class StageResult:
    """What a stage left.

    Attributes:
        folder: Its outputs.
        outputs: SHA-256 of every output by its path within the folder.
        facts: What the stage said about them.
        seconds: How long it took when it ran.
        ran: Whether it ran now.
    """

    folder: Path
    outputs: Mapping[str, str]
    facts: Mapping[str, Any]
    seconds: float
    ran: bool

    @property
    def sha256(self) -> str:
        """Hash over all outputs, for the stages that follow."""
        content = json.dumps(dict(self.outputs), sort_keys=True)
        return sha256(content.encode()).hexdigest()


class StageRunner:
    """Runs stages below one folder.

    Contract:
        - A stage that was stopped, failed or ran out of disk leaves no folder that counts.
        - A changed or missing output, like a changed input, makes the stage run again.

    Args:
        folder: Where the stages' folders are.
        announce: Called with the stage's name and what happens to it: "skip", "run", "done".
    """

    def __init__(self, folder: Path, announce: Callable[[str, str, float], None]) -> None:
        self._folder = folder
        self._announce = announce

    def finished(self, stage: Stage) -> StageResult | None:
        """What the stage left, if it need not run."""
        folder = self._folder / stage.name
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
            if record["key"] == stage.key and record["outputs"] == tree_sha256(folder):
                return StageResult(
                    folder, record["outputs"], record["facts"], float(record["seconds"]), ran=False
                )
        return None

    def run(self, stage: Stage) -> StageResult:
        """Runs the stage unless it need not; whatever it raises is raised as it is."""
        finished = self.finished(stage)
        if finished is not None:
            self._announce(stage.name, "skip", finished.seconds)
            return finished
        self._announce(stage.name, "run", 0.0)
        folder, scratch = self._folder / stage.name, self._folder / f".{stage.name}"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        started = time.monotonic()
        try:
            facts = dict(stage.run(scratch))
            seconds = round(time.monotonic() - started, 3)
            outputs = tree_sha256(scratch)
            record = {"key": stage.key, "outputs": outputs, "facts": facts, "seconds": seconds}
            text = json.dumps(record, indent=1, sort_keys=True)
            (scratch / _RECORD).write_text(text, encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            scratch.rename(folder)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        self._announce(stage.name, "done", seconds)
        return StageResult(folder, outputs, json.loads(text)["facts"], seconds, ran=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def tree_sha256(folder: Path, *, without: Iterable[str] = (_RECORD,)) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path within it; byte code does not count.

    Args:
        folder: The folder.
        without: File names that do not count, wherever they are.
    """
    left_out = set(without)
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): file_sha256(path)
        for path in files
        if path.name not in left_out and "__pycache__" not in path.parts
    }
