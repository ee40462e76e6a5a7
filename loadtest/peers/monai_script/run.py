"""The traditional script: DICOM folder in, DICOM SEG out, by MONAI and PyTorch, study by study.

folder ─▶ MONAI transforms ─▶ torch U-Net, float32, eager ─▶ MONAI inverse ─▶ highdicom

    python -m loadtest.peers.monai_script.run MODEL_YAML WEIGHTS

It says READY once everything is imported and loaded. Then each line ``FOLDER<tab>SEG`` on standard
input is one study: it is answered with one line of JSON, wall seconds by stage.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import torch
import yaml
from highdicom.sr.coding import CodedConcept
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Invertd,
    Lambdad,
    LoadImaged,
    Orientationd,
    ResizeWithPadOrCropd,
    ScaleIntensityRangePercentilesd,
    Spacingd,
)
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from safetensors.torch import load_file

from training.unet import UNet

__all__ = ("main",)

READY = "READY"
BATCH = 4
"""Slices per call of the network; larger ones are slower on a CPU."""


class Script:
    """Network and transforms, loaded once.

    Args:
        model: The model's description: how it wants images, and what its classes are.
        weights: The network's weights.
    """

    def __init__(self, model: Path, weights: Path) -> None:
        spec = yaml.safe_load(model.read_text(encoding="utf-8"))
        self._network = UNet().eval()
        self._network.load_state_dict(load_file(weights))
        self._transforms = _transforms(spec)
        self._invert = Invertd("mask", self._transforms, "image", nearest_interp=True)
        self._segments = [_segment(segment, spec["name"]) for segment in spec["segments"]]

    def study(self, folder: Path, out: Path) -> dict[str, float]:
        """Segments one series.

        Args:
            folder: Its DICOM files.
            out: The DICOM SEG to write.

        Returns:
            Wall seconds by stage.
        """
        times = [time.perf_counter()]
        data = self._transforms({"image": folder})
        times.append(time.perf_counter())
        data["mask"] = self._masks(data["image"])
        times.append(time.perf_counter())
        mask = self._invert(data)["mask"][0].numpy().astype(np.uint8)
        times.append(time.perf_counter())
        self._write(mask, folder, out)
        times.append(time.perf_counter())
        names = ("read, transform", "infer", "invert", "write")
        return dict(zip(names, np.diff(times).tolist(), strict=True))

    def _masks(self, image: MetaTensor) -> MetaTensor:
        """Labels [1, rows, columns, slices] of an image of that shape."""
        slices = image.as_tensor()[0].movedim(-1, 0)[:, None].contiguous()
        with torch.inference_mode():
            masks = [self._network(batch).argmax(1) for batch in torch.split(slices, BATCH)]
        return MetaTensor(torch.cat(masks).movedim(0, -1)[None].float(), meta=image.meta)

    def _write(self, mask: NDArray[np.uint8], folder: Path, out: Path) -> None:
        """Writes labels [columns, rows, slices], as MONAI reads them, with their source images."""
        images = [
            pydicom.dcmread(file, stop_before_pixels=True) for file in sorted(folder.iterdir())
        ]
        across, down = np.array(images[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
        normal = np.cross(across, down)
        images.sort(key=lambda image: float(normal @ np.array(image.ImagePositionPatient, float)))
        hd.seg.Segmentation(
            source_images=images,
            pixel_array=np.ascontiguousarray(mask.transpose(2, 1, 0)),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=self._segments,
            series_instance_uid=hd.UID(),
            series_number=1,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="MONAI script",
            manufacturer_model_name="MONAI script",
            software_versions="1",
            device_serial_number="1",
        ).save_as(out)


def _transforms(spec: dict[str, Any]) -> Compose:
    """What the model was trained with, in MONAI's words.

    Rows towards posterior and columns towards left are what the model calls an axial slice.
    """
    intensity, (rows, columns) = spec["intensity"], spec["geometry"]["size"]
    return Compose(
        [
            LoadImaged("image", reader="PydicomReader"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="PLS", labels=None),
            ScaleIntensityRangePercentilesd(
                "image", intensity["low_percentile"], intensity["high_percentile"], 0, 1, clip=True
            ),
            Spacingd("image", (*spec["geometry"]["spacing_mm"], -1)),
            ResizeWithPadOrCropd("image", (rows, columns, -1)),
            Lambdad("image", lambda image: _normalise(image, intensity["foreground"])),
        ]
    )


def _normalise(image: torch.Tensor, foreground: float) -> torch.Tensor:
    """Zero mean and unit variance over what is brighter than the ground."""
    bright = image[image > foreground]
    return (image - bright.mean()) / bright.std(correction=0)


def _segment(segment: dict[str, Any], model: str) -> hd.seg.SegmentDescription:
    category, kind = (
        CodedConcept(code["value"], code["scheme"], code["meaning"])
        for code in (segment["category"], segment["type"])
    )
    return hd.seg.SegmentDescription(
        segment_number=segment["value"],
        segment_label=segment["label"],
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=model,
            version="1",
            family=codes.cid7162.ArtificialIntelligence,
        ),
    )


def main(arguments: Sequence[str]) -> None:
    """Answers studies until standard input ends."""
    # What libraries print must not come between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    model, weights = map(Path, arguments)
    script = Script(model, weights)
    answers.write(f"{READY}\n")
    answers.flush()
    for line in sys.stdin:
        folder, out = map(Path, line.rstrip("\n").split("\t"))
        answers.write(json.dumps(script.study(folder, out)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
