"""Draws a montage of a segmented series: a picture to look at, not a diagnostic image.

Series + mask ──display orientation──▶ chosen slices ──window, overlay, outlines──▶ PNG, legend
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from client.dicom.measure import StructureMeasurement, measure
from client.dicom.readback import read_mask, source_series_uid
from client.dicom.reader import read_study
from client.dicom.series import Series
from client.errors import NotFound
from client.limits import ReadLimits
from preprocess.spec import HuWindow, ModelSpec, Plane

__all__ = ("View", "display", "overview_from_files", "write_overview")

TILES, TILES_PER_ROW, TILE_PX = 12, 4, 300
GAP_PX, MARGIN_PX, HEADER_PX, LEGEND_PX, LINE_PX = 6, 28, 78, 330, 30
FILL, LINE = 0.33, 0.9
"""Share of a segment's colour inside its outline, and on it."""
PERCENTILES = (1.0, 99.7)
BACKGROUND, INK, FAINT = (16, 18, 23), (233, 235, 241), (146, 152, 165)

SIDES: dict[Plane, tuple[str, str, str, str]] = {
    Plane.AXIAL: ("A", "P", "R", "L"),
    Plane.CORONAL: ("S", "I", "R", "L"),
    Plane.SAGITTAL: ("S", "I", "A", "P"),
}
"""Patient directions at the top, bottom, left and right of a displayed slice."""

DISPLAY_AXES: dict[Plane, tuple[tuple[int, int], ...]] = {
    Plane.AXIAL: ((2, 1), (1, 1), (0, 1)),
    Plane.CORONAL: ((1, 1), (2, -1), (0, 1)),
    Plane.SAGITTAL: ((0, 1), (2, -1), (1, 1)),
}
"""LPS axis and its sign along growing slices, rows and columns of the display."""


@dataclass(frozen=True, eq=False)
class View:
    """Grey values 0 to 1 and labels [slices, rows, columns], turned to display orientation."""

    grey: NDArray[np.float32]
    mask: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    plane: Plane


def write_overview(series: Series, mask: NDArray[np.uint8], spec: ModelSpec, path: Path) -> None:
    """Writes the montage: radiological convention, the patient's right on the picture's left.

    Args:
        series: The images.
        mask: uint8 [slices, rows, columns] on the series' grid.
        spec: Names and colours of the segments.
        path: The PNG to write. It shows pixels of the patient: keep it where such data may lie.
    """
    view = display(series, mask, spec)
    shown = _choose(view.mask)
    tiles = [_tile(view, index, spec) for index in shown]
    structures = measure(series, mask, spec)
    _compose(tiles, view, structures, spec).save(path, optimize=True)


def overview_from_files(
    files: Iterable[Path], segmentation: bytes, spec: ModelSpec, path: Path
) -> None:
    """The same from a decrypted DICOM SEG and the files of its study.

    Raises:
        NotFound: The files hold no readable series that the segmentation refers to.
    """
    uid = source_series_uid(segmentation)
    study = read_study(((file.name, file.read_bytes()) for file in files), ReadLimits())
    for series in study.series:
        if series.uid == uid:
            write_overview(series, read_mask(segmentation, series), spec, path)
            return
    raise NotFound("Expected the images of the segmentation among the files, but found none.")


def display(series: Series, mask: NDArray[np.uint8], spec: ModelSpec) -> View:
    """Permutes and flips the voxel axes to the nearest display axes; nothing is resampled."""
    columns = series.affine[:3, :3] / np.array(series.spacing_mm)
    plane = series.geometry.plane
    order: list[int] = []
    flips: list[int] = []
    for axis, sign in DISPLAY_AXES[plane]:
        source = max(set(range(3)) - set(order), key=lambda k: abs(columns[axis, k]))
        order.append(source)
        if columns[axis, source] * sign < 0:
            flips.append(len(order) - 1)
    spacing = tuple(series.spacing_mm[k] for k in order)
    return View(
        grey=np.flip(_grey(series, spec).transpose(order), tuple(flips)),
        mask=np.flip(mask.transpose(order), tuple(flips)),
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        plane=plane,
    )


def _grey(series: Series, spec: ModelSpec) -> NDArray[np.float32]:
    units = series.stored.astype(np.float32) * np.float32(series.slope)
    units += np.float32(series.intercept)
    if isinstance(spec.intensity, HuWindow):
        low, high = spec.intensity.hu_low, spec.intensity.hu_high
    else:
        low, high = (float(value) for value in np.percentile(units, PERCENTILES))
    grey: NDArray[np.float32] = np.clip((units - low) / max(high - low, 1e-6), 0, 1)
    return 1 - grey if series.inverted else grey


def _choose(mask: NDArray[np.uint8]) -> list[int]:
    """Evenly spread slices, inside the segmented extent where there is one."""
    present = np.flatnonzero(mask.any(axis=(1, 2)))
    low, high = (present[0], present[-1]) if len(present) else (0, len(mask) - 1)
    count = min(TILES, high - low + 1)
    edge = (high - low) / (2 * count)
    return sorted({round(i) for i in np.linspace(low + edge, high - edge, count)}, reverse=True)


def _tile(view: View, index: int, spec: ModelSpec) -> Image.Image:
    rows, columns = _crop(view)
    height_mm = (rows.stop - rows.start) * view.spacing_mm[1]
    width_mm = (columns.stop - columns.start) * view.spacing_mm[2]
    scale = TILE_PX / max(height_mm, width_mm)
    size = (max(1, round(width_mm * scale)), max(1, round(height_mm * scale)))
    grey = _resized(view.grey[index, rows, columns], size)
    labels = _smooth_labels(view.mask[index, rows, columns], size, len(spec.segments))
    colours = np.array([(0, 0, 0), *(segment.color for segment in spec.segments)], dtype=float)
    share = np.where(labels > 0, np.where(_outline(labels), LINE, FILL), 0.0)[..., None]
    pixels = grey[..., None] * 255 * (1 - share) + colours[labels] * share
    tile = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    _annotate(tile, view, index)
    return tile


def _crop(view: View) -> tuple[slice, slice]:
    """The part of the field of view that shows anything, the same for every tile."""
    visible = (view.grey.max(axis=0) > 0.12) | view.mask.any(axis=0)
    if not visible.any():
        visible[:] = True
    parts = []
    for axis in (0, 1):
        inside = np.flatnonzero(visible.any(axis=1 - axis))
        pad = math.ceil(0.03 * len(inside))
        stop = min(visible.shape[axis], int(inside[-1]) + 1 + pad)
        parts.append(slice(max(0, int(inside[0]) - pad), stop))
    return parts[0], parts[1]


def _resized(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def _smooth_labels(
    labels: NDArray[np.uint8], size: tuple[int, int], segments: int
) -> NDArray[np.uint8]:
    """Enlarges labels with smooth outlines: in each pixel the class with most weight wins."""
    weights = [
        _resized((labels == value).astype(np.float32), size) for value in range(segments + 1)
    ]
    winner: NDArray[np.intp] = np.argmax(np.stack(weights), axis=0)
    return winner.astype(np.uint8)


def _outline(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    edge = np.zeros(labels.shape, dtype=bool)
    edge[1:] |= labels[:-1] != labels[1:]
    edge[:, 1:] |= labels[:, :-1] != labels[:, 1:]
    return edge


def _annotate(tile: Image.Image, view: View, index: int) -> None:
    draw = ImageDraw.Draw(tile)
    top, bottom, left, right = SIDES[view.plane]
    width, height = tile.size
    for text, place, anchor in (
        (top, (width / 2, 4), "ma"),
        (bottom, (width / 2, height - 4), "md"),
        (left, (5, height / 2), "lm"),
        (right, (width - 5, height / 2), "rm"),
        (f"{index + 1}", (6, 4), "la"),
    ):
        ink = FAINT if text.isdigit() else INK
        draw.text(place, text, ink, _font(13), anchor, stroke_width=2, stroke_fill=BACKGROUND)


def _compose(
    tiles: list[Image.Image],
    view: View,
    structures: tuple[StructureMeasurement, ...],
    spec: ModelSpec,
) -> Image.Image:
    per_row = min(TILES_PER_ROW, len(tiles))
    rows = math.ceil(len(tiles) / per_row)
    width, height = tiles[0].size[0] + GAP_PX, tiles[0].size[1] + GAP_PX
    legend_x = MARGIN_PX + per_row * width + MARGIN_PX - GAP_PX
    legend_height = LINE_PX * (len(structures) + 1)
    canvas = Image.new(
        "RGB",
        (
            legend_x + LEGEND_PX,
            HEADER_PX + max(rows * height, legend_height) + MARGIN_PX,
        ),
        BACKGROUND,
    )
    for place, tile in enumerate(tiles):
        x, y = place % per_row, place // per_row
        canvas.paste(tile, (MARGIN_PX + x * width, HEADER_PX + y * height))
    draw = ImageDraw.Draw(canvas)
    spacing = " x ".join(f"{value:.2f}" for value in view.spacing_mm)
    draw.text((MARGIN_PX, 18), spec.title, INK, _font(24))
    draw.text(
        (MARGIN_PX, 50),
        f"{len(tiles)} of {len(view.mask)} {view.plane} slices, {spacing} mm. {spec.intended_use}",
        FAINT,
        _font(14),
    )
    _draw_legend(draw, legend_x, structures, spec)
    return canvas


def _draw_legend(
    draw: ImageDraw.ImageDraw,
    x: int,
    structures: tuple[StructureMeasurement, ...],
    spec: ModelSpec,
) -> None:
    right = x + LEGEND_PX - MARGIN_PX
    total = sum(structure.volume_ml for structure in structures)
    for line, (structure, segment) in enumerate(zip(structures, spec.segments, strict=True)):
        y = HEADER_PX + line * LINE_PX
        draw.rounded_rectangle((x, y + 3, x + 18, y + 19), 4, segment.color)
        ink = INK if structure.voxels else FAINT
        draw.text((x + 30, y + 11), structure.label, ink, _font(15), "lm")
        draw.text((right, y + 11), f"{structure.volume_ml:.1f} ml", ink, _font(15), "rm")
    y = HEADER_PX + len(structures) * LINE_PX
    draw.line((x, y, right, y), FAINT)
    draw.text((x + 30, y + 15), "All structures", INK, _font(15), "lm")
    draw.text((right, y + 15), f"{total:.1f} ml", INK, _font(15), "rm")


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
