"""A reply as the official client reads it: what it says, when it comes, and by which way."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest
from openai import AsyncOpenAI


@dataclass
class Said:
    """One streamed reply. gap_s: longest time between two chunks."""

    text: str = ""
    arguments: str = ""
    finish: str = ""
    logprobs: list[tuple[str, float]] = field(default_factory=list)
    token_count: int = 0
    gap_s: float = 0.0

    def add(self, chunk: Any) -> None:
        self.token_count = chunk.usage.completion_tokens if chunk.usage else self.token_count
        for choice in chunk.choices:
            self.text += choice.delta.content or ""
            self.finish = choice.finish_reason or self.finish
            for call in choice.delta.tool_calls or ():
                self.arguments += call.function.arguments or ""
            if choice.logprobs is not None:
                self.logprobs += [(e.token, e.logprob) for e in choice.logprobs.content or ()]

    def assert_same(self, other: Said) -> None:
        assert (self.text, self.arguments, self.finish) == (
            other.text,
            other.arguments,
            other.finish,
        )
        assert self.token_count == other.token_count
        assert [token for token, _ in self.logprobs] == [token for token, _ in other.logprobs]
        mine, others = ([value for _, value in said.logprobs] for said in (self, other))
        assert mine == pytest.approx(others, abs=1e-4)


class Stream:
    """A reply on its way. route: the workers that compute it, first stage first, as it began."""

    def __init__(
        self, client: AsyncOpenAI, model: str, prompt: str, fields: dict[str, Any]
    ) -> None:
        self.said = Said()
        self.route: list[str] = []
        self._client = client
        self._request = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": True,
            "stream_options": {"include_usage": True},
        } | fields

    async def chunks(self) -> AsyncGenerator[int, None]:
        """How many have come, after each."""
        create: Any = self._client.chat.completions.with_raw_response.create
        response = await create(**self._request)
        _, *stages = response.headers["x-shoal-route"].split(";")
        self.route = [stage.partition("@")[0] for stage in stages]
        came_at, count = time.monotonic(), 0
        async for chunk in response.parse():
            self.said.add(chunk)
            now = time.monotonic()
            self.said.gap_s = max(self.said.gap_s, now - came_at)
            came_at, count = now, count + 1
            yield count

    async def to_end(self) -> Said:
        async for _ in self.chunks():
            pass
        return self.said
