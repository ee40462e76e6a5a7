"""A model's three folders in a repository: which files they hold and what its versions share.

<model>/ │ <model>_prep/ │ <model>_net/ ─▶ shared files │ numbered versions of the network
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from export.errors import PublishError
from export.repository.options import Profile, Step
from export.stages import file_sha256
from preprocess.errors import SpecError
from preprocess.serving.configured import TUNED
from preprocess.spec import ModelSpec, load_model_spec

__all__ = ("LOCAL", "PLAN", "PROVENANCE", "ModelFolders", "file_hashes")

PROVENANCE = "provenance.json"
PLAN = "model.plan"
LOCAL = (PLAN, f"{PLAN}.json")
"""What a machine adds to a version for itself: no part of what was published."""


@dataclass(frozen=True)
class ModelFolders:
    """The folders of one model; they need not be there.

    Attributes:
        root: The repository, or the folder that a model is staged in.
        name: The model.
    """

    root: Path
    name: str

    @property
    def spec(self) -> ModelSpec:
        """The description, as it lies there.

        Raises:
            SpecError: It cannot be read.
        """
        return load_model_spec(self.root / self.name / "model.yaml")

    @property
    def net(self) -> Path:
        """The network's folder, which has versions."""
        return self.root / f"{self.name}{Step.NET}"

    @property
    def versions(self) -> tuple[int, ...]:
        """Versions of the network, ascending."""
        names = (path.name for path in self.net.glob("*") if path.is_dir())
        return tuple(sorted(int(name) for name in names if name.isdecimal()))

    def version_files(self, version: int) -> dict[str, Path]:
        """Published files of one version, by their path in its folder."""
        files = _files(self.net / str(version))
        return {path: file for path, file in files.items() if path not in LOCAL}

    def shared_files(self) -> dict[str, Path]:
        """Files that all versions share, by their path in the repository."""
        versions = {self.net / str(version) for version in self.versions}
        return {
            f"{self.name}{step}/{path}": file
            for step in (Step.NET, Step.PREP, Step.ENSEMBLE)
            for path, file in _files(self.root / f"{self.name}{step}").items()
            if versions.isdisjoint(file.parents)
        }

    def meaning(self) -> dict[str, Any]:
        """What decides the answer of every version: if it changes, older versions answer wrongly.

        Titles, routes, colours, batch sizes, warm-up and what a search chose are not part of it.

        Raises:
            PublishError: A description or configuration cannot be read.
        """
        try:
            spec = self.spec
        except SpecError as error:
            raise PublishError(f"{self.root}: {error}") from error
        segments = [(s.value, s.category, s.type, s.anatomy) for s in spec.segments]
        described = {
            "geometry": spec.geometry,
            "intensity": spec.intensity,
            "tensors": spec.tensors,
            "heads": spec.heads,
            "segments": segments,
        }
        configured = {
            f"{step.value.strip('_')} in the {profile} profile": self._execution(step, profile)
            for step in (Step.PREP, Step.NET)
            for profile in Profile
        }
        return described | configured

    def _execution(self, step: Step, profile: Profile) -> tuple[Any, ...]:
        """What runs a step: backend, file, tensors, parameters."""
        path = self.root / f"{self.name}{step}" / profile.file
        try:
            config = text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
        except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
            raise PublishError(f"{path}: {error}") from error
        parameters = sorted(
            (key, item.string_value)
            for key, item in config.parameters.items()
            if not key.startswith(TUNED)
        )
        return (
            config.platform,
            config.backend,
            config.default_model_filename,
            [*map(str, config.input)],
            [*map(str, config.output)],
            parameters,
        )


def file_hashes(files: dict[str, Path]) -> dict[str, str]:
    """SHA-256 of each file's content."""
    return {name: file_sha256(path) for name, path in files.items()}


def _files(folder: Path) -> dict[str, Path]:
    """Files below a folder by their path in it, without what Python leaves beside its sources."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
