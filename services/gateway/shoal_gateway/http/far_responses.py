"""Responses that a provider of this very dialect makes and stores: handed on, found again."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from shoal_common.errors import InvalidRequest
from shoal_gateway.dialects.responses_options import is_response_id
from shoal_gateway.http.caller import CALLER
from shoal_gateway.http.middleware import REQUEST_ID
from shoal_gateway.http.provider_relay import ProviderRelay
from shoal_gateway.providers.errors import ProviderLacksModel, ProviderUnreachable
from shoal_gateway.providers.relay import usage_fields, usage_from, value_of
from shoal_gateway.providers.values import obj
from shoal_gateway.responses.errors import ResponseNotFound, StoreUnreachable
from shoal_gateway.responses.places import Place, ResponsePlaces

log = logging.getLogger(__name__)

_EVENT_END = re.compile(rb"\r?\n\r?\n")


@dataclass(frozen=True)
class FarResponses:
    """A key reaches what was made in its tenant's name, though the provider knows only our key."""

    provider: ProviderRelay
    places: ResponsePlaces

    async def relay(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse | None:
        """The provider's answer as it is; None when the body is not for such a provider.

        What continues one of its responses is. Raises InvalidRequest when the body says otherwise,
        StoreUnreachable.
        """
        tenant = request[CALLER].tenant
        previous: Place | None = None
        if previous_id := body.get("previous_response_id"):
            previous = await self.places.find(previous_id, tenant)
            if previous is None:
                # One of ours, which the provider does not know, or nobody's.
                return None
            if body.get("model") in (None, "", "auto"):
                body = body | {"model": previous.model}
        if body.get("background"):
            # Nobody could ask for it later.
            await self.places.check()
        relayed = await self.provider.relay(request, body, witness=_Maker(self, tenant, body))
        if relayed is None and previous is not None:
            raise InvalidRequest(
                f"response '{previous.response_id}' is kept by provider '{previous.provider}'; "
                f"continue it with a model of that provider, such as '{previous.model}'",
                param="model",
            )
        return relayed

    async def ask(self, request: web.Request) -> web.StreamResponse | None:
        """The provider's answer to a request about one response; None where none has it.

        Raises ResponseNotFound once the provider has forgotten it, StoreUnreachable.
        """
        response_id = request.match_info["response_id"]
        if not is_response_id(response_id):
            return None
        place = await self.places.find(response_id, request[CALLER].tenant)
        if place is None:
            return None
        endpoint = await self.provider.routing.endpoint(place.model)
        if endpoint is None or endpoint.name != place.provider:
            raise ProviderUnreachable(place.provider, "this gateway no longer asks it")
        self.provider.meter.answered_by(request[REQUEST_ID], place.model)
        url = request.rel_url
        path = url.raw_path.removeprefix("/v1/")
        if url.raw_query_string:
            path = f"{path}?{url.raw_query_string}"
        reader = _Reader(self, request, place)
        try:
            answer = await self.provider.ask(request, endpoint, path, reader)
        except ProviderLacksModel as err:
            raise ResponseNotFound(response_id) from err
        if request.method == "DELETE":
            await self.places.forget(response_id)
        return answer


class _Maker:
    """Remembers a new response's id before the client learns it."""

    def __init__(self, responses: FarResponses, tenant: str, body: dict[str, Any]) -> None:
        self._responses = responses
        self._tenant = tenant
        self._body = body
        self._is_done = body.get("store") is False

    async def saw(self, data: bytes) -> None:
        if self._is_done:
            return
        response_id = _response_in(data).get("id")
        if not isinstance(response_id, str) or not is_response_id(response_id):
            return
        self._is_done = True
        place = Place(
            response_id,
            self._tenant,
            self._responses.provider.dialect.provider,
            self._body["model"],
            is_counted=not self._body.get("background") or bool(self._body.get("stream")),
        )
        try:
            await self._responses.places.remember(place)
        except StoreUnreachable:
            # The answer is given all the same.
            log.warning("place of response not kept", extra={"response_id": response_id})


@dataclass(frozen=True)
class _Reader:
    """Counts what a response used that was made without anybody waiting for it."""

    responses: FarResponses
    request: web.Request
    place: Place

    async def saw(self, data: bytes) -> None:
        if self.place.is_counted:
            return
        for event in _EVENT_END.split(data) if data.startswith((b"event:", b"data:")) else [data]:
            if fields := usage_fields(event):
                if await self.responses.places.may_count(self.place.response_id):
                    self.responses.provider.count(self.request, usage_from(fields))
                return


def _response_in(data: bytes) -> dict[str, Any]:
    """The object of a whole body, or that of a stream's first event."""
    if not data.startswith((b"event:", b"data:")):
        return value_of(data)
    return obj(value_of(_EVENT_END.split(data, 1)[0]).get("response"))
