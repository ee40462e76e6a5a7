"""Draw what the network finds, for the model card: volumes ▶ overlays, best and worst.

python -m training.pictures --data DIR --onnx FILE --out docs/models/img
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.evaluate import Case, dice, load_cases
from training.reference import brain_of_classes
from training.served import ServedNet
from training.volumes import to_plane

__all__ = ("main", "overlay", "panel", "worst_slices")

_LEAST_BRAIN_MM2 = 400.0
_OPACITY = 0.55


def overlay(
    image: NDArray[Any], classes: NDArray[np.uint8], colors: NDArray[np.uint8], top: float
) -> NDArray[np.uint8]:
    """Return RGB [rows, columns, 3]: the image in grey under the colours of its classes.

    Args:
        image: [rows, columns]; `top` is shown white.
        classes: [rows, columns]; 0 stays grey.
        colors: [classes, 3].
        top: The image value that is shown white.
    """
    grey = (np.clip(image / top, 0, 1) * 255)[..., None].repeat(3, axis=-1)
    mixed = (1 - _OPACITY) * grey + _OPACITY * colors[classes]
    return np.where(classes[..., None] > 0, mixed, grey).astype(np.uint8)


def panel(rows: list[list[NDArray[np.uint8]]], side: int = 200) -> Image.Image:
    """Return one picture of RGB tiles, each centred on a black square."""
    out = Image.new("RGB", (side * max(len(row) for row in rows), side * len(rows)))
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            picture = Image.fromarray(tile)
            scale = side / max(picture.size)
            width, height = (max(1, round(n * scale)) for n in picture.size)
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
            out.paste(picture, (j * side + (side - width) // 2, i * side + (side - height) // 2))
    return out


def worst_slices(
    found: NDArray[np.bool_], truth: NDArray[np.bool_], pixel_mm2: float, count: int
) -> list[int]:
    """Return the slices with the lowest Dice among those that truly show some brain."""
    shown = [k for k in range(len(truth)) if truth[k].sum() * pixel_mm2 >= _LEAST_BRAIN_MM2]
    return sorted(shown, key=lambda k: dice(found[k], truth[k]))[:count]


def _draw(net: ServedNet, case: Case, out: Path) -> None:
    colors = np.zeros((256, 3), np.uint8)
    for segment in net.spec.segments:
        colors[segment.value] = segment.color
    top = float(np.percentile(case.image.voxels[case.image.voxels > 0], 99.5))
    typical, worst = [], []
    for plane in ("axial", "coronal", "sagittal"):
        volume = to_plane(case.image, plane)
        classes = net.segment(volume)
        brain = replace(case.image, voxels=case.truth["brain"].astype(np.uint8))
        truth = np.asarray(to_plane(brain, plane).voxels > 0)
        found = brain_of_classes(classes, volume.spacing_mm)
        extent = np.flatnonzero(truth.any(axis=(1, 2)))
        row = []
        for part in (0.35, 0.5, 0.65):
            k = int(extent[int(part * (len(extent) - 1))])
            row += [
                overlay(volume.voxels[k], np.zeros_like(classes[k]), colors, top),
                overlay(volume.voxels[k], classes[k], colors, top),
            ]
        typical.append(row)
        pixel_mm2 = volume.spacing_mm[1] * volume.spacing_mm[2]
        row = []
        for k in worst_slices(found, truth, pixel_mm2, 1):
            print(f"{case.name} {plane} slice {k}: {dice(found[k], truth[k]):.3f}")  # noqa: T201
            row += [
                overlay(volume.voxels[k], np.zeros_like(classes[k]), colors, top),
                overlay(volume.voxels[k], classes[k], colors, top),
                overlay(volume.voxels[k], truth[k].astype(np.uint8), colors, top),
            ]
        worst.append(row)
    panel(typical).quantize(160).save(out / f"brain_mr_{case.name}.png", optimize=True)
    panel(worst).quantize(160).save(out / f"brain_mr_{case.name}_worst.png", optimize=True)


def main() -> None:
    """Draw typical and worst slices of every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--spec", type=Path, default=Path("model_repository/brain_mr/model.yaml"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    net = ServedNet(args.onnx, args.spec)
    for case in load_cases(args.data, ["colin27", "mni152", "icbm152"]):
        _draw(net, case, args.out)


if __name__ == "__main__":
    main()
