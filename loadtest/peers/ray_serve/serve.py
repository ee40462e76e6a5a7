"""Ray Serve: a proxy process before one replica with an event loop."""

from __future__ import annotations

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from loadtest.peers.work import AsyncSegmenter, port

__all__ = ("Segmentation",)

QUIET = {"enable_access_log": False}
"""No other peer logs each request."""


class Segmentation:
    """Slices in, masks out."""

    def __init__(self) -> None:
        self._segmenter = AsyncSegmenter.from_environment()

    async def __call__(self, request: Request) -> Response:
        """The mask of one slice."""
        mask = await self._segmenter.segment(await request.body())
        return Response(mask, media_type="application/octet-stream")


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": port()}, logging_config=QUIET)
    # One replica, since the engine uses all cores; the usual 5 requests at a time would starve it.
    deployment = serve.deployment(num_replicas=1, max_ongoing_requests=64, logging_config=QUIET)
    serve.run(deployment(Segmentation).bind(), route_prefix="/segment", blocking=True)
