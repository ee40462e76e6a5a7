"""The plan of a whole series: decided once from its header, applied to every slice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocess.errors import PlanError
from preprocess.foldedmask import FoldedMask
from preprocess.geometry import (
    GeometryPlan,
    SliceGeometry,
    fold_mask,
    plan_geometry,
    restore_mask,
)
from preprocess.intensity import IntensityPlan, plan_intensity
from preprocess.spec import ModelSpec, TensorSpec

__all__ = ("SeriesPlan", "plan_series")


@dataclass(frozen=True)
class SeriesPlan:
    """Geometry and intensities of one series, for one model."""

    geometry: GeometryPlan
    intensity: IntensityPlan
    names: TensorSpec

    def tensors(self, stored: NDArray[np.int16]) -> dict[str, NDArray[Any]]:
        """The inputs of the model for one slice, by tensor name, without a batch axis.

        Args:
            stored: Stored values [rows, columns] on the native grid.

        Raises:
            PlanError: As for ``batch``.
        """
        each = self.batch(stored[None]).items()
        return {name: np.array(tensors[0], order="C") for name, tensors in each}

    def batch(self, stored: NDArray[np.int16]) -> dict[str, NDArray[Any]]:
        """The inputs of the model for several slices, by tensor name, batch axis first.

        Args:
            stored: Stored values [slices, rows, columns] on the native grid.

        Returns:
            Views, to be copied to where they go; they need not be contiguous.

        Raises:
            PlanError: Not int16, or not the shape that was planned.
        """
        if stored.dtype != np.int16 or stored.shape[1:] != self.geometry.native_shape:
            raise PlanError(
                f"expected int16 {self.geometry.native_shape}, "
                f"got {stored.dtype} {stored.shape[1:]}"
            )
        plan = self.intensity
        values = (plan.scale, plan.offset, plan.gain, plan.bias)
        one = {
            self.names.region: np.array(self.geometry.region, dtype=np.float32),
            self.names.size: np.array(self.geometry.size, dtype=np.int32),
            self.names.intensity: np.array(values, dtype=np.float32),
        }
        return {
            self.names.image: stored.swapaxes(1, 2) if self.geometry.transpose else stored,
            **{
                name: np.broadcast_to(each, (len(stored), *each.shape))
                for name, each in one.items()
            },
        }

    def fold(self, mask: NDArray[np.uint8]) -> FoldedMask:
        """Masks [..., canvas] on the native grid, but folded, see ``fold_mask``."""
        return fold_mask(mask, self.geometry)

    def restore(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Masks [..., canvas] back on the native grid, see ``restore_mask``."""
        return restore_mask(mask, self.geometry)


def plan_series(
    spec: ModelSpec,
    stored: NDArray[np.int16],
    geometry: SliceGeometry,
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
    inverted: bool = False,
) -> SeriesPlan:
    """Plans a series for a model.

    Args:
        spec: The model.
        stored: Stored values [slices, rows, columns].
        geometry: The grid that every slice has.
        slope: Rescale slope.
        intercept: Rescale intercept.
        inverted: MONOCHROME1.

    Raises:
        PlanError: Shape and grid disagree, or the values cannot be planned.
    """
    if stored.shape[-2:] != (geometry.rows, geometry.columns):
        raise PlanError(
            f"expected slices of {geometry.rows} x {geometry.columns}, got {stored.shape[-2:]}"
        )
    return SeriesPlan(
        geometry=plan_geometry(spec.geometry, geometry),
        intensity=plan_intensity(spec.intensity, stored, slope, intercept, inverted=inverted),
        names=spec.tensors,
    )
