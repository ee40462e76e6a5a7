"""What a network's Triton configuration asks for, read strictly (the cpu profile).

config.pbtxt ─▶ ServedNetwork (file, precision, Compilation) ─▶ Network
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, get_type_hints

from preprocess.errors import ServingError
from preprocess.serving.cores import available_cores

__all__ = (
    "MASK",
    "OUTPUTS",
    "TUNED",
    "Compilation",
    "Precision",
    "ServedNetwork",
    "read_configuration",
    "tuned_parameters",
)

MASK = "mask"
"""The output that every network has, whatever the ensemble calls it."""

OUTPUTS = "outputs"
"""Parameter of a request: the network's outputs that are wanted, joined by commas."""

TUNED = "tuned_"
"""Begins the parameters that a search chose: they decide how fast an answer comes, not which."""

FILES = ("model.onnx", "model.xml")
CORES = f"{TUNED}cores"
SWITCHES = {"false": False, "true": True}


class Precision(StrEnum):
    """How OpenVINO computes."""

    F32 = "f32"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True)
class Compilation:
    """How OpenVINO divides the cores of one instance; what is None it decides itself.

    Attributes:
        streams: Slices that are computed side by side when several wait.
        threads: Threads of all streams together.
        requests: Slices that are handed to OpenVINO at a time; None means one more than streams.
        single_threads: Threads for a slice that comes alone.
        pinning: Whether threads are bound to cores.
        hyper_threading: Whether both threads of a core are used.
    """

    streams: int | None = None
    threads: int | None = None
    requests: int | None = None
    single_threads: int | None = None
    pinning: bool | None = None
    hyper_threading: bool | None = None


@dataclass(frozen=True)
class ServedNetwork:
    """What is served.

    Attributes:
        path: The network's file, ONNX or OpenVINO's XML with its .bin beside it.
        precision: How it is computed.
        image: Shape of one slice's input, without the batch axis.
        outputs: Data type (as Triton names it) and shape of one slice's answers by their names,
            the mask first.
        compilation: How it uses the cores.
    """

    path: Path
    precision: Precision
    image: tuple[int, ...]
    outputs: dict[str, tuple[str, tuple[int, ...]]]
    compilation: Compilation = Compilation()


def tuned_parameters(compilation: Compilation, cores: int) -> dict[str, str]:
    """The parameters from which ``read_configuration`` has the same on a machine of so many cores.

    Args:
        compilation: What a search chose; where it chose nothing there are no parameters.
        cores: Where it was measured, see ``available_cores``.
    """
    chosen = {key: value for key, value in asdict(compilation).items() if value is not None}
    if not chosen:
        return {}
    # A truth value as JSON spells it, which is how it is read again.
    texts = {f"{TUNED}{key}": json.dumps(value) for key, value in chosen.items()}
    return {CORES: str(cores)} | texts


def read_configuration(args: Mapping[str, str]) -> ServedNetwork:
    """Reads what Triton tells a Python model at its start.

    Settings that were chosen by a search hold for the number of cores they were measured on. With
    another number OpenVINO decides itself, and standard error says so in one line. Instances
    without settings of their own share the cores, so that they never ask for more than there are.

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
    compilation = _compilation(config, name, available_cores())
    return ServedNetwork(path, precision, _dims(config["input"][0]), heads, compilation)


def _compilation(config: Mapping[str, Any], name: str, cores: int) -> Compilation:
    given = {
        key: item["string_value"]
        for key, item in config.get("parameters", {}).items()
        if key.startswith(TUNED)
    }
    chosen = Compilation()
    if given:
        measured_on = _count(name, CORES, given.pop(CORES, None))
        fields = {key.removeprefix(TUNED): key for key in given}
        chosen = Compilation(**{f: _setting(name, k, given[k]) for f, k in fields.items()})
        if measured_on != cores:
            sys.stderr.write(
                f"{name}: tuned on {measured_on} cores, this machine has {cores}: OpenVINO decides "
                "itself; python -m export tune measures here\n"
            )
            chosen = Compilation()
    instances = sum(int(group.get("count", 1)) for group in config.get("instance_group", ()))
    if instances > 1 and chosen.threads is None:
        chosen = replace(chosen, threads=max(1, cores // instances))
    return chosen


def _setting(name: str, key: str, text: str) -> Any:
    """One parameter's value, by the field of ``Compilation`` that it names."""
    kinds = get_type_hints(Compilation)
    kind = kinds.get(key.removeprefix(TUNED))
    if kind == int | None:
        return _count(name, key, text)
    if kind != bool | None:
        known = ", ".join(f"{TUNED}{field}" for field in kinds)
        raise ServingError(f"{name}: unknown parameter {key!r}; known are {CORES}, {known}")
    if text not in SWITCHES:
        raise ServingError(f"{name}: expected true or false for {key!r}, got {text!r}")
    return SWITCHES[text]


def _count(name: str, key: str, text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ServingError(
            f"{name}: expected a whole number above 0 for the parameter {key!r}, got {text!r}"
        )
    return int(text)


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
