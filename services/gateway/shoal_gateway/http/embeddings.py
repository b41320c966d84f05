"""OpenAI's embeddings over HTTP: by the provider that serves the model, else by the fleet's own."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from shoal_common.errors import InvalidRequest
from shoal_gateway.access.metering import TokenMeter
from shoal_gateway.dialects import fields, openai_embeddings
from shoal_gateway.embedder import OwnEmbedder
from shoal_gateway.errors import EmbedderMissing
from shoal_gateway.http.body import read_object
from shoal_gateway.http.caller import CALLER, privacy_of
from shoal_gateway.http.middleware import REQUEST_ID
from shoal_gateway.privacy import require_open
from shoal_gateway.providers.client import ProviderClient
from shoal_gateway.providers.relay import usage_fields, usage_from
from shoal_gateway.providers.routing import Routing
from shoal_gateway.providers.table import Endpoint
from shoal_gateway.task import Usage

PATH = "embeddings"


@dataclass(frozen=True)
class EmbeddingRoutes:
    """The handler with what it needs. Without `own` only providers make embeddings."""

    routing: Routing
    client: ProviderClient
    meter: TokenMeter
    own: OwnEmbedder | None = None
    is_strict: bool = False

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/embeddings", self.embed)

    async def embed(self, request: web.Request) -> web.Response:
        """A model that no provider serves is answered by the fleet's, whose name the answer tells:
        clients have names of hosted models built in."""
        body = await read_object(request)
        model = fields.model_name(body)
        if not model:
            raise InvalidRequest("'model' is required", param="model")
        if not isinstance(body.get("input"), str | list) or not body["input"]:
            raise InvalidRequest(
                "'input' must be a string or an array that is not empty", param="input"
            )
        endpoint = await self._endpoint(model)
        if endpoint is not None:
            return await self._by_provider(request, body, model, endpoint)
        if self.own is None:
            raise EmbedderMissing(model)
        return await self._by_fleet(request, body, self.own)

    async def _endpoint(self, model: str) -> Endpoint | None:
        """The provider that serves the model; None for the fleet's own."""
        own = "" if self.own is None else await self.own.model()
        if openai_embeddings.is_same_model(model, own):
            return None
        endpoint = await self.routing.endpoint(model)
        return endpoint if endpoint is not None and endpoint.provider.kind == "openai" else None

    async def _by_provider(
        self, request: web.Request, body: dict[str, Any], model: str, endpoint: Endpoint
    ) -> web.Response:
        """The provider's own answer; of the request only the model's name is changed."""
        require_open(privacy_of(request), model)
        answer = await self.client.fetch(endpoint, PATH, body | {"model": endpoint.model})
        self._count(request, model, usage_from(usage_fields(answer)))
        return web.Response(body=answer, content_type="application/json")

    async def _by_fleet(
        self, request: web.Request, body: dict[str, Any], own: OwnEmbedder
    ) -> web.Response:
        asked = openai_embeddings.parse(body, self.is_strict)
        described = await own.described()
        model = described.embedding_model
        openai_embeddings.require_dimensions(asked, model, described.embedding_dimensions)
        own.require_private(described, privacy_of(request))
        entries: list[dict[str, Any]] = []
        token_count = 0
        async with aclosing(own.embed(request[REQUEST_ID], asked.texts)) as parts:
            async for part in parts:
                token_count += part.token_count
                entries += [
                    openai_embeddings.entry(index, embedding.values, asked.is_base64)
                    for index, embedding in enumerate(part.embeddings, len(entries))
                ]
        self._count(request, model, Usage(token_count, 0))
        answer = openai_embeddings.whole(model, entries, token_count)
        return web.Response(body=orjson.dumps(answer), content_type="application/json")

    def _count(self, request: web.Request, model: str, usage: Usage) -> None:
        self.meter.answered_by(request[REQUEST_ID], model)
        self.meter.count(request[REQUEST_ID], request[CALLER].tenant, usage)
