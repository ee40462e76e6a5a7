"""LitServe: its server process collects requests into batches for one worker process."""

from typing import Annotated

from fastapi import Body, Response
from litserve import LitAPI, LitServer

from loadtest.peers.work import Segmenter, port

__all__ = ("Segmentation",)

# LitServe reads the annotations themselves, hence no `from __future__ import annotations` here.
Slice = Annotated[bytes, Body(media_type="application/octet-stream")]

BATCH = 8
"""Half of what is in flight under load, so that the next batch is ready when one ends."""

WAIT_S = 0.001
"""A lone request gains nothing by waiting for company."""


class Segmentation(LitAPI):
    """Slices in, masks out, as raw bytes instead of JSON."""

    def setup(self, device: str) -> None:
        """Loads the network in the worker process."""
        self._segmenter = Segmenter.from_environment()

    def decode_request(self, request: Slice) -> bytes:
        """The body as it is."""
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """Bodies differ in length, so they stay a list."""
        return inputs

    def predict(self, x: list[bytes]) -> list[bytes]:
        """The masks of a batch."""
        return self._segmenter.batch(x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """One mask per request."""
        return output

    def encode_response(self, output: bytes) -> Response:
        """The mask as it is."""
        return Response(output, media_type="application/octet-stream")


if __name__ == "__main__":
    api = Segmentation(max_batch_size=BATCH, batch_timeout=WAIT_S, api_path="/segment")
    # One worker, since the engine uses all cores; the fast queue is ZeroMQ instead of a manager.
    server = LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=port(), generate_client_file=False, log_level="warning")
