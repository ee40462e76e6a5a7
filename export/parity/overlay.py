"""A picture of the worst case: image, both masks and their difference, whole and enlarged."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray
from scipy import ndimage

from export.parity.tally import Exhibit
from preprocess.spec import SegmentSpec

__all__ = ("draw_overlay",)

GROUND, INK, LOST, GAINED = "#101418", "#e6e9ec", "#ffc93c", "#ff4fa3"
OPACITY = 0.55
ZOOM = 0.25
"""Side of the enlarged part, as a fraction of the canvas."""


def draw_overlay(exhibit: Exhibit, segments: Sequence[SegmentSpec] = ()) -> bytes:
    """Draws an engine's worst slice.

    In the difference, a pixel that the engine gives to the background has one colour, one that it
    gives to a class which the float32 network does not see there has the other.

    Args:
        exhibit: The slice.
        segments: Names and colours of the classes.

    Returns:
        A PNG.
    """
    if exhibit.mask.ndim == 3:
        exhibit = _busiest_layer(exhibit)
    differs = exhibit.mask != exhibit.expected
    window = _busiest(differs)
    grey = _grey(exhibit.image)
    panels = [
        ("image", grey),
        ("float32 network", _painted(grey, exhibit.expected, segments)),
        (exhibit.engine, _painted(grey, exhibit.mask, segments)),
        ("difference", _difference(grey, exhibit)),
    ]
    figure = Figure(figsize=(13, 7.4), facecolor=GROUND, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 4)
    for column, (title, picture) in enumerate(panels):
        _show(axes[0, column], picture, title)
        _show(axes[1, column], picture[window], "")
        axes[0, column].add_patch(_frame(window))
    place, count = exhibit.place, int(differs.sum())
    figure.suptitle(
        f"{exhibit.engine}: {count} of {differs.size} pixels differ "
        f"in slice {place.slice} of {place.series}",
        color=INK,
        fontsize=13,
    )
    _explain(figure, exhibit, segments)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100, metadata={"Software": None})
    return out.getvalue()


def _busiest_layer(exhibit: Exhibit) -> Exhibit:
    """Of a 3D patch the layer with most differing voxels."""
    layer = int((exhibit.mask != exhibit.expected).sum(axis=(1, 2)).argmax())
    return replace(
        exhibit,
        image=exhibit.image[layer],
        expected=exhibit.expected[layer],
        mask=exhibit.mask[layer],
    )


def _busiest(differs: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The window with most differing pixels."""
    rows, columns = (max(16, round(ZOOM * side)) for side in differs.shape)
    rows, columns = min(rows, differs.shape[0]), min(columns, differs.shape[1])
    density = ndimage.uniform_filter(differs.astype(np.float64), (rows, columns), mode="constant")
    y, x = np.unravel_index(int(density.argmax()), differs.shape)
    top = int(np.clip(y - rows // 2, 0, differs.shape[0] - rows))
    left = int(np.clip(x - columns // 2, 0, differs.shape[1] - columns))
    return slice(top, top + rows), slice(left, left + columns)


def _grey(image: NDArray[np.float32]) -> NDArray[np.float64]:
    low, high = np.percentile(image, [0.5, 99.5])
    u = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    return np.repeat(u[..., None].astype(np.float64), 3, axis=-1)


def _painted(
    grey: NDArray[np.float64], mask: NDArray[np.uint8], segments: Sequence[SegmentSpec]
) -> NDArray[np.float64]:
    """The classes over the image, opaque along their edges."""
    picture = grey.copy()
    for value in np.unique(mask[mask > 0]).tolist():
        inside = mask == value
        edge = inside & ~ndimage.binary_erosion(inside, border_value=1)
        color = _color(value, segments)
        picture[inside] = (1 - OPACITY) * grey[inside] + OPACITY * color
        picture[edge] = color
    return picture


def _difference(grey: NDArray[np.float64], exhibit: Exhibit) -> NDArray[np.float64]:
    picture = 0.45 * grey
    differs = exhibit.mask != exhibit.expected
    gained = differs & (exhibit.mask > 0)
    picture[differs] = _rgb(LOST)
    picture[gained] = _rgb(GAINED)
    return picture


def _color(value: int, segments: Sequence[SegmentSpec]) -> NDArray[np.float64]:
    known = {segment.value: segment.color for segment in segments}
    if value in known:
        return np.array(known[value]) / 255
    return 0.35 + 0.65 * np.random.default_rng(value).random(3)


def _rgb(code: str) -> NDArray[np.float64]:
    return np.frombuffer(bytes.fromhex(code[1:]), dtype=np.uint8) / 255


def _show(axes: Any, picture: NDArray[np.float64], title: str) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, color=INK, fontsize=11)
    for spine in axes.spines.values():
        spine.set_color("#4a525a")


def _frame(window: tuple[slice, slice]) -> Rectangle:
    rows, columns = window
    return Rectangle(
        (columns.start - 0.5, rows.start - 0.5),
        columns.stop - columns.start,
        rows.stop - rows.start,
        fill=False,
        edgecolor=INK,
        linewidth=1,
    )


def _explain(figure: Figure, exhibit: Exhibit, segments: Sequence[SegmentSpec]) -> None:
    present = np.unique([exhibit.mask, exhibit.expected])
    names = {segment.value: segment.label for segment in segments}
    entries = [
        Patch(color=tuple(_color(value, segments)), label=names.get(value, f"class {value}"))
        for value in present.tolist()
        if value > 0
    ]
    entries += [
        Patch(color=LOST, label="difference: lost to the background"),
        Patch(color=GAINED, label="difference: given to another class"),
    ]
    figure.legend(
        handles=entries,
        loc="outside lower center",
        ncols=5,
        frameon=False,
        labelcolor=INK,
        fontsize=9,
    )
