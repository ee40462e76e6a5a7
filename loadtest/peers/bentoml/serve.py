"""BentoML: a service with an ASGI application on it, its way to a request's raw bytes.

A plain ``@bentoml.api`` method would get a binary body as a file in a temporary folder, at twice
the cost of a request.
"""

from __future__ import annotations

import bentoml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loadtest.peers.work import AsyncSegmenter

__all__ = ("Segmentation",)


async def segment(request: Request) -> Response:
    """One slice in, its mask out."""
    service = bentoml.get_current_service()
    mask = await service.segmenter.segment(await request.body())
    return Response(mask, media_type="application/octet-stream")


# One worker, since the engine uses all cores. No other peer logs or measures each request.
@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
@bentoml.asgi_app(Starlette(routes=[Route("/segment", segment, methods=["POST"])]))
class Segmentation:
    """Holds the network, once in the worker."""

    def __init__(self) -> None:
        self.segmenter = AsyncSegmenter.from_environment()
