"""Which models there are, over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from shoal.router.v1 import router_pb2
from shoal_common.errors import ShoalError, UnknownModel
from shoal_gateway import limits
from shoal_gateway.cascade.backend import CascadeBackend
from shoal_gateway.dialects import anthropic_models
from shoal_gateway.embedder import OwnEmbedder
from shoal_gateway.models import ModelDirectory
from shoal_gateway.providers.model_list import ProviderModel, ProviderModels
from shoal_gateway.traits import ModelTraits, TraitsLibrary

_STATE_NAMES = {
    router_pb2.MODEL_READINESS_READY: "ready",
    router_pb2.MODEL_READINESS_LOADABLE: "loadable",
    router_pb2.MODEL_READINESS_LOADING: "loading",
    router_pb2.MODEL_READINESS_INCOMPLETE: "incomplete",
}


@dataclass(frozen=True)
class ModelRoutes:
    """The handlers with what they need."""

    directory: ModelDirectory
    traits: TraitsLibrary
    hosted: ProviderModels
    embedder: OwnEmbedder | None = None
    cascade: CascadeBackend | None = None

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/v1/models", self.list_models)
        # Model names may hold slashes.
        app.router.add_get("/v1/models/{model:.+}", self.show_model)

    async def list_models(self, request: web.Request) -> web.Response:
        states = await self.directory.states(age_s_max=0.0)
        names = {state.model for state in states}
        hosted = [*await self._cascade(), *await self.hosted.listed()]
        others = [m for m in hosted if m.model_id not in names]
        if _is_anthropic(request):
            infos = [_model_info(state) for state in states]
            infos += [anthropic_models.model_info(m.model_id, m.context_length) for m in others]
            asked = anthropic_models.page_asked(request.query)
            return web.json_response(anthropic_models.page_of(infos, asked))
        known = await self.traits.of_all(states)
        models = [model_object(*pair) for pair in zip(states, known, strict=True)]
        models += [hosted_object(model) for model in others]
        # Last: who takes the first model wants one that chats.
        models += [hosted_object(model) for model in await self._embedding()]
        return web.json_response({"object": "list", "data": models})

    async def show_model(self, request: web.Request) -> web.Response:
        wanted = request.match_info["model"]
        states = await self.directory.states(age_s_max=0.0)
        for state in states:
            if state.model == wanted:
                if _is_anthropic(request):
                    return web.json_response(_model_info(state))
                [traits] = await self.traits.of_all([state])
                return web.json_response(model_object(state, traits))
        hosted = (*await self._cascade(), *await self.hosted.listed(), *await self._embedding())
        for model in hosted:
            if model.model_id == wanted:
                if _is_anthropic(request):
                    info = anthropic_models.model_info(wanted, model.context_length)
                    return web.json_response(info)
                return web.json_response(hosted_object(model))
        raise UnknownModel(wanted[: limits.MODEL_NAME_CHARS_MAX], tuple(s.model for s in states))

    async def _cascade(self) -> tuple[ProviderModel, ...]:
        """The cascade's name, where it can answer."""
        if self.cascade is None or not await self.cascade.is_usable():
            return ()
        return (ProviderModel(self.cascade.model, self.cascade.model, "shoal"),)

    async def _embedding(self) -> tuple[ProviderModel, ...]:
        """The fleet's own embedding model, while there is one."""
        if self.embedder is None:
            return ()
        try:
            name = (await self.embedder.described()).embedding_model
        except ShoalError:
            return ()
        return (ProviderModel(name, name, "shoal"),) if name else ()


def _is_anthropic(request: web.Request) -> bool:
    """Both dialects list models at one path; only Anthropic's clients send this header."""
    return "anthropic-version" in request.headers


def _model_info(state: router_pb2.ModelState) -> dict[str, Any]:
    return anthropic_models.model_info(state.model, state.context_length)


def hosted_object(model: ProviderModel) -> dict[str, Any]:
    """What is said of a provider's model; null is what providers do not tell."""
    return {
        "id": model.model_id,
        "object": "model",
        "created": 0,
        "owned_by": model.provider,
        "is_ready": True,
        "state": "ready",
        "loading_percent": None,
        "context_length": model.context_length or None,
        "ctx_size": model.context_length or None,
        "multimodal": None,
        "thinking_levels": None,
    }


def model_object(state: router_pb2.ModelState, traits: ModelTraits) -> dict[str, Any]:
    """What is said of a model, OpenAI's fields first."""
    is_loading = state.readiness == router_pb2.MODEL_READINESS_LOADING
    return {
        "id": state.model,
        "object": "model",
        "created": 0,
        "owned_by": "shoal",
        "is_ready": state.is_ready,
        "state": state_name(state),
        "loading_percent": state.loading_percent if is_loading else None,
        "context_length": state.context_length,
        "ctx_size": state.context_length,
        "multimodal": traits.needs_vision_encoder,
        "thinking_levels": list(traits.thinking_levels),
    }


def state_name(state: router_pb2.ModelState) -> str:
    """What a request for the model would meet, in a word."""
    return _STATE_NAMES.get(state.readiness, "ready" if state.is_ready else "incomplete")
