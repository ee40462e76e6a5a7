"""What MONAI's intensity transforms do to values, in our terms.

ScaleIntensityRanged ─▶ HuWindow
ScaleIntensityRangePercentilesd, ScaleIntensityd ─▶ PercentileRange
NormalizeIntensityd ─▶ ZScore, or with constants another range of the window before it
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from preprocess.errors import SpecError
from preprocess.spec import (
    HuWindow,
    IntensityKind,
    IntensitySpec,
    Padding,
    PercentileRange,
    ZScore,
)

__all__ = ("Arguments", "Inexpressible", "normalised", "padded")


class Inexpressible(Exception):
    """A transform does what ours cannot; the message says what."""


class Arguments:
    """Arguments of one transform, as the configuration has them.

    Args:
        values: Their values by name.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def get(self, name: str) -> Any:
        """The value as it stands; None where it is absent."""
        return self._values.get(name)

    def flag(self, name: str, default: bool = False) -> bool:
        """A truth value.

        Raises:
            Inexpressible: It is something else, as an expression.
        """
        value = self._values.get(name, default)
        if not isinstance(value, bool):
            raise Inexpressible(f"{name} is {value!r}; write true or false")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number, or a list of one.

        Raises:
            Inexpressible: It is absent without a default, or something else.
        """
        value = self._values.get(name, default)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Inexpressible(f"{name} is {value!r}; write a number")
        return float(value)


def normalised(
    name: str, arguments: Arguments, before: IntensitySpec | None, single_images: bool
) -> IntensitySpec:
    """Follows one intensity transform.

    Args:
        name: ``ScaleIntensityRange`` and so on, without the ``d``.
        arguments: Its arguments.
        before: What transforms before it did.
        single_images: Whether the transform sees one 2D image instead of a series.

    Raises:
        Inexpressible: Together they are none of our normalisations.
    """
    constants = name == "NormalizeIntensity" and arguments.get("subtrahend") is not None
    if single_images and name != "ScaleIntensityRange" and not constants:
        raise Inexpressible(
            "measures each 2D image by itself, but a series is normalised as a whole here"
        )
    if before is not None and not constants and not _is_unclipped(before):
        raise Inexpressible("comes after values were clipped")
    try:
        match name:
            case "ScaleIntensityRange":
                if before is not None:
                    raise Inexpressible("takes its window from values that were scaled before it")
                return _window(arguments)
            case "ScaleIntensityRangePercentiles":
                return _percentiles(arguments)
            case "ScaleIntensity":
                return _full_range(arguments)
        return _standardised(arguments, before)
    except SpecError as error:
        raise Inexpressible(str(error)) from error


def padded(spec: IntensitySpec, early: float | None, late: float | None) -> IntensitySpec:
    """Adds what lies around a picture.

    Before the normalisation, MONAI pads with a modality value: as good as the darkest one where
    that is clipped to it. After it, it pads with a network value.

    Args:
        spec: The normalisation.
        early: What is padded before it, None where nothing is.
        late: What is padded after it, None where nothing is.

    Raises:
        Inexpressible: Neither 0 nor the lowest network value.
    """
    lowest = getattr(spec, "low_value", None)
    if early is not None:
        if isinstance(spec, HuWindow) and early <= spec.hu_low:
            return replace(spec, padding=Padding.LOW)
        raise Inexpressible(f"pads with {early:g} before it normalises")
    if late is None or late == lowest:
        return replace(spec, padding=Padding.LOW)
    if late == 0:
        return replace(spec, padding=Padding.ZERO)
    raise Inexpressible(f"pads with {late:g} after it normalised; expected 0 or the lowest value")


def _is_unclipped(spec: IntensitySpec) -> bool:
    """Whether values were only shifted and stretched, which no later measure of theirs sees."""
    if isinstance(spec, PercentileRange):
        return (spec.low_percentile, spec.high_percentile) == (0, 100)
    return isinstance(spec, ZScore)


def _window(arguments: Arguments) -> HuWindow:
    _require_clip(arguments)
    low, high = arguments.number("a_min"), arguments.number("a_max")
    low_value, high_value = arguments.number("b_min"), arguments.number("b_max")
    return HuWindow(IntensityKind.HU_WINDOW, low, high, low_value, high_value)


def _percentiles(arguments: Arguments) -> PercentileRange:
    _require_clip(arguments)
    if arguments.flag("relative"):
        raise Inexpressible("relative is true: the range depends on the percentiles")
    return PercentileRange(
        IntensityKind.PERCENTILE_RANGE,
        arguments.number("lower"),
        arguments.number("upper"),
        arguments.number("b_min"),
        arguments.number("b_max"),
    )


def _full_range(arguments: Arguments) -> PercentileRange:
    if arguments.get("factor") is not None:
        raise Inexpressible("factor multiplies values without a fixed range")
    low, high = arguments.number("minv", 0.0), arguments.number("maxv", 1.0)
    return PercentileRange(IntensityKind.PERCENTILE_RANGE, 0.0, 100.0, low, high)


def _standardised(arguments: Arguments, before: IntensitySpec | None) -> IntensitySpec:
    if arguments.flag("nonzero"):
        raise Inexpressible(
            "nonzero is true: it changes nonzero voxels only and leaves the others at 0, which "
            "is no single line of values; train with nonzero false"
        )
    if arguments.get("subtrahend") is None and arguments.get("divisor") is None:
        return ZScore(IntensityKind.ZSCORE)
    if not isinstance(before, (HuWindow, PercentileRange)):
        raise Inexpressible("subtracts and divides without a range to clip to before it")
    mean, sd = arguments.number("subtrahend"), arguments.number("divisor")
    if sd <= 0:
        raise Inexpressible(f"divisor is {sd:g}; expected one above 0")
    return replace(
        before, low_value=(before.low_value - mean) / sd, high_value=(before.high_value - mean) / sd
    )


def _require_clip(arguments: Arguments) -> None:
    if not arguments.flag("clip"):
        raise Inexpressible("clip is false: values outside the range run on without end")
