"""Head label maps: NIfTI files ▶ compact uint8 volumes with the class of every label.

The maps are SynthSeg's published training maps (Apache-2.0): 256 cubed at 1 mm, FreeSurfer
label values for the brain and values above 500 for the rest of the head.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from training.volumes import load_ras

__all__ = (
    "CLASS_NAMES",
    "CLASS_OF_INDEX",
    "GROUP_OF_INDEX",
    "LABEL_VALUES",
    "MAX_DISTANCE_MM",
    "STRAY_CSF_INDEX",
    "HeadMap",
    "class_of_label",
    "data_hash",
    "encode_map",
    "load_maps",
)

CLASS_NAMES = (
    "outside",
    "csf",
    "cerebral_cortex",
    "cerebral_white_matter",
    "thalamus",
    "caudate",
    "putamen",
    "pallidum",
    "hippocampus",
    "amygdala",
    "brain_stem",
    "cerebellum",
)

# Left and right share a class: a 2D network cannot know the side of a sagittal slice.
_CLASS_MEMBERS: dict[int, tuple[int, ...]] = {
    1: (4, 5, 14, 15, 24, 43, 44, 72, 136, 137, 163, 164),
    2: (3, 42),
    3: (2, 25, 41, 57),
    4: (10, 49),
    5: (11, 50, 26, 58),  # the accumbens goes with the caudate
    6: (12, 51, 30, 62),  # 30 and 62 are single vessels inside the putamen
    7: (13, 52),
    8: (17, 53),
    9: (18, 54),
    10: (16, 28, 60),  # the ventral diencephalon goes with the brain-stem
    11: (7, 8, 46, 47),
}
_EXTRACEREBRAL = (85, 502, 506, 507, 508, 509, 511, 512, 514, 515, 516, 530)

LABEL_VALUES: tuple[int, ...] = (
    0,
    *sorted(v for members in _CLASS_MEMBERS.values() for v in members),
    *_EXTRACEREBRAL,
)
STRAY_CSF_INDEX = len(LABEL_VALUES)
MAX_DISTANCE_MM = 40


def class_of_label(value: int) -> int:
    """Return the class 0..11 of a FreeSurfer (or extra-cerebral) label value."""
    return next((c for c, members in _CLASS_MEMBERS.items() if value in members), 0)


CLASS_OF_INDEX: NDArray[np.uint8] = np.array(
    [*(class_of_label(v) for v in LABEL_VALUES), 0], np.uint8
)

# Labels that share an intensity: left with right, and the pieces SynthSeg draws together.
_TWIN = {41: 2, 42: 3, 43: 4, 44: 4, 5: 4, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17}
_TWIN |= {54: 18, 57: 25, 58: 26, 60: 28, 62: 30, 136: 4, 137: 4, 163: 4, 164: 4, 72: 4}
GROUP_OF_INDEX: NDArray[np.intp] = np.array(
    [*(LABEL_VALUES.index(_TWIN.get(v, v)) for v in LABEL_VALUES), LABEL_VALUES.index(24)], np.intp
)


@dataclass(frozen=True)
class HeadMap:
    """One head in RAS+ axes at 1 mm.

    Attributes:
        index: [x, y, z] uint8, an index into `LABEL_VALUES` (or `STRAY_CSF_INDEX`).
        distance_mm: [x, y, z] uint8, distance to the nearest voxel of classes 2..11.
        brain_low, brain_high: the corners of the box of classes 2..11, in voxels.
        sample: indices of random voxels of the head's box, to estimate series statistics.
    """

    name: str
    index: NDArray[np.uint8]
    distance_mm: NDArray[np.uint8]
    brain_low: NDArray[np.int64]
    brain_high: NDArray[np.int64]
    sample: NDArray[np.uint8]


def encode_map(name: str, values: NDArray[np.generic]) -> HeadMap:
    """Encode a label volume in RAS+ axes; CSF away from the brain becomes a stray label.

    Stray is: not connected with the brain, or below its lowest voxel (the spinal canal).

    Raises:
        ValueError: A label value is not in `LABEL_VALUES`.
    """
    lut = np.full(1024, 255, np.uint8)
    lut[list(LABEL_VALUES)] = np.arange(len(LABEL_VALUES), dtype=np.uint8)
    index = lut[values.astype(np.int32)]
    if (index == 255).any():
        raise ValueError(f"{name}: expected only known labels, found {np.unique(values)}")
    classes = CLASS_OF_INDEX[index]
    tissue = classes > 1
    corners = np.argwhere(tissue)
    low, high = corners.min(axis=0), corners.max(axis=0)
    parts, _ = ndimage.label(classes > 0)
    main = parts == np.bincount(parts[tissue]).argmax()
    stray = (index == LABEL_VALUES.index(24)) & ~main
    stray[:, :, : low[2]] |= index[:, :, : low[2]] == LABEL_VALUES.index(24)
    index[stray] = STRAY_CSF_INDEX
    distance = ndimage.distance_transform_edt(~tissue)
    head = np.argwhere(index[::4, ::4, ::4] > 0) * 4
    box = tuple(slice(a, b) for a, b in zip(head.min(axis=0), head.max(axis=0) + 4, strict=True))
    rng = np.random.default_rng(0)
    return HeadMap(
        name=name,
        index=np.ascontiguousarray(index),
        distance_mm=np.minimum(distance, MAX_DISTANCE_MM).astype(np.uint8),
        brain_low=low,
        brain_high=high,
        sample=rng.choice(index[box].ravel(), 4096),
    )


def load_maps(folder: Path, skip: tuple[str, ...] = ()) -> list[HeadMap]:
    """Load `training_seg_*.nii.gz` of a folder, except the ones whose number is in `skip`.

    Raises:
        FileNotFoundError: The folder holds no map.
    """
    files = sorted(folder.glob("training_seg_*.nii.gz"))
    if not files:
        raise FileNotFoundError(f"expected training_seg_*.nii.gz in {folder}, found none")
    maps = []
    for file in files:
        number = file.name.removeprefix("training_seg_").removesuffix(".nii.gz")
        if number not in skip:
            values, _ = load_ras(file)
            maps.append(encode_map(number, values))
    return maps


def data_hash(folder: Path) -> str:
    """Return the SHA-256 of all map files of the folder, in name order."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("training_seg_*.nii.gz")):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
