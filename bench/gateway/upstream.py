"""A provider that costs next to nothing: OpenAI chat answers as bytes made beforehand.

`python -m bench.gateway.upstream` prints its URL and serves until its standard input ends, so that
it never outlives who started it. A stream carries `max_tokens` pieces of text, one every
`--pace-s` seconds, each in a write of its own; a single one comes at once, so that who asks for a
stream to answer in whole does not wait for the pace. With `stream_options` it ends in usage.
GET of anything says that all is well. Bodies need a Content-Length.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from typing import Any, cast

from shoal_common.app import run_service

URL_MARK = "serving at "
MODEL = "mock-model"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PIECES = re.compile(rb'"max_(?:completion_)?tokens": *(\d+)')
_STREAM = re.compile(rb'"stream": *true')
_USAGE = re.compile(rb'"include_usage": *true')


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _head(content_type: str, rest: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n{rest}\r\n\r\n".encode()


def _whole(content_type: str, body: bytes) -> bytes:
    return _head(content_type, f"Content-Length: {len(body)}") + body


def _event(data: bytes) -> bytes:
    """One event as one HTTP chunk."""
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def _envelope(kind: str, **rest: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-0", "object": kind, "created": 1, "model": MODEL, **rest}


def _chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
    return _event(_json(_envelope("chat.completion.chunk", choices=[choice])))


_COUNTS = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
_MESSAGE = {"role": "assistant", "content": "Whales sing, and the sea listens. " * 4}
_CHOICE = {"index": 0, "message": _MESSAGE, "finish_reason": "stop", "logprobs": None}
_ANSWER = _whole(
    "application/json",
    _json(_envelope("chat.completion", choices=[_CHOICE], usage=_COUNTS)),
)
_WELL = _whole(
    "application/json",
    _json({"object": "list", "status": "ok", "data": [{"id": MODEL, "object": "model"}]}),
)
_STREAM_BEGIN = _head("text/event-stream", "Transfer-Encoding: chunked") + _chunk(
    {"role": "assistant", "content": ""}
)
_PIECE = _chunk({"content": " wave"})
_STREAM_STOP = _chunk({}, "stop")
_STREAM_USAGE = _event(_json(_envelope("chat.completion.chunk", choices=[], usage=_COUNTS)))
_STREAM_END = _event(b"[DONE]") + b"0\r\n\r\n"


class Upstream(asyncio.Protocol):
    """One connection, kept open; requests are answered in their order."""

    def __init__(self, pace_s: float) -> None:
        self._pace_s = pace_s
        self._buffer = b""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._buffer, 0, end)
            stop = end + 4 + (int(length.group(1)) if length else 0)
            if len(self._buffer) < stop:
                return
            head, body = self._buffer[:end], self._buffer[end + 4 : stop]
            self._buffer = self._buffer[stop:]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if not head.startswith(b"POST"):
            self._transport.write(_WELL)
        elif _STREAM.search(body) is None:
            self._transport.write(_ANSWER)
        else:
            asked = _PIECES.search(body)
            count = int(asked.group(1)) if asked else 1
            last = _STREAM_STOP + (_STREAM_USAGE if _USAGE.search(body) else b"") + _STREAM_END
            if count == 1:
                self._transport.write(_STREAM_BEGIN + _PIECE + last)
                return
            self._transport.write(_STREAM_BEGIN)
            self._later(self._loop.time(), count, last)

    def _later(self, now: float, pieces_left: int, last: bytes) -> None:
        at = now + self._pace_s
        self._timer = self._loop.call_at(at, self._piece, at, pieces_left, last)

    def _piece(self, at: float, pieces_left: int, last: bytes) -> None:
        if pieces_left == 0:
            self._timer = None
            self._transport.write(last)
            return
        self._transport.write(_PIECE)
        self._later(at, pieces_left - 1, last)


async def serve(pace_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(pace_s), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    print(f"{URL_MARK}http://127.0.0.1:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pace-s", type=float, default=0.05)
    chosen = parser.parse_args()
    run_service(lambda: serve(chosen.pace_s))


if __name__ == "__main__":
    main()
