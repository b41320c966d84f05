"""HTTP to the providers: one pool of connections, bounded in time, size and number.

Owns what a provider's status and silence mean; does not know what is asked.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any

import aiohttp
import orjson

from shoal_common.clock import Clock
from shoal_common.errors import ShoalError
from shoal_gateway.metrics import Metrics, ProviderMetrics
from shoal_gateway.providers.errors import (
    ProviderAnswerBroken,
    ProviderSilent,
    ProviderUnreachable,
    from_status,
    reveal,
)
from shoal_gateway.providers.guard import Gate
from shoal_gateway.providers.table import Endpoint
from shoal_gateway.providers.values import error_text

log = logging.getLogger(__name__)

ANTHROPIC_VERSION = "2023-06-01"
ERROR_BODY_BYTES_MAX = 64 * 1024
IDLE_CONNECTION_S = 60.0
END_TIMEOUT_S = 0.02


@dataclass(frozen=True)
class ClientLimits:
    """`in_flight_max` is per provider; the response's size is that of one event or whole body."""

    connect_timeout_s: float = 10.0
    idle_timeout_s: float = 600.0
    response_size_bytes_max: int = 16 * 1024 * 1024
    in_flight_max: int = 256
    shows_upstream_errors: bool = False


class Upstream:
    """An answer with a good status, yet to be read."""

    def __init__(
        self, provider: str, response: aiohttp.ClientResponse, limits: ClientLimits
    ) -> None:
        self._provider = provider
        self._response = response
        self._limits = limits

    @property
    def provider(self) -> str:
        return self._provider

    @property
    def is_stream(self) -> bool:
        return self._response.content_type == "text/event-stream"

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Whatever has arrived, as it arrives. Raises ProviderFailed."""
        while chunk := await self._next():
            yield chunk

    async def _next(self) -> bytes:
        """What has arrived since the last time; nothing at the end."""
        try:
            return await self._response.content.readany()
        except TimeoutError as err:
            raise ProviderSilent(self._provider, self._limits.idle_timeout_s) from err
        except aiohttp.ClientError as err:
            raise ProviderAnswerBroken(self._provider, "broke off") from err

    async def settle(self) -> None:
        """Nothing more is wanted: the connection can serve again if the body's end is near."""
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                while await self._response.content.readany():
                    continue
        except (TimeoutError, aiohttp.ClientError):
            log.debug("no end after the last event", extra={"provider": self._provider})

    async def read(self) -> bytes:
        """The whole body. Raises ProviderFailed."""
        size_bytes_max = self._limits.response_size_bytes_max
        body = b""
        while chunk := await self._next():
            # Most come in one piece.
            body = body + chunk if body else chunk
            if len(body) > size_bytes_max:
                raise too_large(self._provider, size_bytes_max)
        return body


class ProviderClient:
    """Sends requests to endpoints. Needs a running event loop."""

    def __init__(self, limits: ClientLimits, clock: Clock, metrics: Metrics) -> None:
        self.limits = limits
        self._clock = clock
        self._metrics = metrics
        self._gates: dict[str, Gate] = {}
        self._session = aiohttp.ClientSession(
            # Numbers are bounded by the gates, which refuse instead of waiting.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_S),
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=limits.connect_timeout_s,
                sock_read=limits.idle_timeout_s,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "shoal", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        await self._session.close()

    def gate(self, endpoint: Endpoint) -> Gate:
        """What all requests to the endpoint's provider share."""
        gate = self._gates.get(endpoint.name)
        if gate is None:
            metrics = ProviderMetrics(self._metrics, endpoint.name)
            gate = Gate(endpoint.name, self.limits.in_flight_max, self._clock, metrics)
            self._gates[endpoint.name] = gate
        return gate

    def open(
        self,
        endpoint: Endpoint,
        path: str,
        body: bytes | None,
        headers: dict[str, str] | None = None,
        method: str = "",
    ) -> Attempt:
        """One attempt: POST `body`, or GET without one, or what `method` says. The status is good
        once its context is open.

        Leaving it early closes the connection, which is how a provider learns to stop.
        Entering raises ProviderFailed, ProviderRefusedRequest.
        """
        method = method or ("GET" if body is None else "POST")
        return Attempt(self, endpoint.name, self._send(method, endpoint, path, body, headers or {}))

    async def fetch(self, endpoint: Endpoint, path: str, body: dict[str, Any]) -> bytes:
        """A whole answer, with retries and behind the breaker. Raises as `open` does."""
        data = encoded(body)
        async with self.gate(endpoint).request(endpoint.model) as request:
            while True:
                try:
                    async with self.open(endpoint, path, data) as upstream:
                        request.began()
                        return await upstream.read()
                except ShoalError as err:
                    await request.pause_before_retry(err)

    async def _send(
        self,
        method: str,
        endpoint: Endpoint,
        path: str,
        body: bytes | None,
        headers: dict[str, str],
    ) -> aiohttp.ClientResponse:
        sent = headers | auth_headers(endpoint)
        if body is not None:
            sent["Content-Type"] = "application/json"
        try:
            return await self._session.request(
                method,
                f"{endpoint.base_url.rstrip('/')}/{path}",
                data=body,
                headers=sent,
                # A redirect would carry the key to wherever it points.
                allow_redirects=False,
            )
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as err:
            raise ProviderUnreachable(endpoint.name, "no connection") from err
        except TimeoutError as err:
            raise ProviderSilent(endpoint.name, self.limits.idle_timeout_s) from err
        except (aiohttp.ClientError, OSError, ValueError) as err:
            # aiohttp's own text may hold the URL, which an operator may have put a secret in.
            raise ProviderUnreachable(endpoint.name, "the connection broke") from err

    async def refusal(self, provider: str, response: aiohttp.ClientResponse) -> ShoalError:
        """What an answer with a bad status means."""
        raw = b""
        try:
            raw = await response.content.read(ERROR_BODY_BYTES_MAX)
        except (aiohttp.ClientError, TimeoutError):
            log.debug("error body unread", extra={"provider": provider})
        try:
            message = error_text(orjson.loads(raw))
        except orjson.JSONDecodeError:
            message = raw[:200].decode(errors="replace")
        if response.status < 400:
            return ProviderAnswerBroken(provider, f"is a redirect ({response.status})")
        wait_s = retry_after_s(response.headers.get("Retry-After", ""), self._clock.time())
        error = from_status(provider, response.status, wait_s, message)
        log.warning(
            "provider refused", extra={"provider": provider, "upstream_status": response.status}
        )
        if self.limits.shows_upstream_errors:
            reveal(error)
        return error


class Attempt:
    """The context of one request. A class: a generator takes four times as long."""

    __slots__ = ("_client", "_provider", "_response", "_sending")

    def __init__(
        self,
        client: ProviderClient,
        provider: str,
        sending: Coroutine[None, None, aiohttp.ClientResponse],
    ) -> None:
        self._client = client
        self._provider = provider
        self._sending = sending

    async def __aenter__(self) -> Upstream:
        self._response = await self._sending
        if self._response.status < 300:
            return Upstream(self._provider, self._response, self._client.limits)
        try:
            raise await self._client.refusal(self._provider, self._response)
        finally:
            self._leave()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if not self._response.content.at_eof():
            self._response.close()
        self._response.release()


def auth_headers(endpoint: Endpoint) -> dict[str, str]:
    """Our key, as the provider's kind wants it. Nothing of the client's headers is among them."""
    if endpoint.provider.kind == "anthropic":
        return {"x-api-key": endpoint.key, "anthropic-version": ANTHROPIC_VERSION}
    return {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}


def encoded(body: dict[str, Any]) -> bytes:
    """As JSON. Bodies were read from JSON or made of checked values, so all of it is text."""
    return orjson.dumps(body)


def retry_after_s(value: str, now: float) -> float | None:
    """Seconds from a Retry-After header, which may be a date; None if it says nothing."""
    try:
        return max(0.0, min(float(value), 86400.0))
    except ValueError:
        pass
    try:
        return max(0.0, min(parsedate_to_datetime(value).timestamp() - now, 86400.0))
    except ValueError:
        return None


def too_large(provider: str, size_bytes_max: int) -> ProviderAnswerBroken:
    return ProviderAnswerBroken(
        provider, f"is larger than {size_bytes_max} bytes (max_upstream_response_bytes)"
    )
