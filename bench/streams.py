"""Token streams with the time of every piece, by HTTP and straight from the engines.

Owns the clocks of clients. HTTP is plain aiohttp, the other way is the driver of the end-to-end
tests: neither adds a client library's own milliseconds.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

from shoal.worker.v1 import pipeline_pb2, stage_pb2, stage_pb2_grpc
from tests.e2e.driving import Driver

_SEEDS = 1 << 30
# Ids below are often special.
_FIRST_PLAIN_ID = 100
_DATA = b"data:"

Route = Callable[[pipeline_pb2.Pipeline], pipeline_pb2.Pipeline]


@dataclass
class Timed:
    """When a request was sent and when its tokens came, in seconds of one clock.

    token_count: what the server says it generated; several tokens may come in one piece. ended_at:
    when it said so; text may be held back until then.
    """

    sent_at: float
    times: list[float] = field(default_factory=list)
    token_count: int = 0
    prompt_count: int = 0
    cached_count: int = 0
    ended_at: float = 0.0

    @property
    def first_s(self) -> float:
        """Time to the first token."""
        return self.times[0] - self.sent_at

    @property
    def gaps_s(self) -> list[float]:
        """Between one piece and the next."""
        return [after - before for before, after in pairwise(self.times)]

    @property
    def token_s(self) -> float:
        """Seconds per token behind the first piece."""
        return (max(self.ended_at, self.times[-1]) - self.times[0]) / max(1, self.token_count - 1)


def decode_rate(streams: Sequence[Timed]) -> float:
    """Tokens behind the first ones, per second in which any stream was between first and last.

    The same for streams one after the other and at once; prompts and waiting are left out, except
    where a prompt held up streams that were running.
    """
    busy_s, busy_until = 0.0, 0.0
    for start, stop in sorted((timed.times[0], timed.times[-1]) for timed in streams):
        busy_s += max(0.0, stop - max(start, busy_until))
        busy_until = max(busy_until, stop)
    return sum(timed.token_count - 1 for timed in streams) / busy_s


def random_ids(count: int, vocab_size: int, seed: int | None = None) -> list[int]:
    """A prompt that no cache has seen, or the one of `seed`."""
    source = random.Random(random.randrange(_SEEDS) if seed is None else seed)
    return [source.randrange(_FIRST_PLAIN_ID, vocab_size) for _ in range(count)]


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    return config


def vocab_size(folder: Path) -> int:
    size: int = read_config(folder)["vocab_size"]
    return size


class TimedDriver(Driver):
    """Asks engines for exactly so many tokens behind exact ids."""

    async def tokens(
        self, model: str, ids: Sequence[int], count: int, route: Route | None = None
    ) -> AsyncGenerator[Timed, None]:
        """Greedy, whatever ends; yields the same record after each piece. Closing it cancels.

        route: changes the pipeline's locators, so that its streams pass through proxies.
        """
        timed = Timed(time.perf_counter())
        async with self.plan(model) as pipeline:
            stub = stage_pb2_grpc.StageServiceStub(
                self._channel(pipeline.stages[0].locator).channel
            )
            call = stub.Generate(
                stage_pb2.GenerateRequest(
                    request_id=f"bench-{random.randrange(_SEEDS)}",
                    pipeline=pipeline if route is None else route(pipeline),
                    attempt=1,
                    token_ids=stage_pb2.TokenIds(ids=ids),
                    max_tokens=count,
                    ignore_eos=True,
                )
            )
            try:
                async for response in call:
                    if response.HasField("tokens"):
                        timed.times.append(time.perf_counter())
                        timed.token_count += len(response.tokens.tokens)
                        yield timed
                    elif response.HasField("admitted"):
                        timed.cached_count = response.admitted.cached_token_count
            finally:
                call.cancel()

    async def timed(
        self, model: str, ids: Sequence[int], count: int, route: Route | None = None
    ) -> Timed:
        """All `count` tokens."""
        async with aclosing(self.tokens(model, ids, count, route)) as pieces:
            async for piece in pieces:
                timed = piece
        assert timed.token_count == count, f"{timed.token_count} tokens instead of {count}"
        return timed


class HttpClient:
    """Streams of OpenAI's chat completions or completions from one server."""

    def __init__(self, url: str, key: str = "") -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._url = url
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=600),
        )

    async def __aenter__(self) -> HttpClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The whole JSON answer. Raises RuntimeError on an error."""
        async with self._session.post(self._url + path, json=body) as response:
            await _check(path, response)
            answer: dict[str, Any] = await response.json()
        return answer

    async def stream(self, path: str, body: Mapping[str, Any]) -> Timed:
        """POST `body` with streaming on and read to the end. Raises RuntimeError on an error."""
        timed = Timed(time.perf_counter())
        data = {**body, "stream": True, "stream_options": {"include_usage": True}}
        async with self._session.post(self._url + path, json=data) as response:
            await _check(path, response)
            async for line in response.content:
                if line.startswith(_DATA) and b"[DONE]" not in line:
                    _note(timed, json.loads(line[len(_DATA) :]))
        return timed


async def _check(path: str, response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        text = (await response.text())[:500]
        raise RuntimeError(f"{path} answered {response.status}: {text}")


def _note(timed: Timed, event: dict[str, Any]) -> None:
    """Take what an event of a stream says into the record."""
    if "error" in event:
        raise RuntimeError(f"the stream ended in an error: {event['error']}")
    for choice in event.get("choices") or ():
        if (choice.get("delta") or {}).get("content") or choice.get("text"):
            timed.times.append(time.perf_counter())
    usage = event.get("usage")
    if usage:
        timed.ended_at = time.perf_counter()
        timed.token_count = usage["completion_tokens"]
        timed.prompt_count = usage["prompt_tokens"]
