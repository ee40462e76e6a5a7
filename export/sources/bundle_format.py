"""What a MONAI bundle's metadata and network definition say of the network's input and output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.errors import SourceError
from export.sources.agreement import Unknown
from export.sources.json_object import read_json_object

__all__ = ("BundleFormat", "read_format")

_VERSIONS = ("version", "monai_version", "pytorch_version")


@dataclass(frozen=True)
class BundleFormat:
    """Input and output of a bundle's network.

    Attributes:
        image: Name of the input, which is also the image's in the transforms' dictionary.
        axes: Number of the network's spatial axes.
        scores: Score channels.
        spatial: Size of the spatial axes.
        channel_names: Name of each score channel; empty where the bundle does not say.
        facts: Versions that the bundle states.
    """

    image: str
    axes: int
    scores: int
    spatial: tuple[int, ...] | Unknown
    channel_names: tuple[str, ...]
    facts: dict[str, str]


def read_format(path: Path, definition: dict[str, Any]) -> BundleFormat:
    """Reads ``network_data_format``.

    Args:
        path: metadata.json.
        definition: The network's definition, whose arguments stand in where metadata is silent.

    Raises:
        SourceError: Not there, not JSON, several inputs or channels, or metadata and definition
            disagree.
    """
    metadata = read_json_object(path, "a MONAI bundle folder")
    # The file is foreign: any entry of it may be of another kind.
    try:
        return _format(metadata, definition, path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(
            f"{path}: network_data_format is not what MONAI describes: "
            f"{type(error).__name__}: {error}"
        ) from error


def _format(metadata: dict[str, Any], definition: dict[str, Any], path: Path) -> BundleFormat:
    data = metadata.get("network_data_format", {})
    inputs, outputs = data.get("inputs", {}), data.get("outputs", {})
    if len(inputs) > 1 or len(outputs) > 1:
        raise SourceError(
            f"{path}: inputs {', '.join(inputs)} and outputs {', '.join(outputs)}; expected one "
            "image in and one prediction out"
        )
    name = next(iter(inputs), "image")
    image: dict[str, Any] = inputs.get(name, {})
    prediction: dict[str, Any] = next(iter(outputs.values()), {})
    channels = _agreed(image.get("num_channels"), definition, "in_channels", path)
    if channels != 1:
        raise SourceError(
            f"{path}: {channels} input channels; expected 1, because a request holds one series"
        )
    shape = image.get("spatial_shape") or []
    axes = _agreed(len(shape) or None, definition, "spatial_dims", path)
    if axes not in (2, 3):
        raise SourceError(f"{path}: {axes} spatial axes; expected 2 or 3")
    names = {int(key): str(label) for key, label in prediction.get("channel_def", {}).items()}
    return BundleFormat(
        image=str(name),
        axes=axes,
        scores=_agreed(prediction.get("num_channels"), definition, "out_channels", path),
        spatial=_size(shape),
        channel_names=tuple(names[index] for index in range(len(names))),
        facts={f"bundle_{key}": str(metadata[key]) for key in _VERSIONS if key in metadata},
    )


def _agreed(stated: int | None, definition: dict[str, Any], argument: str, path: Path) -> int:
    """What metadata and the network's argument say, which must be the same."""
    defined = definition.get(argument)
    number = defined if isinstance(defined, int) else stated
    if number is None:
        raise SourceError(f"{path}: does not say what the network's {argument} is")
    if stated not in (None, number):
        raise SourceError(
            f"{path}: says {stated} where the network's definition has {argument} {number}"
        )
    return int(number)


def _size(shape: list[Any]) -> tuple[int, ...] | Unknown:
    if shape and all(type(length) is int and length > 0 for length in shape):
        return tuple(shape)
    return Unknown(
        f"the bundle's metadata has spatial_shape {shape}, and its inferer no roi_size of numbers"
    )
