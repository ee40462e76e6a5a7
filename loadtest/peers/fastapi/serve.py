"""FastAPI on uvicorn: one asynchronous route before the engine's own streams."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI, Request, Response

from loadtest.peers.work import AsyncSegmenter, port

__all__ = ("app",)

app = FastAPI()
segmenter = AsyncSegmenter.from_environment()


@app.post("/segment")
async def segment(request: Request) -> Response:
    """One slice in, its mask out; the plain Request spares FastAPI's validation of fields."""
    mask = await segmenter.segment(await request.body())
    return Response(mask, media_type="application/octet-stream")


if __name__ == "__main__":
    # One process, since the engine uses all cores; uvloop and httptools are uvicorn's fastest.
    uvicorn.run(app, port=port(), loop="uvloop", http="httptools", access_log=False)
