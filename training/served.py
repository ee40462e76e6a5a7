"""A volume the way it is served: Volume ▶ plan ▶ reference preprocessing ▶ ONNX ▶ class volume."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from preprocess.cleanup import native_mask
from preprocess.plan import plan_series
from preprocess.reference import network_image
from preprocess.spec import ModelSpec, load_model_spec
from training.volumes import Volume

__all__ = ("ServedNet",)

_BATCH = 8


class ServedNet:
    """Segments volumes with an exported network.

    Args:
        onnx: The exported file.
        spec: The model's description, `model.yaml`.
        threads: Threads of ONNX Runtime.
    """

    def __init__(self, onnx: Path, spec: Path, threads: int = 2) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.spec: ModelSpec = load_model_spec(spec)
        self.session = onnxruntime.InferenceSession(
            onnx, options, providers=["CPUExecutionProvider"]
        )
        self.sha256 = hashlib.sha256(onnx.read_bytes()).hexdigest()
        self.properties: dict[str, str] = self.session.get_modelmeta().custom_metadata_map

    def segment(self, volume: Volume) -> NDArray[np.uint8]:
        """Return the classes [slices, rows, columns] on the volume's own grid.

        Args:
            volume: Any volume whose rounded values fit int16; it is normalised as one series.
        """
        stored = np.rint(volume.voxels).astype(np.int16)
        plan = plan_series(self.spec, stored, volume.geometry)
        masks = []
        for start in range(0, len(stored), _BATCH):
            part = stored[start : start + _BATCH]
            images = [network_image(self.spec, plan.tensors(image)) for image in part]
            (batch,) = self.session.run(["mask"], {"image": np.stack(images)})
            masks.append(batch)
        return native_mask(plan, np.concatenate(masks), volume.spacing_mm, self.spec)
