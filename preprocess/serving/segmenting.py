"""Second step of a model on the CPU: the exported network in Triton's Python backend.

image ─▶ U-Net with its heads ─▶ mask (, uncertainty, logits, embedding where asked for)

A request is started as soon as OpenVINO has a place for it, and answered when it is done, whatever
came with it: were batches answered as a whole, a stream would idle at the end of each.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np

from preprocess.serving.configured import MASK, read_configuration
from preprocess.serving.deadlock import end_when_stuck
from preprocess.serving.network import Answers, Network
from preprocess.serving.regions import close_regions
from preprocess.serving.tensors import failed, later, quiet_capsules, read, respond, wanted

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

    def execute(self, requests: list[Any]) -> None:
        """Starts the slices of each request; they are answered when OpenVINO is done with them."""
        for request in requests:
            names = wanted(request)
            network = self._mask if names <= {MASK} else self._all
            # What Triton lends ends with this call.
            images = np.array(read(request, "image"))
            network.start([*images]).add_done_callback(partial(_answer, later(request), names))

    def finalize(self) -> None:
        """Waits for what is under way."""
        for network in {self._mask, self._all}:
            network.close()


def _answer(send: Callable[[Any], None], names: set[str], done: Future[Answers]) -> None:
    failure = done.exception()
    if failure is not None:
        send(failed(str(failure)))
    else:
        send(respond({name: one for name, one in done.result().items() if name in names}))
