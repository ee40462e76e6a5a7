"""MONAI's transforms, read and never made: orientation, spacing and normalisation in our terms.

Compose[LoadImaged, Orientationd, Spacingd, ScaleIntensityRanged, ...] ─▶ Preprocessing
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from export.sources.agreement import Unknown
from export.sources.bundle_config import is_expression
from export.sources.transform_values import Arguments, Inexpressible, normalised, padded
from preprocess.spec import IntensitySpec

__all__ = ("Inference", "Preprocessing", "flat", "read_transforms", "transform_name")

# Transforms by what they change; those in _KEEPING change nothing that reaches the network.
_KEEPING = (
    "CastToType",
    "CenterSpatialCrop",
    "CopyItems",
    "DeleteItems",
    "EnsureChannelFirst",
    "EnsureType",
    "Identity",
    "LoadImage",
    "SelectItems",
    "ToDevice",
    "ToTensor",
)
_INTENSITY = (
    "NormalizeIntensity",
    "ScaleIntensity",
    "ScaleIntensityRange",
    "ScaleIntensityRangePercentiles",
)
_PADDING = ("DivisiblePad", "ResizeWithPadOrCrop", "SpatialPad")
_FLOATS = ("float", "float32", "float64", "double")
_TRANSPOSING = ("reverse_indexing", "swap_ij")
_OTHER_SPACING = ("diagonal", "max_pixdim", "min_pixdim", "scale_extent")
_LABELS = [["L", "R"], ["P", "A"], ["I", "S"]]

T = TypeVar("T")


@dataclass(frozen=True)
class Inference:
    """What comes after the transforms.

    Attributes:
        axes: Number of the network's spatial axes.
        sliced: Which of the image's three axes is sliced for a 2D network; None where a 2D
            network sees single images, or the network is 3D.
        padding_value: What MONAI's inferer puts around an image smaller than its window; None
            where it has no window.
    """

    axes: int
    sliced: int | None = None
    padding_value: float | Unknown | None = None

    def own(self, along: Sequence[T]) -> tuple[T, ...]:
        """Of what is said along an image's axes, that of the network's own axes."""
        if self.sliced is None:
            return tuple(along[: self.axes])
        return tuple(value for axis, value in enumerate(along) if axis != self.sliced)


@dataclass(frozen=True)
class Preprocessing:
    """What the transforms do, along the network's own axes.

    Attributes:
        orientation: Directions in which they grow.
        spacing_mm: Distances along them.
        intensity: Normalisation.
        unread: Transforms that cannot be expressed.
    """

    orientation: str | Unknown
    spacing_mm: tuple[float, ...] | Unknown
    intensity: IntensitySpec | Unknown
    unread: tuple[str, ...] = ()


def read_transforms(item: Any, key: str, inference: Inference) -> Preprocessing:
    """Reads the transforms that come before the network.

    Args:
        item: ``preprocessing`` of the bundle, see ``BundleConfig.item``.
        key: Name of the image in the dictionary that the transforms pass on.
        inference: What comes after them.

    Returns:
        Unknown, with the reason, for everything that a transform may change in ways that cannot
        be expressed.
    """
    reading = _Reading(inference)
    for transform in flat(item):
        if _touches(transform, key):
            reading.take(transform_name(transform), Arguments(transform))
    return reading.result()


@dataclass
class _Reading:
    """What is known after some of the transforms."""

    inference: Inference
    directions: str | None = None
    pixdim: tuple[float, ...] | None = None
    intensity: IntensitySpec | None = None
    early_padding: float | None = None
    late_padding: float | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    def take(self, name: str, arguments: Arguments) -> None:
        """Follows one transform; one that cannot be expressed leaves its reason."""
        if name in _KEEPING:
            self._try(name, ("orientation", "spacing", "intensity"), lambda: _keep(arguments))
        elif name == "Orientation":
            self._try(name, ("orientation", "spacing"), lambda: self._orient(arguments))
        elif name == "Spacing":
            self._try(name, ("spacing",), lambda: self._space(arguments))
        elif name in _INTENSITY:
            self._try(name, ("intensity",), lambda: self._normalise(name, arguments))
        elif name in _PADDING:
            self._try(name, ("intensity",), lambda: self._pad(arguments))
        else:
            code = is_expression(name)
            reason = "is code, which a bundle may not run here" if code else "cannot be expressed"
            self._give_up(name, ("orientation", "spacing", "intensity"), reason)

    def result(self) -> Preprocessing:
        """Everything along the network's own axes."""
        self._try("padding", ("intensity",), self._finish)
        own = self.inference.own
        directions = "".join(own(self.directions)) if self.directions else None
        spacing = own(self.pixdim) if self.pixdim else None
        if spacing and min(spacing) <= 0:
            self._give_up("Spacing", ("spacing",), f"pixdim {list(spacing)} keeps a series' own")
        return Preprocessing(
            self._known("orientation", directions, "Orientationd"),
            self._known("spacing", spacing, "Spacingd"),
            self._known("intensity", self.intensity, "normalisation"),
            tuple(self.unread),
        )

    def _try(self, name: str, changes: tuple[str, ...], step: Callable[[], None]) -> None:
        try:
            step()
        except Inexpressible as error:
            self._give_up(name, changes, str(error))

    def _give_up(self, name: str, changes: tuple[str, ...], reason: str) -> None:
        self.unread.append(name)
        for change in changes:
            self.reasons.setdefault(change, f"{name} {reason}")

    def _known(self, what: str, value: T | None, transform: str) -> T | Unknown:
        if what in self.reasons:
            return Unknown(self.reasons[what])
        return Unknown(f"the bundle has no {transform}") if value is None else value

    def _orient(self, arguments: Arguments) -> None:
        if arguments.get("labels") not in (None, _LABELS):
            raise Inexpressible("has labels of its own")
        if self.pixdim and len(set(self.pixdim)) > 1:
            raise Inexpressible("comes after a Spacing whose distances differ by axis")
        canonical = arguments.flag("as_closest_canonical")
        letters = "RAS" if canonical else "".join(map(str, arguments.get("axcodes") or ""))
        axes = 3 if self.inference.sliced is not None else self.inference.axes
        if len(letters) < axes or not all(letter in "RLAPIS" for letter in letters):
            raise Inexpressible(f"has axcodes {letters!r}; expected {axes} of R, L, A, P, I, S")
        self.directions = letters

    def _space(self, arguments: Arguments) -> None:
        for name in _OTHER_SPACING:
            if arguments.get(name) not in (None, False):
                raise Inexpressible(f"has {name}, by which distances differ from series to series")
        given = arguments.get("pixdim")
        values = given if isinstance(given, list) and given else [given]
        distances = [Arguments({"pixdim": value}).number("pixdim") for value in values]
        # MONAI repeats the last distance for axes that have none.
        self.pixdim = tuple((distances + distances[-1:] * 3)[:3])

    def _normalise(self, name: str, arguments: Arguments) -> None:
        single_images = self.inference.axes == 2 and self.inference.sliced is None
        self.intensity = normalised(name, arguments, self.intensity, single_images)

    def _pad(self, arguments: Arguments) -> None:
        if arguments.get("method") not in (None, "symmetric"):
            raise Inexpressible("pads on one side")
        if arguments.get("mode") not in (None, "constant"):
            raise Inexpressible(f"pads by {arguments.get('mode')!r}")
        name = "value" if arguments.get("value") is not None else "constant_values"
        value = arguments.number(name, 0.0)
        if self.intensity is None:
            self.early_padding = value
        else:
            self.late_padding = value

    def _finish(self) -> None:
        if self.intensity is None:
            return
        late = self.inference.padding_value if self.late_padding is None else self.late_padding
        if isinstance(late, Unknown):
            raise Inexpressible(late.reason)
        self.intensity = padded(self.intensity, self.early_padding, late)


def _keep(arguments: Arguments) -> None:
    """Refuses what makes a harmless transform change something after all."""
    for name in _TRANSPOSING:
        if arguments.get(name):
            raise Inexpressible(f"has {name}, which exchanges axes")
    kind = arguments.get("dtype")
    if kind is not None and str(kind).lstrip("$").rpartition(".")[2] not in _FLOATS:
        raise Inexpressible(f"casts to {kind}; expected one of {', '.join(_FLOATS)}")


def flat(item: Any) -> Iterator[Any]:
    """The transforms of a ``Compose``, or a list of them, in their order."""
    if isinstance(item, list):
        for inner in item:
            yield from flat(inner)
    elif isinstance(item, dict) and transform_name(item) == "Compose":
        yield from flat(item.get("transforms") or [])
    else:
        yield item


def transform_name(transform: Any) -> str:
    """Name of a transform without the ending of its dictionary form, as ``Spacing``."""
    target = str(transform.get("_target_") if isinstance(transform, dict) else transform)
    package, _, name = target.rpartition(".")
    if package and not package.startswith("monai."):
        return target
    for end in ("Dict", "D", "d"):
        if name.endswith(end):
            return name.removesuffix(end)
    return name


def _touches(transform: Any, key: str) -> bool:
    """Whether a transform applies to the image."""
    if not isinstance(transform, dict) or transform.get("_disabled_") is True:
        return not isinstance(transform, dict)
    keys = transform.get("keys", key)
    return key in (keys if isinstance(keys, list) else [keys]) or is_expression(keys)
