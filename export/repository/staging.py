"""A complete model in a folder of its own, which Triton can serve before it is published.

texts, warm-up, model.dali, engines ─▶ <model>/ │ <model>_prep/ │ <model>_net/ with its provenance
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.errors import PublishError
from export.repository.configuration import model_files
from export.repository.dali_file import serialise_pipeline
from export.repository.layout import PROVENANCE, ModelFolders, file_hashes
from export.repository.messages import warm_up_files
from export.repository.options import Profile, Serving, Step
from preprocess.spec import ModelSpec

__all__ = ("stage", "write_provenance")


def stage(
    folder: Path,
    spec: ModelSpec,
    serving: Serving,
    files: Mapping[str, Path],
    *,
    version: int = 1,
    facts: Mapping[str, Any] | None = None,
) -> ModelFolders:
    """Makes the three folders of a model.

    Args:
        folder: Where; what it held before is removed.
        spec: The model.
        serving: How it is served.
        files: Engines: name in the version's folder (``model.onnx``, ``model.plan``,
            ``model.xml`` with ``model.bin``) and where the file lies.
        version: Version of the network; publishing chooses its own.
        facts: What the provenance says, see ``write_provenance``.

    Raises:
        PublishError: What the cpu profile serves is not among the files, or the folder cannot be
            written.
        MissingPart: DALI is not installed.
        RecipeError: The model has an embedding head of unknown size.
    """
    _check_engine(serving, files)
    prep = f"{spec.name}{Step.PREP}"
    texts = model_files(spec, serving, version).items()
    contents = {path: text.encode() for path, text in texts} | warm_up_files(spec)
    contents[f"{prep}/1/model.dali"] = serialise_pipeline(spec, serving.max_batch(Profile.GPU))
    model = ModelFolders(folder, spec.name)
    try:
        if folder.exists():
            shutil.rmtree(folder)
        for path, content in contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        for name, source in files.items():
            shutil.copyfile(source, model.net / str(version) / name)
    except OSError as error:
        raise PublishError(f"{error.filename or folder}: {error.strerror or error}") from error
    write_provenance(model, facts or {})
    return model


def write_provenance(model: ModelFolders, facts: Mapping[str, Any]) -> Path:
    """Writes ``provenance.json`` beside the staged network: facts, and the hash of every file.

    It is written again after the gate, with the gate's summary. A published version whose other
    files are the same is not published again, so facts may name a time.

    Args:
        model: The staged model.
        facts: JSON values: hash of the recipe, metadata of the graph, summary of the gate.

    Raises:
        PublishError: It cannot be written.
    """
    [version] = model.versions
    path = model.net / str(version) / PROVENANCE
    files = {k: v for k, v in model.version_files(version).items() if k != PROVENANCE}
    try:
        content = {
            "model": model.name,
            **facts,
            "files": file_hashes(files),
            "shared": file_hashes(model.shared_files()),
        }
        path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise PublishError(f"{path}: {error.strerror or error}") from error
    return path


def _check_engine(serving: Serving, files: Mapping[str, Path]) -> None:
    needed = [serving.cpu_file]
    if serving.cpu_file.endswith(".xml"):
        needed.append(serving.cpu_file.removesuffix(".xml") + ".bin")
    missing = [name for name in needed if name not in files]
    if missing:
        raise PublishError(f"expected {missing} for the cpu profile, got {sorted(files)}")
