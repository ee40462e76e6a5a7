"""What a network's Triton configuration asks for, read strictly (the cpu profile).

config.pbtxt ─▶ ServedNetwork ─▶ Network
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from preprocess.errors import ServingError

__all__ = ("MASK", "OUTPUTS", "Precision", "ServedNetwork", "read_configuration")

MASK = "mask"
"""The output that every network has, whatever the ensemble calls it."""

OUTPUTS = "outputs"
"""Parameter of a request: the network's outputs that are wanted, joined by commas."""

FILES = ("model.onnx", "model.xml")


class Precision(StrEnum):
    """How OpenVINO computes."""

    F32 = "f32"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True)
class ServedNetwork:
    """What is served.

    Attributes:
        path: The network's file, ONNX or OpenVINO's XML with its .bin beside it.
        precision: How it is computed.
        image: Shape of one slice's input, without the batch axis.
        outputs: Data type (as Triton names it) and shape of one slice's answers by their names,
            the mask first.
    """

    path: Path
    precision: Precision
    image: tuple[int, ...]
    outputs: dict[str, tuple[str, tuple[int, ...]]]


def read_configuration(args: Mapping[str, str]) -> ServedNetwork:
    """Reads what Triton tells a Python model at its start.

    Args:
        args: ``model_config`` (JSON), ``model_name``, ``model_repository`` (the model's folder)
            and ``model_version``.

    Raises:
        ServingError: A parameter is missing or unknown, the file is not there, or there is no
            mask among the outputs.
    """
    name, config = args["model_name"], json.loads(args["model_config"])
    precision = Precision(_parameter(config, name, "precision", [*map(str, Precision)]))
    file = _parameter(config, name, "file", FILES)
    path = Path(args["model_repository"]) / args["model_version"] / file
    if not path.is_file():
        raise ServingError(
            f"{name}: expected {file} in version {args['model_version']}, found none"
        )
    outputs = {one["name"]: (one["data_type"], _dims(one)) for one in config["output"]}
    if MASK not in outputs:
        raise ServingError(f"{name}: expected an output {MASK!r}, got {sorted(outputs)}")
    heads = {output: outputs[output] for output in sorted(outputs, key=lambda one: one != MASK)}
    return ServedNetwork(path, precision, _dims(config["input"][0]), heads)


def _parameter(config: Mapping[str, Any], name: str, key: str, known: Sequence[str]) -> str:
    value = config.get("parameters", {}).get(key, {}).get("string_value")
    if value not in known:
        raise ServingError(
            f"{name}: expected the parameter {key!r} in the cpu profile's configuration, one of "
            f"{', '.join(known)}; got {value!r}"
        )
    return str(value)


def _dims(tensor: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(length) for length in tensor["dims"])
