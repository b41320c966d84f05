"""Who stands between client and provider: nobody, ours, and other gateways.

Owns how each is started and asked. What does not install or start here is skipped with the reason.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.figures import Skipped
from bench.gateway import environments, fleet, upstream
from bench.gateway.load import request_bytes
from bench.gateway.programs import Program, ProgramFailed, accepts, free_port

DIRECT = "direct"
OURS = "ours"
OURS_OWN_MODEL = "ours, its own model"
BARE = "bare aiohttp"
FASTAPI = "FastAPI + httpx"
LITELLM = "LiteLLM"
VLLM_ROUTER = "vllm-router"

_PATH = "/v1/chat/completions"
_KEY = "sk-bench-" + "k" * 32
_START_TIMEOUT_S = 120.0
_REQUIREMENTS: Mapping[str, tuple[str, ...]] = {
    "fastapi": ("fastapi>=0.115", "httpx>=0.28", "uvicorn[standard]>=0.34"),
    # Newer ones do not install; without the SDK and with bytecode turned off it compiles its
    # modules anew on every request.
    "litellm": ("litellm[proxy]<1.109", "opentelemetry-sdk"),
    "vllm-router": ("vllm-router",),
}
# The limits are on, and far away.
_OUR_LIMITS = {"SHOAL_GATEWAY_RATE_LIMIT_HOUSE_RPM": "1000000"}


@dataclass(frozen=True)
class Contender:
    """Something that answers chat completions at `url`. processes: those whose cost counts."""

    url: str
    processes: Callable[[], Sequence[psutil.Process]]
    model: str = upstream.MODEL

    def whole(self, piece_count: int) -> bytes:
        """A request for an answer in one body."""
        return self._request(piece_count)

    def stream(self, piece_count: int) -> bytes:
        """A request for a stream of so many pieces, at the provider's pace."""
        return self._request(piece_count, stream=True)

    def _request(self, piece_count: int, **rest: Any) -> bytes:
        messages = [
            {"role": "system", "content": "You are a helpful whale."},
            {"role": "user", "content": "Tell me a long story about the sea. " * 8},
        ]
        body = {"model": self.model, "messages": messages, "max_tokens": piece_count} | rest
        return request_bytes(self.url, _PATH, body, {"Authorization": f"Bearer {_KEY}"})


@dataclass(frozen=True)
class Place:
    """Where contenders run. environments: folder of the others' own Python environments."""

    stack: AsyncExitStack
    folder: Path
    environments: Path
    provider_url: str
    fleet: Mapping[str, str]

    def start(
        self, name: str, argv: Sequence[str], port: int, settings: Mapping[str, str] | None = None
    ) -> Contender:
        """Raises Skipped when it does not come up."""
        program = Program(argv, self.folder / f"{name}.log", settings or {})
        self.stack.callback(program.stop)
        try:
            program.until(lambda: accepts(port), _START_TIMEOUT_S)
        except ProgramFailed as err:
            raise Skipped(str(err)) from err
        return Contender(f"http://127.0.0.1:{port}", program.processes)


async def direct(place: Place) -> Contender:
    return Contender(place.provider_url, list)


async def ours(place: Place) -> Contender:
    """Key, limits, usage and metrics on; the provider is an OpenAI-compatible one."""
    settings = {"SHOAL_GATEWAY_CLOUD_FALLBACK_URL": f"{place.provider_url}/v1"}
    return _start_ours(place, OURS, settings)


async def ours_own_model(place: Place) -> Contender:
    """Template, plan and token ids as for a model of the fleet, which is played."""
    contender = _start_ours(place, "ours-own-model", {})
    return Contender(contender.url, contender.processes, fleet.MODEL)


def _start_ours(place: Place, name: str, settings: Mapping[str, str]) -> Contender:
    port = free_port()
    argv = [sys.executable, "-m", "shoal_gateway", "--listen-port", str(port)]
    argv += ["--data-dir", str(place.folder / name)]
    argv += ["--router-address", place.fleet["router"]]
    argv += ["--shard-store-address", place.fleet["store"]]
    own = {"SHOAL_GATEWAY_API_KEY": _KEY, **_OUR_LIMITS, **settings}
    return place.start(name, argv, port, own)


async def bare_aiohttp(place: Place) -> Contender:
    port = free_port()
    argv = [sys.executable, "-m", "bench.gateway.bare", "--port", str(port)]
    return place.start("bare", [*argv, "--upstream", place.provider_url], port)


async def fastapi_httpx(place: Place) -> Contender:
    folder = await environments.ensure("fastapi", _REQUIREMENTS["fastapi"], place.environments)
    port = free_port()
    script = str(Path(__file__).with_name("passthrough.py"))
    argv = [str(folder / "python"), script, "--port", str(port), "--upstream", place.provider_url]
    return place.start("fastapi", argv, port)


async def litellm(place: Place) -> Contender:
    folder = await environments.ensure("litellm", _REQUIREMENTS["litellm"], place.environments)
    route = {
        "model": f"openai/{upstream.MODEL}",
        "api_base": f"{place.provider_url}/v1",
        "api_key": "none",
    }
    models = [{"model_name": upstream.MODEL, "litellm_params": route}]
    # JSON is YAML.
    config = place.folder / "litellm.yaml"
    general = {"master_key": _KEY}
    config.write_text(json.dumps({"model_list": models, "general_settings": general}))
    port = free_port()
    argv = [str(folder / "litellm"), "--config", str(config), "--host", "127.0.0.1"]
    argv += ["--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    settings = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "PYTHONDONTWRITEBYTECODE": "",
    }
    return place.start("litellm", argv, port, settings)


async def vllm_router(place: Place) -> Contender:
    folder = await environments.ensure(
        "vllm-router", _REQUIREMENTS["vllm-router"], place.environments
    )
    port = free_port()
    argv = [str(folder / "vllm-router"), "--worker-urls", place.provider_url]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"]
    argv += ["--prometheus-port", str(free_port()), "--log-level", "warning"]
    return place.start("vllm-router", argv, port)


START: Mapping[str, Callable[[Place], Awaitable[Contender]]] = {
    DIRECT: direct,
    OURS: ours,
    OURS_OWN_MODEL: ours_own_model,
    BARE: bare_aiohttp,
    VLLM_ROUTER: vllm_router,
    FASTAPI: fastapi_httpx,
    LITELLM: litellm,
}
