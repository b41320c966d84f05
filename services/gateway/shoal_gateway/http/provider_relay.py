"""Requests to providers that speak the client's own dialect: bytes there, bytes back.

Of a body only the model's name changes (and, for OpenAI's chats, that usage is reported); of a
stream nothing but a usage chunk nobody asked for. Whatever needs more is for translation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web

from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_gateway import limits
from shoal_gateway.access.metering import TokenMeter
from shoal_gateway.answers import Backend
from shoal_gateway.dialects import anthropic_render, sse
from shoal_gateway.dialects.openai_render import error_object
from shoal_gateway.dialects.responses_render import StoredStream
from shoal_gateway.http import sse as http_sse
from shoal_gateway.http.caller import CALLER, passes_unknown, privacy_of
from shoal_gateway.http.middleware import REQUEST_ID
from shoal_gateway.http.streaming import STREAM, BegunStream
from shoal_gateway.metrics import Metrics
from shoal_gateway.providers import read_anthropic, read_openai
from shoal_gateway.providers.client import ProviderClient, Upstream, encoded, too_large
from shoal_gateway.providers.errors import ProviderAnswerBroken, reveal
from shoal_gateway.providers.estimate import tokens_of_chars
from shoal_gateway.providers.read_openai import parsed
from shoal_gateway.providers.relay import RelayedStream, usage_from, usage_in
from shoal_gateway.providers.routing import Routing
from shoal_gateway.providers.table import Endpoint, WireKind
from shoal_gateway.task import ChatTask, Usage

# Ours, or of open servers only: hosted providers refuse them.
_OPEN_FIELDS = frozenset(
    ["top_k", "min_p", "repetition_penalty", "session_id", "lora_adapter", "guided_regex",
     "guided_choice", "chat_template_kwargs"]
)  # fmt: skip


@dataclass(frozen=True)
class Dialect:
    """What differs between the three. `failure`: the last event of a stream that broke."""

    kind: WireKind
    path: str
    failure: Callable[[ShoalError], bytes]
    # What an error in its body or stream means.
    error: Callable[[str, dict[str, Any]], ShoalError]
    # Client headers that mean something to the provider.
    headers: tuple[str, ...] = ()
    # Only this provider speaks it; "" for all of the kind.
    provider: str = ""


def _chat_failure(error: ShoalError) -> bytes:
    return sse.data_event(error_object(error))


def _message_failure(error: ShoalError) -> bytes:
    return sse.data_event(anthropic_render.error_object(error), "error")


CHATS = Dialect("openai", "chat/completions", _chat_failure, read_openai.error_of)
RESPONSES = Dialect(
    "openai", "responses", StoredStream().failure, read_openai.error_of, provider="openai"
)
MESSAGES = Dialect(
    "anthropic", "messages", _message_failure, read_anthropic.error_of, ("anthropic-beta",)
)


@dataclass(frozen=True)
class _Ending:
    """The part of a stream's renderer that an error needs."""

    failure: Callable[[ShoalError], bytes]

    def feed(self, item: bytes) -> bytes:
        return item

    def keep_alive(self) -> bytes:
        return sse.KEEP_ALIVE


class Witness(Protocol):
    """Sees an answer before the client does."""

    async def saw(self, data: bytes) -> None:
        """A whole body, or the next events of a stream."""
        ...


@dataclass(frozen=True)
class _Sent:
    """What goes out, and what is to be done with what comes back."""

    path: str
    data: bytes | None = field(repr=False)
    is_stream: bool
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    drops_usage: bool = False
    # A question about an answer that was counted, or will be, is not counted itself.
    is_counted: bool = True
    witness: Witness | None = None


@dataclass(frozen=True)
class ProviderRelay:
    """Asked before an answer is opened. `earlier` are the backends that come before providers."""

    routing: Routing
    client: ProviderClient
    earlier: tuple[Backend, ...]
    meter: TokenMeter
    metrics: Metrics
    clock: Clock
    dialect: Dialect
    keep_alive_s: float

    async def relay(
        self,
        request: web.Request,
        body: dict[str, Any],
        task: ChatTask | None = None,
        witness: Witness | None = None,
    ) -> web.StreamResponse | None:
        """The provider's answer as it is; None where this is not the way.

        `task` is what `body` means, None where that is for the provider to judge. Raises what the
        provider's client does.
        """
        model = body.get("model")
        endpoint = await self._endpoint(model) if isinstance(model, str) else None
        if endpoint is None or not self._is_plain(request, body, task, endpoint):
            return None
        sent = body | {"model": endpoint.model}
        drops_usage = False
        if self.dialect is CHATS and body.get("stream"):
            options = body.get("stream_options") or {}
            drops_usage = not options.get("include_usage")
            sent["stream_options"] = options | {"include_usage": True}
        passed = {n: request.headers[n] for n in self.dialect.headers if n in request.headers}
        self.meter.answered_by(request[REQUEST_ID], body["model"])
        is_stream = bool(body.get("stream"))
        outgoing = _Sent(
            self.dialect.path,
            encoded(sent),
            is_stream,
            headers=passed,
            drops_usage=drops_usage,
            witness=witness,
        )
        return await self._exchange(request, endpoint, outgoing)

    async def ask(
        self, request: web.Request, endpoint: Endpoint, path: str, witness: Witness
    ) -> web.StreamResponse:
        """The provider's answer to the request itself, without a body, as it is."""
        is_stream = request.query.get("stream") == "true"
        sent = _Sent(path, None, is_stream, request.method, is_counted=False, witness=witness)
        return await self._exchange(request, endpoint, sent)

    async def _exchange(
        self, request: web.Request, endpoint: Endpoint, sent: _Sent
    ) -> web.StreamResponse:
        async with self.client.gate(endpoint).request(endpoint.model) as guarded:
            while True:
                try:
                    async with self.client.open(
                        endpoint, sent.path, sent.data, sent.headers, sent.method
                    ) as upstream:
                        guarded.began()
                        if upstream.is_stream is not sent.is_stream:
                            raise ProviderAnswerBroken(
                                endpoint.name, "is not of the form asked for"
                            )
                        if upstream.is_stream:
                            return await self._stream(request, upstream, sent)
                        return await self._whole(request, upstream, sent)
                except ShoalError as err:
                    if request.get(STREAM) is not None:
                        raise
                    await guarded.pause_before_retry(err)

    def _is_plain(
        self,
        request: web.Request,
        body: dict[str, Any],
        task: ChatTask | None,
        endpoint: Endpoint,
    ) -> bool:
        """Nothing in the body must be left out, renamed or fetched, and nobody minds a provider."""
        if not privacy_of(request).is_open:
            return False
        if task is not None:
            if any(image.url for message in task.messages for image in message.images):
                return False
            if task.extras and not passes_unknown(request):
                return False
        if self.dialect is not CHATS:
            return True
        provider = endpoint.provider
        if provider.max_tokens_field != "max_tokens" and body.get("max_tokens") is not None:
            return False
        if not isinstance(body.get("stream_options") or {}, dict):
            return False
        refused = provider.refused if provider.is_open else provider.refused | _OPEN_FIELDS
        return not (refused & body.keys() or ("stream_options" in refused and body.get("stream")))

    async def _endpoint(self, model: str) -> Endpoint | None:
        if model in ("", "auto") or len(model) > limits.MODEL_NAME_CHARS_MAX:
            return None
        endpoint = await self.routing.endpoint(model)
        if endpoint is None or endpoint.provider.kind != self.dialect.kind:
            return None
        if self.dialect.provider not in ("", endpoint.name):
            return None
        for backend in self.earlier:
            if await backend.serves(model):
                return None
        return endpoint

    async def _whole(self, request: web.Request, upstream: Upstream, sent: _Sent) -> web.Response:
        raw = await upstream.read()
        value = parsed(upstream.provider, raw)
        # A response that failed tells its error, and is an answer all the same.
        if value.get("error") and value.get("object") != "response":
            raise self._refusal(upstream, value)
        if sent.witness is not None:
            await sent.witness.saw(raw)
        if sent.is_counted:
            self.count(request, usage_from(usage_in(value)))
        return web.Response(body=raw, content_type="application/json")

    async def _stream(
        self, request: web.Request, upstream: Upstream, sent: _Sent
    ) -> web.StreamResponse:
        """One write for each read, which ends with an event; between them silence is answered."""
        relayed = RelayedStream(sent.drops_usage)
        response = web.StreamResponse(headers=http_sse.HEADERS)
        size_bytes_max = self.client.limits.response_size_bytes_max
        ending = _Ending(self.dialect.failure)
        started_at = self.clock.monotonic()
        silence = http_sse.Silence(self.keep_alive_s)
        writing = asyncio.Lock()

        async def write(data: bytes) -> None:
            async with writing:
                if not response.prepared:
                    await response.prepare(request)
                    request[STREAM] = BegunStream(response, ending)
                await response.write(data)

        try:
            async with (
                aclosing(upstream.chunks()) as chunks,
                silence.answered(lambda: write(ending.keep_alive())),
            ):
                is_first = True
                async for chunk in chunks:
                    if data := relayed.feed(chunk):
                        if is_first:
                            is_first = False
                            first_s = self.clock.monotonic() - started_at
                            self.metrics.time_to_first_token.observe(first_s)
                        if sent.witness is not None:
                            await sent.witness.saw(data)
                        await write(data)
                        silence.broken()
                    if relayed.error:
                        raise self._refusal(upstream, relayed.error)
                    if relayed.waiting_size_bytes > size_bytes_max:
                        raise too_large(upstream.provider, size_bytes_max)
            await write(relayed.flush())
            await response.write_eof()
        finally:
            if response.prepared and sent.is_counted:
                guess = Usage(tokens_of_chars(len(sent.data or b"")), relayed.event_count)
                self.count(request, relayed.usage() or guess)
        return response

    def _refusal(self, upstream: Upstream, value: dict[str, Any]) -> ShoalError:
        error = self.dialect.error(upstream.provider, value)
        if self.client.limits.shows_upstream_errors:
            reveal(error)
        return error

    def count(self, request: web.Request, usage: Usage) -> None:
        """Put what an answer used into the books of whoever asks."""
        self.meter.count(request[REQUEST_ID], request[CALLER].tenant, usage)
        self.metrics.used(usage)
