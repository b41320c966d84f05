"""OpenAI's embeddings over HTTP, answered by the provider that serves the model."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from shoal_common.errors import InvalidRequest
from shoal_gateway.access.metering import TokenMeter
from shoal_gateway.dialects import fields
from shoal_gateway.drafter import Drafter
from shoal_gateway.errors import EmbedderMissing
from shoal_gateway.http.body import read_object
from shoal_gateway.http.caller import CALLER
from shoal_gateway.http.middleware import REQUEST_ID
from shoal_gateway.providers.client import ProviderClient
from shoal_gateway.providers.relay import usage_fields, usage_from
from shoal_gateway.providers.routing import Routing

PATH = "embeddings"


@dataclass(frozen=True)
class EmbeddingRoutes:
    """The handler with what it needs."""

    routing: Routing
    client: ProviderClient
    meter: TokenMeter
    drafter: Drafter | None = None

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/embeddings", self.embed)

    async def embed(self, request: web.Request) -> web.Response:
        """The provider's own answer; of the request only the model's name is changed."""
        body = await read_object(request)
        model = fields.model_name(body)
        if not model:
            raise InvalidRequest("'model' is required", param="model")
        if not isinstance(body.get("input"), str | list) or not body["input"]:
            raise InvalidRequest(
                "'input' must be a string or an array that is not empty", param="input"
            )
        endpoint = await self.routing.endpoint(model)
        if endpoint is None or endpoint.provider.kind != "openai":
            raise EmbedderMissing(model)
        answer = await self.client.fetch(endpoint, PATH, body | {"model": endpoint.model})
        usage = usage_from(usage_fields(answer))
        self.meter.answered_by(request[REQUEST_ID], model)
        self.meter.count(request[REQUEST_ID], request[CALLER].tenant, usage)
        return web.Response(body=answer, content_type="application/json")
