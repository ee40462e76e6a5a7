"""Second step of a model on the CPU: the exported network in Triton's Python backend.

image ─▶ U-Net with its heads ─▶ mask (, uncertainty, logits, embedding where asked for)
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from preprocess.serving.configured import MASK, read_configuration
from preprocess.serving.deadlock import end_when_stuck
from preprocess.serving.network import Network
from preprocess.serving.regions import close_regions
from preprocess.serving.tensors import quiet_capsules, read, respond, wanted

__all__ = ("SegmentingModel",)

NICENESS = 10
"""Where cores are short, the network gives way to whatever feeds it or hands on what it made: those
need little time, and an urgent study does not wait for the slices of others at every step."""


class SegmentingModel:
    """Serves ``<model>_net`` as its configuration says.

    A request that asks for the mask alone does not pay for the other heads: they are computed by
    a second compilation of the network, which exists where the configuration has such outputs.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Compiles the network.

        Raises:
            ServingError: Configuration, file and CPU do not fit together; Triton says why.
        """
        os.nice(NICENESS)
        close_regions()
        quiet_capsules()
        served = read_configuration(args)
        self._mask = Network(served, (MASK,))
        self._all = Network(served, (*served.outputs,)) if len(served.outputs) > 1 else self._mask
        end_when_stuck()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Runs the slices of all requests side by side, first those that want the mask alone."""
        responses: list[Any] = [None] * len(requests)
        names = [wanted(request) for request in requests]
        plain = [index for index, asked in enumerate(names) if asked <= {MASK}]
        rich = [index for index, asked in enumerate(names) if not asked <= {MASK}]
        for network, chosen in ((self._mask, plain), (self._all, rich)):
            if not chosen:
                continue
            batches = [read(requests[index], "image") for index in chosen]
            answers = network.run([image for batch in batches for image in batch])
            ends = np.cumsum([len(batch) for batch in batches])
            for index, start, end in zip(chosen, (0, *ends[:-1]), ends, strict=True):
                responses[index] = respond(
                    {name: answers[name][start:end] for name in answers if name in names[index]}
                )
        return responses
