"""A provider on this machine that answers in the documented shapes of OpenAI and Anthropic."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Reply:
    """One answer. `holds`: after the chunks nothing comes, until the caller hangs up.
    `cuts`: after the chunks the connection breaks."""

    chunks: Sequence[bytes] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "text/event-stream"
    holds: bool = False
    cuts: bool = False


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    # Tells connections apart.
    peer_port: int = 0
    method: str = "POST"
    query: str = ""


class FakeProvider:
    """Answers with `replies` in turn, the last one for ever; lists `models`."""

    def __init__(self) -> None:
        self.url = ""
        self.replies: list[Reply] = []
        self.models: list[dict[str, Any]] = []
        self.seen: list[Seen] = []
        self.list_count = 0
        self.is_holding = asyncio.Event()
        self.is_hung_up = asyncio.Event()

    def says(self, *replies: Reply) -> None:
        self.replies = list(replies)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read() or b"{}")
        assert request.transport is not None
        port = request.transport.get_extra_info("peername")[1]
        self.seen.append(
            Seen(
                request.path,
                dict(request.headers),
                body,
                port,
                request.method,
                request.query_string,
            )
        )
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        response = web.StreamResponse(status=reply.status, headers=dict(reply.headers))
        response.content_type = reply.content_type
        try:
            await response.prepare(request)
            for chunk in reply.chunks:
                await response.write(chunk)
            if reply.holds:
                self.is_holding.set()
                await asyncio.Event().wait()
        except (asyncio.CancelledError, ConnectionError):
            self.is_hung_up.set()
            raise
        if reply.cuts and request.transport is not None:
            request.transport.abort()
        return response

    async def list_models(self, request: web.Request) -> web.Response:
        self.list_count += 1
        self.seen.append(Seen(request.path, dict(request.headers), {}))
        return web.json_response({"object": "list", "data": self.models})


@asynccontextmanager
async def fake_provider() -> AsyncIterator[FakeProvider]:
    """The provider while the context is open; `url` is its base URL."""
    provider = FakeProvider()
    app = web.Application()
    app.router.add_get("/v1/models", provider.list_models)
    app.router.add_route("*", "/v1/{path:.+}", provider.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield provider
    finally:
        await runner.cleanup()


def whole(body: Mapping[str, Any], status: int = 200, **headers: str) -> Reply:
    """One JSON body. Header names are given with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply([json.dumps(body).encode()], status, named, "application/json")


def chunk(
    delta: Mapping[str, Any] | None = None, finish_reason: str | None = None, **fields: Any
) -> bytes:
    """One event of OpenAI's stream, as api.openai.com writes it."""
    choices = [{"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish_reason}]
    value = {
        "id": "chatcmpl-CUp4n2mFQ",
        "object": "chat.completion.chunk",
        "created": 1761234567,
        "model": "gpt-4o-mini-2024-07-18",
        "service_tier": "default",
        "system_fingerprint": "fp_560af6e559",
        "choices": choices,
        "usage": None,
        "obfuscation": "aX3",
    }
    return b"data: " + json.dumps(value | fields).encode() + b"\n\n"


USAGE = {
    "prompt_tokens": 19,
    "completion_tokens": 10,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 0},
}


def openai_stream(*texts: str, finish_reason: str = "stop") -> Reply:
    """A whole stream of OpenAI's that says `texts`."""
    begin = chunk({"role": "assistant", "content": "", "refusal": None})
    return Reply(
        [
            begin,
            *(chunk({"content": text}) for text in texts),
            chunk({}, finish_reason),
            chunk(choices=[], usage=USAGE),
            DONE,
        ]
    )


def anthropic_event(kind: str, **fields: Any) -> bytes:
    """One event of Anthropic's stream."""
    data = json.dumps({"type": kind} | fields)
    return f"event: {kind}\ndata: {data}\n\n".encode()


def anthropic_stream(
    *blocks: tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]], stop_reason: str = "end_turn"
) -> Reply:
    """A whole stream of Anthropic's: each block with its deltas."""
    message: dict[str, Any] = {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-4-5-20251001",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 25,
            "cache_creation_input_tokens": 5,
            "cache_read_input_tokens": 12,
            "output_tokens": 1,
        },
    }
    events = [anthropic_event("message_start", message=message), anthropic_event("ping")]
    for index, (block, deltas) in enumerate(blocks):
        events.append(anthropic_event("content_block_start", index=index, content_block=block))
        events += [anthropic_event("content_block_delta", index=index, delta=d) for d in deltas]
        events.append(anthropic_event("content_block_stop", index=index))
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    usage = {"output_tokens": 15, "input_tokens": None}
    events.append(anthropic_event("message_delta", delta=delta, usage=usage))
    return Reply([*events, anthropic_event("message_stop")])


def anthropic_text(*texts: str) -> tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]:
    """A block of text and its deltas."""
    return {"type": "text", "text": ""}, [{"type": "text_delta", "text": text} for text in texts]
