"""A small client of the gateway's OpenAI dialect, with server-sent events."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp

from shoal_cli import pids
from shoal_cli import settings as cli_settings
from shoal_cli.errors import BadOptions, GatewayFailed
from shoal_cli.settings import CliSettings

CHAT_PATH = "/v1/chat/completions"

_CONNECT_TIMEOUT_S = 5.0
_SILENCE_TIMEOUT_S = 300.0
_LINE_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class Delta:
    """One step of a streamed reply: text, or at its end the reason and the tokens made."""

    text: str = ""
    finish_reason: str | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Reply:
    """A whole reply."""

    text: str
    finish_reason: str | None
    completion_tokens: int


class GatewayClient:
    """One connection pool to one gateway; use it as an async context."""

    def __init__(self, url: str, api_key: str) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> GatewayClient:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_SILENCE_TIMEOUT_S
        )
        # Header limits of aiohttp bound lines of the body as well.
        self._session = aiohttp.ClientSession(
            headers=self._headers, timeout=timeout, read_bufsize=_LINE_BYTES_MAX
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def models(self) -> list[str]:
        """Ids of the models the gateway serves. Raises GatewayFailed."""
        body = await self.get("/v1/models")
        return [str(entry["id"]) for entry in body.get("data", [])]

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON object at a path. Raises GatewayFailed."""
        try:
            async with self._open.get(f"{self._url}{path}") as response:
                return await _checked_json(response)
        except (aiohttp.ClientError, TimeoutError) as err:
            raise self._unreachable(err) from err

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON object that a path answers to `body`. Raises GatewayFailed."""
        try:
            async with self._open.post(f"{self._url}{path}", json=body) as response:
                return await _checked_json(response)
        except (aiohttp.ClientError, TimeoutError) as err:
            raise self._unreachable(err) from err

    async def complete(self, body: Mapping[str, Any]) -> Reply:
        """One chat completion, not streamed. Raises GatewayFailed."""
        answer = await self.post(CHAT_PATH, {**body, "stream": False})
        choice = answer["choices"][0]
        return Reply(
            choice["message"].get("content") or "",
            choice.get("finish_reason"),
            int(answer.get("usage", {}).get("completion_tokens", 0)),
        )

    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[Delta]:
        """One chat completion as it is made; the last delta holds the usage.

        Raises GatewayFailed, also for an error event in the middle.
        """
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        try:
            async with self._post(asked) as response:
                await _check_status(response)
                async for data in _events(response):
                    yield _delta(data)
        except (aiohttp.ClientError, TimeoutError) as err:
            raise self._unreachable(err) from err

    @property
    def _open(self) -> aiohttp.ClientSession:
        assert self._session is not None, "enter the client first"
        return self._session

    def _post(self, body: Mapping[str, Any]) -> Any:
        return self._open.post(f"{self._url}{CHAT_PATH}", json=body)

    def _unreachable(self, err: Exception) -> GatewayFailed:
        if isinstance(err, aiohttp.ClientConnectorError) and err.os_error.errno:
            detail = os.strerror(err.os_error.errno).lower()
        else:
            detail = str(err) or type(err).__name__
        return GatewayFailed(
            f"the gateway at {self._url} does not answer ({detail}): "
            "start a fleet with `shoal up`, or look with `shoal doctor`"
        )


def client_of(url: str | None, settings: CliSettings) -> GatewayClient:
    """A client of `url`, else of the data folder's fleet, else of the default port.

    Raises BadOptions for a `url` that is none.
    """
    if url is not None and not url.startswith(("http://", "https://")):
        raise BadOptions(f"'{url}' is no gateway: --url starts with http:// or https://")
    if url is None:
        owner = pids.read_owner(settings.data_dir)
        url = owner.url if owner else f"http://127.0.0.1:{cli_settings.DEFAULT_PORT}"
    return GatewayClient(url, settings.api_key or cli_settings.read_key(settings.data_dir))


async def is_ready(url: str) -> bool:
    """True when the gateway at `url` says that it can serve."""
    timeout = aiohttp.ClientTimeout(total=_CONNECT_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{url}/health/ready") as response,
        ):
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def user_messages(prompt: str, system: str | None = None) -> list[dict[str, str]]:
    """A conversation of one question."""
    head = [{"role": "system", "content": system}] if system else []
    return [*head, {"role": "user", "content": prompt}]


def pick_model(models: Sequence[str], wanted: str | None) -> str:
    """The model to use: `wanted`, else the first served. Raises GatewayFailed."""
    if wanted is not None:
        if wanted not in {*models, "auto"}:
            known = ", ".join(models) or "nothing"
            raise GatewayFailed(f"the gateway does not serve '{wanted}'; it serves: {known}")
        return wanted
    served = [model for model in models if model != "auto"]
    if not served:
        raise GatewayFailed("the gateway serves no model yet: look with `shoal status`")
    return served[0]


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each `data:` line until [DONE]."""
    async for raw in response.content:
        line = raw.decode("utf-8").rstrip("\r\n")
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError as err:
            raise GatewayFailed("the gateway sent an event that is not JSON") from err
        if isinstance(event, dict):
            yield event
    raise GatewayFailed("the gateway ended the reply in the middle")


def _delta(event: Mapping[str, Any]) -> Delta:
    if "error" in event:
        raise GatewayFailed(f"the reply failed: {_error_text(event)}")
    usage = event.get("usage") or {}
    choices = event.get("choices") or [{}]
    return Delta(
        text=(choices[0].get("delta") or {}).get("content") or "",
        finish_reason=choices[0].get("finish_reason"),
        completion_tokens=usage.get("completion_tokens"),
    )


async def _check_status(response: aiohttp.ClientResponse) -> None:
    if response.status == 200:
        return
    text = await response.text()
    try:
        detail = _error_text(json.loads(text))
    except ValueError:
        detail = text[:200]
    raise GatewayFailed(
        f"the gateway answered {response.status}: {detail}",
        response.status,
        _seconds(response.headers.get("Retry-After", "")),
    )


def _seconds(text: str) -> float:
    """A Retry-After in seconds; 0 for none, and for a date, which the gateway never sends."""
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0


async def _checked_json(response: aiohttp.ClientResponse) -> dict[str, Any]:
    await _check_status(response)
    try:
        body = await response.json()
    except ValueError as err:
        raise GatewayFailed("the gateway's answer is not JSON") from err
    if not isinstance(body, dict):
        raise GatewayFailed("the gateway's answer is not a JSON object")
    return body


def _error_text(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message", error)) if isinstance(error, dict) else str(error or body)
