"""A model repository for each precision: the committed one, and others made by the export.

recipe with another `engines.cpu` ─▶ python -m export build --no-publish ─▶ staged model, admitted?

The export compares every engine with the network it comes from. What it does not admit is measured
all the same where it was asked for, and said not to be in service.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from client.errors import ConfigurationError
from loadtest.engine import served_network

__all__ = ("ServedRepository", "repository_of", "served_precision", "weights_of", "with_precision")

MISSED = 7
"""Exit status of a build whose answers moved too far (docs/export.md)."""

OUTPUT_TAIL = 3000
PATHS = ("image", "labels", "weights", "file", "folder", "bundle")
"""Keys of a recipe whose values are paths relative to it."""


@dataclass(frozen=True)
class ServedRepository:
    """One precision, ready for a server.

    Attributes:
        precision: What its engine computes in.
        folder: The model repository.
        admitted: Whether the export's comparison admits it to service.
    """

    precision: str
    folder: Path
    admitted: bool


def repository_of(precision: str, recipe: Path, committed: Path, work: Path) -> ServedRepository:
    """Finds or makes the repository of a precision.

    A build whose stages are all up to date takes a few seconds, the first one a minute.

    Args:
        precision: ``f32``, ``bf16`` or ``int8``.
        recipe: MODEL.yaml.
        committed: The repository whose model serves float32.
        work: Folder for everything that is made.

    Raises:
        ConfigurationError: The export is not installed, or a stage failed.
    """
    model = str(_read(recipe)["name"])
    if served_precision(committed, model) == precision:
        return ServedRepository(precision, committed, True)
    folder = work / precision
    folder.mkdir(parents=True, exist_ok=True)
    derived = folder / f"{model}.yaml"
    content = with_precision(_read(recipe), precision, recipe.parent)
    derived.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    tuning = recipe.with_suffix(".tuning.json")
    if tuning.exists():
        shutil.copyfile(tuning, folder / tuning.name)
    admitted = _build(derived, folder)
    repository = folder / "model_repository"
    shutil.rmtree(repository, ignore_errors=True)
    shutil.copytree(
        folder / "stages" / model / "staged",
        repository,
        ignore=shutil.ignore_patterns("stage.json", "__pycache__"),
    )
    return ServedRepository(precision, repository, admitted)


def served_precision(repository: Path, model: str) -> str:
    """What the cpu profile of a repository computes in."""
    return str(served_network(repository, model).precision)


def weights_of(recipe: Path) -> Path:
    """The file of the weights that a recipe starts from.

    Raises:
        ConfigurationError: It names none.
    """
    weights = _read(recipe)["export"]["source"].get("weights")
    if weights is None:
        raise ConfigurationError(f"Expected export.source.weights in {recipe}.")
    return (recipe.parent / str(weights)).resolve()


def with_precision(recipe: dict[str, Any], precision: str, base: Path) -> dict[str, Any]:
    """A recipe that serves another precision on the CPU, with absolute paths.

    Args:
        recipe: MODEL.yaml, parsed.
        precision: What the cpu profile shall serve.
        base: What its paths are relative to.
    """
    export = dict(recipe["export"])
    # The engines that only a GPU serves are another comparison; staging needs one of them.
    export["engines"] = {
        **export.get("engines", {}),
        "cpu": precision,
        "openvino": ["f32", precision],
        "gpu": "fp32",
        "tensorrt": ["fp32"],
    }
    export["source"] = _absolute(export["source"], base)
    for series in ("calibration", "verification"):
        export[series] = [_absolute(one, base) for one in export.get(series, ())]
    return {**recipe, "export": export}


def _absolute(options: dict[str, Any], base: Path) -> dict[str, Any]:
    return {
        key: str((base / value).resolve()) if key in PATHS else value
        for key, value in options.items()
    }


def _build(recipe: Path, folder: Path) -> bool:
    """Whether the comparison admits it; everything is staged either way."""
    arguments: Sequence[str] = (
        "build", str(recipe.absolute()), "--no-publish",
        "--repository", str(folder.absolute() / "unpublished"),
        "--work", str(folder.absolute() / "stages"),
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "export", *arguments],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode not in (0, MISSED):
        raise ConfigurationError(
            f"The export of {recipe.name} ended with status {done.returncode}; it needs "
            f"`pip install -e '.[server,export]'`.\n{done.stdout[-OUTPUT_TAIL:]}"
        )
    return done.returncode == 0


def _read(recipe: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"Expected a recipe in {recipe}: {error}") from error
    return content
