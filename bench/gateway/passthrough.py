"""The gateway that is written first: FastAPI in front, one shared httpx client behind.

Run as a script in an environment of its own that has fastapi, httpx and uvicorn. It checks nothing
and counts nothing: bodies are parsed and written anew, streams are passed on as they come.
"""

# Its libraries are in its own environment only.
# mypy: ignore-errors

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse


def make(upstream: str) -> FastAPI:
    """The application."""
    client = httpx.AsyncClient(base_url=upstream, timeout=60.0)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
        if body.get("stream"):
            return StreamingResponse(relayed(body), media_type="text/event-stream")
        answer = await client.post("/v1/chat/completions", json=body)
        return JSONResponse(answer.json(), answer.status_code)

    async def relayed(body: dict[str, Any]) -> AsyncIterator[bytes]:
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for part in answer.aiter_bytes():
                yield part

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    chosen = parser.parse_args()
    uvicorn.run(make(chosen.upstream), port=chosen.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
