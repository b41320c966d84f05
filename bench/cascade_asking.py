"""Requests to a cascade as a client makes them, with what it is told of who answered.

Owns one request, streamed or not. Does not know what is measured.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from shoal_entropy_drafter.calibration.prompts import Call, LabelledPrompt, calls_of

MAX_TOKENS = 512
_ANSWERED_BY = "x-shoal-answered-by"
_LINE_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class Said:
    """An answer. tokens: that each model computed, seen or not. first_s: until the first of it."""

    text: str
    calls: tuple[Call, ...]
    answered_by: str
    tokens: Mapping[str, int]
    first_s: float
    wall_s: float


@dataclass
class _Heard:
    """A stream as far as it has come."""

    text: str = ""
    answered_by: str = ""
    first_s: float = 0.0
    usage: dict[str, Any] = field(default_factory=dict)
    calls: dict[int, dict[str, str]] = field(default_factory=dict)


class CascadeClient:
    """A connection to one gateway; `async with` it."""

    def __init__(self, url: str, key: str, model: str) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._headers = {"Authorization": f"Bearer {key}"}
        self._model = model

    async def __aenter__(self) -> CascadeClient:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            read_bufsize=_LINE_BYTES_MAX,
            timeout=aiohttp.ClientTimeout(total=300),
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._session.close()

    async def ask(self, prompt: LabelledPrompt, is_stream: bool) -> Said:
        """Greedy. Raises aiohttp.ClientError for anything but an answer."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": list(prompt.messages),
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
        }
        if prompt.tools:
            body["tools"] = list(prompt.tools)
        if is_stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        began = time.perf_counter()
        async with self._session.post(self._url, json=body) as response:
            response.raise_for_status()
            heard = _Heard(answered_by=response.headers.get(_ANSWERED_BY, ""))
            if is_stream:
                async for raw in response.content:
                    _hear(heard, raw.decode().rstrip("\r\n"), began)
            else:
                _take_whole(heard, await response.json(), began)
        wall_s = time.perf_counter() - began
        calls = calls_of([{"function": call} for _, call in sorted(heard.calls.items())])
        tokens = tokens_of(heard.usage, heard.answered_by)
        first_s = heard.first_s or wall_s
        return Said(heard.text, calls, heard.answered_by, tokens, first_s, wall_s)


def tokens_of(usage: Mapping[str, Any], answered_by: str) -> dict[str, int]:
    """Completion tokens by model; of one model alone where no others had a part."""
    parts = usage.get("by_model")
    if parts:
        return {model: int(part["completion_tokens"]) for model, part in parts.items()}
    return {answered_by: int(usage["completion_tokens"])}


def _take_whole(heard: _Heard, answer: dict[str, Any], began: float) -> None:
    message = answer["choices"][0]["message"]
    heard.text = message.get("content") or ""
    for index, call in enumerate(message.get("tool_calls") or ()):
        heard.calls[index] = call["function"]
    heard.usage = answer["usage"]
    heard.first_s = time.perf_counter() - began


def _hear(heard: _Heard, line: str, began: float) -> None:
    """One line of a stream: a comment may say who answered, an event has a part of the answer."""
    name, _, value = line.removeprefix(": ").partition(": ")
    if line.startswith(":") and name == _ANSWERED_BY:
        heard.answered_by = value
    if not line.startswith("data: {"):
        return
    event = json.loads(line[6:])
    if "error" in event:
        raise aiohttp.ClientPayloadError(f"the stream failed: {event['error']}")
    heard.usage = event.get("usage") or heard.usage
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if (delta.get("content") or delta.get("tool_calls")) and not heard.first_s:
            heard.first_s = time.perf_counter() - began
        heard.text += delta.get("content") or ""
        for part in delta.get("tool_calls") or ():
            call = heard.calls.setdefault(part["index"], {"name": "", "arguments": ""})
            function = part.get("function") or {}
            call["name"] += function.get("name") or ""
            call["arguments"] += function.get("arguments") or ""
