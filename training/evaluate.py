"""Measure an exported network on real heads that it never saw: volumes ▶ Dice by plane ▶ JSON.

python -m training.evaluate --data DIR --onnx FILE --report docs/models/brain_mr.json

The folder is searched for Colin27 (ch2, ch2bet, aal), MNI152 with skull (MNI152_T1_2mm and its
brain mask) and ICBM152 without (mni_icbm152_{t1,gm,wm}_tal_nlin_sym_09a_converted).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.label_maps import CLASS_NAMES
from training.reference import brain_from_stripped, brain_of_classes, classes_from_aal
from training.served import ServedNet
from training.volumes import Volume, load_nifti, to_plane

__all__ = ("Case", "dice", "load_cases", "main", "measure", "thicken")

Masks = dict[str, NDArray[np.bool_]]
_PLANES = ("axial", "coronal", "sagittal")
_THICK_MM = (5.0, 7.0)
_GREY, _WHITE, _HINDBRAIN = (2, 4, 5, 6, 7, 8, 9), (3,), (10, 11)


@dataclass(frozen=True)
class Case:
    """One real head.

    Attributes:
        image: The axial volume.
        truth: Reference masks on the volume's grid, by structure.
        ignore_hindbrain: Leave brain-stem and cerebellum out of all but the brain, because
            their classes do not tell grey from white.
    """

    name: str
    image: Volume
    truth: Masks
    ignore_hindbrain: bool = False


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Return the Dice overlap of two masks; 1 where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def _find(folder: Path, name: str) -> Path:
    found = sorted(folder.rglob(name))
    if not found:
        raise FileNotFoundError(f"expected {name} below {folder}, found none")
    return found[0]


def _colin(folder: Path) -> Case:
    image, stripped, aal = (
        load_nifti(_find(folder, f"{name}.nii.gz"), "axial") for name in ("ch2", "ch2bet", "aal")
    )
    structures = classes_from_aal(aal.voxels)
    truth = {CLASS_NAMES[c]: structures == c for c in np.unique(structures) if c}
    return Case("colin27", image, {"brain": brain_from_stripped(stripped.voxels) > 0, **truth})


def _mni(folder: Path) -> Case:
    image = load_nifti(_find(folder, "MNI152_T1_2mm.nii.gz"), "axial")
    mask = load_nifti(_find(folder, "MNI152_T1_2mm_brain_mask.nii.gz"), "axial")
    return Case("mni152", image, {"brain": mask.voxels > 0})


def _icbm(folder: Path) -> Case:
    t1, grey, white = (
        load_nifti(_find(folder, f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"), "axial")
        for kind in ("t1", "gm", "wm")
    )
    masks = {"grey": grey.voxels > 127, "white": white.voxels > 127}
    return Case("icbm152_stripped", t1, {"brain": t1.voxels > 0, **masks}, ignore_hindbrain=True)


_LOADERS: dict[str, Callable[[Path], Case]] = {"colin27": _colin, "mni152": _mni, "icbm152": _icbm}


def load_cases(folder: Path, names: list[str]) -> list[Case]:
    """Load the named cases of the folder."""
    return [_LOADERS[name](folder) for name in names]


def thicken(volume: Volume, thickness_mm: float) -> Volume:
    """Average neighbouring slices to about this thickness, without a gap."""
    count = max(1, round(thickness_mm / volume.spacing_mm[0]))
    slices = len(volume.voxels) // count
    shape = (slices, count, *volume.voxels.shape[1:])
    voxels = volume.voxels[: slices * count].reshape(shape).mean(axis=1)
    return replace(
        volume, voxels=voxels, spacing_mm=(count * volume.spacing_mm[0], *volume.spacing_mm[1:])
    )


def _predicted(classes: NDArray[np.uint8], spacing_mm: tuple[float, float, float]) -> Masks:
    masks = {name: classes == value for value, name in enumerate(CLASS_NAMES) if value}
    masks["brain"] = brain_of_classes(classes, spacing_mm)
    masks["brain_with_all_csf"] = classes > 0
    masks["grey"], masks["white"] = np.isin(classes, _GREY), np.isin(classes, _WHITE)
    return masks


def measure(net: ServedNet, case: Case, plane: str, thickness_mm: float | None) -> dict[str, float]:
    """Segment one case in one plane and return the Dice of every reference mask.

    Args:
        net: The exported network.
        case: Image and references.
        plane: How the volume is cut.
        thickness_mm: Simulated slice thickness; None keeps the volume's own.
    """

    def cut(values: NDArray[Any]) -> Volume:
        volume = to_plane(replace(case.image, voxels=values), plane)
        return thicken(volume, thickness_mm) if thickness_mm else volume

    image = cut(case.image.voxels)
    classes = net.segment(image)
    predicted = _predicted(classes, image.spacing_mm)
    counted = ~np.isin(classes, _HINDBRAIN) if case.ignore_hindbrain else np.array(True)
    scores = {}
    for name, mask in case.truth.items():
        truth = cut(mask.astype(np.float32)).voxels > 0.5
        where = np.array(True) if name == "brain" else counted
        scores[name] = dice(predicted[name] & where, truth & where)
        if name == "brain":
            scores["brain_with_all_csf"] = dice(predicted["brain_with_all_csf"], truth)
    return {name: round(score, 4) for name, score in scores.items()}


def main() -> None:
    """Measure every case in every plane, thin and thick, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--spec", type=Path, default=Path("model_repository/brain_mr/model.yaml"))
    parser.add_argument("--report", type=Path)
    parser.add_argument("--cases", nargs="+", default=list(_LOADERS), choices=list(_LOADERS))
    parser.add_argument("--planes", nargs="+", default=list(_PLANES), choices=_PLANES)
    parser.add_argument("--no-thick", action="store_true")
    args = parser.parse_args()
    net = ServedNet(args.onnx, args.spec)
    results = []
    for case in load_cases(args.data, args.cases):
        for plane in args.planes:
            for thickness_mm in (None,) if args.no_thick else (None, *_THICK_MM):
                scores = measure(net, case, plane, thickness_mm)
                own_mm = to_plane(case.image, plane).spacing_mm[0]
                row = {"case": case.name, "plane": plane, "slice_mm": thickness_mm or own_mm}
                results.append({**row, "dice": scores})
                print(json.dumps(results[-1]), flush=True)  # noqa: T201
    report = {"onnx_sha256": net.sha256, "metadata": net.properties, "results": results}
    if args.report:
        args.report.parent.mkdir(parents=True, exist_ok=True)
        args.report.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
