"""The routes. Each reads, asks the domain, and writes; no decision is made here."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from shoal.router.v1 import router_pb2
from shoal_common.clock import Clock
from shoal_common.errors import Internal, ShoalError, UnknownModel
from shoal_gateway import limits
from shoal_gateway.completion import Completer, Prepared
from shoal_gateway.dialects import openai_chat
from shoal_gateway.dialects.openai_render import ChatRenderer
from shoal_gateway.errors import MalformedBody
from shoal_gateway.http import sse
from shoal_gateway.http.middleware import REQUEST_ID, STREAM, body_too_large
from shoal_gateway.metrics import Metrics, observed
from shoal_gateway.models import ModelDirectory
from shoal_gateway.task import Event, Finished, Queued, TextDelta


@dataclass(frozen=True)
class Routes:
    """The handlers with what they need."""

    completer: Completer
    directory: ModelDirectory
    metrics: Metrics
    clock: Clock
    is_strict: bool
    keep_alive_s: float

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.list_models)
        # Model names may hold slashes.
        app.router.add_get("/v1/models/{model:.+}", self.show_model)
        app.router.add_get("/health", self.health)
        app.router.add_get("/health/ready", self.ready)
        app.router.add_get("/metrics", self.show_metrics)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        chat = openai_chat.parse(await read_object(request), self.is_strict)
        request_id = request[REQUEST_ID]
        prepared = await self.completer.prepare(request_id, chat.task)
        renderer = ChatRenderer(
            response_id=f"chatcmpl-{request_id.removeprefix('req-')}",
            created=int(self.clock.time()),
            model=prepared.model,
            wants_logprobs=chat.task.logprobs,
            wants_usage=chat.wants_usage,
        )
        if chat.is_stream:
            return await self._stream(request, renderer, self._events(prepared))
        return await self._whole(renderer, self._events(prepared))

    async def list_models(self, request: web.Request) -> web.Response:
        states = await self.directory.states(age_s_max=0.0)
        return web.json_response({"object": "list", "data": [_model(state) for state in states]})

    async def show_model(self, request: web.Request) -> web.Response:
        wanted = request.match_info["model"]
        states = await self.directory.states(age_s_max=0.0)
        for state in states:
            if state.model == wanted:
                return web.json_response(_model(state))
        raise UnknownModel(wanted[: limits.MODEL_NAME_CHARS_MAX], tuple(s.model for s in states))

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(self, request: web.Request) -> web.Response:
        """Ready once the router answers and a model is held, or loaded on demand."""
        try:
            states = await self.directory.states()
        except ShoalError:
            states = ()
            is_router_up = False
        else:
            is_router_up = True
        has_model = any(state.is_ready or state.is_loadable for state in states)
        subsystems = {"api_server": True, "inference_router": is_router_up, "models": has_model}
        is_ready = all(subsystems.values())
        body = {"ready": is_ready, "subsystems": subsystems}
        return web.json_response(body, status=200 if is_ready else 503)

    async def show_metrics(self, request: web.Request) -> web.Response:
        body = generate_latest(self.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _events(self, prepared: Prepared) -> AsyncGenerator[Event, None]:
        return observed(self.completer.run(prepared), self.metrics, self.clock)

    async def _whole(
        self, renderer: ChatRenderer, events: AsyncGenerator[Event, None]
    ) -> web.Response:
        deltas: list[TextDelta] = []
        async with aclosing(events):
            async for event in events:
                if isinstance(event, TextDelta):
                    deltas.append(event)
                elif isinstance(event, Finished):
                    return web.json_response(renderer.whole(deltas, event))
        raise Internal("the answer ended without a finish")

    async def _stream(
        self, request: web.Request, renderer: ChatRenderer, events: AsyncGenerator[Event, None]
    ) -> web.StreamResponse:
        """An error is the middleware's to answer, before the first byte and after it."""
        response = web.StreamResponse(headers=sse.HEADERS)
        first = sse.data_event(renderer.first_chunk())
        async with aclosing(sse.with_pauses(events, self.keep_alive_s)) as paced:
            async for event in paced:
                if isinstance(event, Queued):
                    continue
                if not response.prepared:
                    await response.prepare(request)
                    request[STREAM] = response
                if event is None:
                    await response.write(sse.KEEP_ALIVE)
                    continue
                if data := first + _rendered(renderer, event):
                    await response.write(data)
                first = b""
        await response.write_eof()
        return response


def _rendered(renderer: ChatRenderer, event: Event) -> bytes:
    if isinstance(event, TextDelta):
        return sse.data_event(renderer.text_chunk(event))
    if isinstance(event, Finished):
        return b"".join(map(sse.data_event, renderer.last_chunks(event))) + sse.DONE
    return b""


async def read_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object. Raises MalformedBody, RequestTooLarge."""
    if (request.content_length or 0) > limits.BODY_SIZE_BYTES_MAX:
        raise body_too_large()
    raw = await request.read()
    try:
        body = json.loads(raw.decode(), parse_constant=_refuse_constant)
        # Escaped halves of surrogate pairs are no characters; tokenisers and UTF-8 refuse them.
        json.dumps(body, ensure_ascii=False).encode()
    except RecursionError as err:
        raise MalformedBody("it is nested too deeply") from err
    except UnicodeError as err:
        raise MalformedBody("it is not valid text") from err
    except ValueError as err:
        raise MalformedBody(str(err)[:200]) from err
    if not isinstance(body, dict):
        raise MalformedBody(f"it is of type {limits.type_name(body)}")
    return body


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_STATE_NAMES = {
    router_pb2.MODEL_READINESS_READY: "ready",
    router_pb2.MODEL_READINESS_LOADABLE: "loadable",
    router_pb2.MODEL_READINESS_LOADING: "loading",
    router_pb2.MODEL_READINESS_INCOMPLETE: "incomplete",
}


def _model(state: router_pb2.ModelState) -> dict[str, Any]:
    is_loading = state.readiness == router_pb2.MODEL_READINESS_LOADING
    return {
        "id": state.model,
        "object": "model",
        "created": 0,
        "owned_by": "shoal",
        "is_ready": state.is_ready,
        "state": _STATE_NAMES.get(state.readiness, "ready" if state.is_ready else "incomplete"),
        "loading_percent": state.loading_percent if is_loading else None,
        "context_length": state.context_length,
    }
