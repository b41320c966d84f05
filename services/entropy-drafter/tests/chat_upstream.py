"""A chat completions API on port 0: streams of recorded shapes, and ways in which they break."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

KEY = "sk-test-0123456789abcdef"
SURE_TOP = ((" Paris", -0.0001), (" the", -9.5), (" a", -11.0), (" Lyon", -12.0), (" in", -13.0))


def entry(token: str, top: Sequence[tuple[str, float]] = SURE_TOP) -> dict[str, Any]:
    """One token with its candidates, as OpenAI's API shows it."""
    shown = [
        {"token": text, "logprob": logprob, "bytes": list(text.encode())} for text, logprob in top
    ]
    first = top[0][1] if top else None
    return {
        "token": token,
        "logprob": first,
        "bytes": list(token.encode()),
        "top_logprobs": shown,
    }


def chunk(
    content: str | None = None,
    entries: Sequence[dict[str, Any]] | None = None,
    finish: str | None = None,
    **delta: Any,
) -> dict[str, Any]:
    """One event of a stream."""
    if content is not None:
        delta["content"] = content
    logprobs = None if entries is None else {"content": list(entries), "refusal": None}
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    return event(choices=[choice])


def event(**fields: Any) -> dict[str, Any]:
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return head | {"choices": []} | fields


def usage(completion_tokens: int) -> dict[str, Any]:
    return event(
        usage={
            "prompt_tokens": 9,
            "completion_tokens": completion_tokens,
            "total_tokens": 9 + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 4},
        }
    )


def told(*words: str, finish: str = "stop") -> list[dict[str, Any]]:
    """A whole answer of sure tokens, shaped like OpenAI's."""
    head = chunk("", [], role="assistant", refusal=None)
    said = [chunk(word, [entry(word)]) for word in words]
    return [head, *said, chunk(finish=finish), usage(len(words))]


class ChatUpstream:
    """Streams `script`, each event as JSON, a text as it is.

    bodies, headers: of the requests so far. status: answered instead, with `problem` as its text.
    hold_at: the event before which it waits for `released`. breaks: cuts the connection there.
    """

    def __init__(self) -> None:
        self.script: list[dict[str, Any] | str] = [*told("Par", "is")]
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self.problem = "no"
        self.hold_at: int | None = None
        self.breaks_at: int | None = None
        self.is_holding = asyncio.Event()
        self.released = asyncio.Event()
        self.is_cancelled = asyncio.Event()
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        if self.status != 200:
            return web.json_response({"error": {"message": self.problem}}, status=self.status)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for index, item in enumerate(self.script):
                if index == self.hold_at:
                    self.is_holding.set()
                    await self.released.wait()
                if index == self.breaks_at:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                data = item if isinstance(item, str) else json.dumps(item)
                await response.write(f"data: {data}\n\n".encode())
        except asyncio.CancelledError:
            self.is_cancelled.set()
            raise
        await response.write(b"data: [DONE]\n\n")
        return response


@asynccontextmanager
async def chat_upstream() -> AsyncIterator[ChatUpstream]:
    """One that listens; its `url` is a base URL."""
    fake = ChatUpstream()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", fake.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield fake
    finally:
        fake.released.set()
        await runner.cleanup()
