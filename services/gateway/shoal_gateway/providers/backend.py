"""Providers as a backend: a task goes out in the provider's wire, its answer comes in as events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from shoal_common.errors import ShoalError, UnknownModel
from shoal_gateway.privacy import require_open
from shoal_gateway.providers import wire_anthropic, wire_openai
from shoal_gateway.providers.client import ProviderClient, Upstream, encoded, too_large
from shoal_gateway.providers.errors import ProviderAnswerBroken, reveal
from shoal_gateway.providers.estimate import prompt_tokens
from shoal_gateway.providers.event_lines import EventLines, ServerEvent, TooLarge
from shoal_gateway.providers.guard import GuardedRequest
from shoal_gateway.providers.read_anthropic import AnthropicAnswer
from shoal_gateway.providers.read_openai import OpenAiAnswer, parsed
from shoal_gateway.providers.routing import Routing
from shoal_gateway.providers.table import Endpoint
from shoal_gateway.providers.values import count
from shoal_gateway.task import ChatTask, Event, Finished, ReasoningDelta, TextDelta, ToolCallDelta

CHAT_PATHS = {"openai": "chat/completions", "anthropic": "messages"}


class AnswerReader(Protocol):
    """One answer of a provider's wire, made anew for every attempt."""

    @property
    def is_done(self) -> bool:
        """The wire said that nothing follows."""
        ...

    def feed(self, event: ServerEvent) -> list[Event]: ...

    def object(self, value: dict[str, Any]) -> list[Event]: ...

    def finish(self) -> list[Event]: ...


@dataclass(frozen=True)
class ProviderAnswer:
    """One request to a provider, sent when its events are asked for."""

    task: ChatTask
    endpoint: Endpoint
    backend: ProviderBackend
    client: ProviderClient
    body: dict[str, Any]
    fingerprint: str = ""

    @property
    def model(self) -> str:
        return self.task.model

    def again(self, request_id: str, seed: int | None) -> ProviderAnswer:
        sampling = replace(self.task.sampling, seed=seed)
        return self.backend.answer(replace(self.task, sampling=sampling), self.endpoint)

    async def events(self) -> AsyncGenerator[Event, None]:
        """Sent again, within the budget, only while nothing has come."""
        body = encoded(self.body)
        async with self.client.gate(self.endpoint).request(self.endpoint.model) as request:
            while True:
                has_begun = False
                try:
                    async with aclosing(self._attempt(body, request)) as events:
                        async for event in events:
                            has_begun = True
                            if isinstance(event, Finished):
                                request.answered()
                            yield event
                    return
                except ShoalError as err:
                    if has_begun:
                        raise
                    await request.pause_before_retry(err)

    async def _attempt(self, body: bytes, request: GuardedRequest) -> AsyncGenerator[Event, None]:
        path = CHAT_PATHS[self.endpoint.provider.kind]
        reader = self._reader()
        async with self.client.open(self.endpoint, path, body) as upstream:
            request.began()
            content_size = 0
            async with aclosing(_events_of(upstream, reader, self)) as events:
                async for event in events:
                    content_size += _size_of(event)
                    if content_size > self.client.limits.response_size_bytes_max:
                        raise self._too_large()
                    yield event

    def _reader(self) -> AnswerReader:
        if self.endpoint.provider.kind == "anthropic":
            return AnthropicAnswer(self.endpoint.name)
        return OpenAiAnswer(self.endpoint.name, self.task)

    def _too_large(self) -> ProviderAnswerBroken:
        return too_large(self.endpoint.name, self.client.limits.response_size_bytes_max)


async def _events_of(
    upstream: Upstream, reader: AnswerReader, answer: ProviderAnswer
) -> AsyncGenerator[Event, None]:
    if not upstream.is_stream:
        # Some proxies answer in whole whatever was asked.
        for event in reader.object(parsed(answer.endpoint.name, await upstream.read())):
            yield event
    else:
        lines = EventLines(answer.client.limits.response_size_bytes_max)
        async with aclosing(upstream.chunks()) as chunks:
            async for chunk in chunks:
                try:
                    arrived = lines.feed(chunk)
                except TooLarge as err:
                    raise answer._too_large() from err
                for event in _read(reader, arrived, answer):
                    yield event
                if reader.is_done:
                    break
        if reader.is_done:
            await upstream.settle()
        else:
            for event in _read(reader, lines.flush(), answer):
                yield event
    for event in reader.finish():
        yield event


def _read(
    reader: AnswerReader, arrived: list[ServerEvent], answer: ProviderAnswer
) -> Iterator[Event]:
    """Lazily, so that what stands before an error is delivered."""
    for one in arrived:
        try:
            yield from reader.feed(one)
        except ShoalError as err:
            if answer.client.limits.shows_upstream_errors:
                reveal(err)
            raise


def _size_of(event: Event) -> int:
    """Characters that a client who does not stream would make us hold."""
    match event:
        case TextDelta() | ReasoningDelta():
            return len(event.text)
        case ToolCallDelta():
            return len(event.arguments)
    return 0


class ProviderBackend:
    """Answers for the models of every provider that has a key."""

    def __init__(self, routing: Routing, client: ProviderClient, max_tokens_default: int) -> None:
        self._routing = routing
        self._client = client
        self._max_tokens_default = max_tokens_default

    async def serves(self, model: str) -> bool:
        return await self._routing.endpoint(model) is not None

    async def open(self, request_id: str, task: ChatTask) -> ProviderAnswer:
        require_open(task.privacy, task.model)
        endpoint = await self._endpoint(task.model)
        return self.answer(task, endpoint)

    def answer(self, task: ChatTask, endpoint: Endpoint) -> ProviderAnswer:
        """Raises InvalidRequest for what the endpoint's wire cannot say."""
        if endpoint.provider.kind == "anthropic":
            body = wire_anthropic.body_of(task, endpoint, self._max_tokens_default)
        else:
            body = wire_openai.body_of(task, endpoint)
        return ProviderAnswer(task, endpoint, self, self._client, body)

    async def count_tokens(self, task: ChatTask) -> int:
        """Anthropic counts itself; for all others four characters are a token, rounded up."""
        require_open(task.privacy, task.model)
        endpoint = await self._endpoint(task.model)
        if endpoint.provider.kind != "anthropic":
            return prompt_tokens(task)
        body = {"model": endpoint.model} | wire_anthropic.prompt_of(task)
        answer = await self._client.fetch(endpoint, "messages/count_tokens", body)
        return count(parsed(endpoint.name, answer).get("input_tokens"))

    async def require_images(self, task: ChatTask) -> None:
        """Only the provider knows which of its models read images: it is asked with them."""

    async def _endpoint(self, model: str) -> Endpoint:
        endpoint = await self._routing.endpoint(model)
        if endpoint is None:
            raise UnknownModel(model)
        return endpoint
