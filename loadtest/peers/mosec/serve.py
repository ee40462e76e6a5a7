"""mosec: its Rust server collects requests into batches for one worker process."""

from __future__ import annotations

from mosec import Server, Worker

from loadtest.peers.work import Segmenter

__all__ = ("Segmentation",)

BATCH = 8
"""Half of what is in flight under load, so that the next batch is ready when one ends."""

WAIT_MS = 1
"""The shortest there is: a lone request gains nothing by waiting for company."""

TIMEOUT_S = 60


class Segmentation(Worker):
    """Slices in, masks out, as raw bytes instead of JSON."""

    def __init__(self) -> None:
        super().__init__()
        self._segmenter = Segmenter.from_environment()

    def deserialize(self, data: bytes) -> bytes:
        """The body as it is."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """The mask as it is."""
        return data

    def forward(self, data: list[bytes]) -> list[bytes]:
        """The masks of a batch."""
        return self._segmenter.batch(data)


if __name__ == "__main__":
    server = Server()
    # One worker process, since the engine uses all cores.
    server.append_worker(
        Segmentation,
        num=1,
        max_batch_size=BATCH,
        max_wait_time=WAIT_MS,
        timeout=TIMEOUT_S,
        route="/segment",
    )
    server.run()
