"""A segmenter without a server: the NumPy preprocessing and a function in place of the network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from client.errors import RefusalCode, Rejected
from client.jobs import Priority
from client.triton.inference import ModelIdentity, Progress
from client.triton.occupancy import EngineUse
from client.triton.slots import Slots
from preprocess.errors import PlanError
from preprocess.plan import SeriesPlan
from preprocess.reference import network_image
from preprocess.spec import ModelSpec

__all__ = ("FakeSegmenter", "threshold")

Network = Callable[[NDArray[np.float32]], NDArray[np.uint8]]


def threshold(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Class 1 wherever the network input lies above 0."""
    return (image > 0).astype(np.uint8)


class FakeSegmenter:
    """Keeps the contract of ``Segmenter``; for tests and for work without a server.

    Args:
        spec: The model.
        network: From network input [canvas rows, canvas columns] to a mask of the same shape.
        slots: Shared with others; None: this one has its own, for a slice at a time.
    """

    def __init__(
        self, spec: ModelSpec, network: Network = threshold, slots: Slots | None = None
    ) -> None:
        self._spec = spec
        self._network = network
        self._slots = slots or Slots(1)

    @property
    def spec(self) -> ModelSpec:
        """The model's description."""
        return self._spec

    async def segment(
        self,
        plan: SeriesPlan,
        slices: NDArray[np.int16],
        *,
        priority: Priority = Priority.ROUTINE,
        progress: Progress | None = None,
        use: EngineUse | None = None,
    ) -> NDArray[np.uint8]:
        """See ``Segmenter.segment``."""
        masks = np.zeros((len(slices), *self._spec.geometry.size), dtype=np.uint8)
        line = self._slots.line(priority)
        use = use or EngineUse()
        for index, stored in enumerate(slices):
            async with line.place(1):
                with self._slots.occupancy.of(1, use):
                    masks[index] = await asyncio.to_thread(self._segment_slice, plan, stored)
            use.slices += 1
            if progress is not None:
                progress(index + 1)
        return masks

    def make_way(self) -> None:
        """See ``Segmenter.make_way``."""

    async def identity(self) -> ModelIdentity:
        """See ``Segmenter.identity``."""
        return ModelIdentity(
            name=self._spec.name,
            version=str(self._spec.version),
            server="none",
            engine="NumPy",
            device="cpu",
            network_sha256="",
            spec_sha256=self._spec.sha256,
        )

    def _segment_slice(self, plan: SeriesPlan, stored: NDArray[np.int16]) -> NDArray[np.uint8]:
        try:
            tensors = plan.tensors(stored)
        except PlanError as error:
            raise Rejected(RefusalCode.INVALID_ATTRIBUTE, str(error)) from error
        return self._network(network_image(self._spec, tensors)[0])
