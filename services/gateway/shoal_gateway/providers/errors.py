"""What can go wrong at a provider.

InvalidRequest
├── ProviderKeyMissing       nobody here has the model, and a provider that has it no key
└── ProviderRefusedRequest   it finds the request wrong, or has no such model
Unavailable
└── ProviderFailed
    ├── ProviderRefusedKey     our key is wrong or not entitled: the operator must act
    ├── ProviderOverloaded     it has no room now
    │   ├── ProviderRateLimited  our key has used up its share
    │   └── ProviderCrowded      we already ask as much of it as we may
    ├── ProviderUnreachable    no connection, or left alone after repeated failures
    ├── ProviderSilent         connected, and then nothing for too long
    ├── ProviderFault          a fault of its own (5xx)
    └── ProviderAnswerBroken   an answer that cannot be read, too large, or cut off

What the provider said itself is kept beside the message; `revealed` puts it in.
"""

from __future__ import annotations

import math
from typing import ClassVar

import grpc

from shoal_common.errors import InvalidRequest, ShoalError, Unavailable
from shoal_gateway.providers.table import Provider

UPSTREAM_CHARS_MAX = 500


class ProviderFailed(Unavailable):
    """A provider did not answer as it should. `upstream` is what it said itself."""

    reason = "PROVIDER_FAILED"
    http_status = 502

    def __init__(self, provider: str, message: str, upstream: str = "") -> None:
        super().__init__(message)
        self.provider = provider
        self.upstream = upstream[:UPSTREAM_CHARS_MAX]
        # Seconds the caller should wait, where somebody knows.
        self.retry_after_s: float | None = None


class ProviderRefusedRequest(InvalidRequest):
    """The provider answers 4xx to what was asked; `status` is its own."""

    reason = "PROVIDER_REFUSED_REQUEST"

    def __init__(self, provider: str, status: int, upstream: str = "") -> None:
        param = "model" if status == 404 else None
        super().__init__(f"provider '{provider}' refuses this request ({status})", param=param)
        self.provider = provider
        self.status = status
        self.upstream = upstream[:UPSTREAM_CHARS_MAX]


class ProviderLacksModel(ProviderRefusedRequest):
    """The provider answers 404."""

    reason = "PROVIDER_LACKS_MODEL"
    http_status = 404


class ProviderKeyMissing(InvalidRequest):
    """The fleet has no such model, and a provider that has it no key."""

    reason = "PROVIDER_KEY_MISSING"
    grpc_code = grpc.StatusCode.NOT_FOUND
    http_status = 404

    def __init__(self, refusal: str, provider: Provider) -> None:
        super().__init__(
            f"{refusal}; {provider.label} answers it once its key is set: "
            f"{provider.key_variables[0]}, or PUT /api/admin/providers",
            param="model",
        )


class ProviderRefusedKey(ProviderFailed):
    """401 or 403. What it said is not kept: it may quote the key."""

    reason = "PROVIDER_REFUSED_KEY"
    retryable = False

    def __init__(self, provider: str, status: int) -> None:
        super().__init__(
            provider,
            f"provider '{provider}' refuses the gateway's key ({status}); "
            "its operator must set another",
        )
        self.status = status


class ProviderOverloaded(ProviderFailed):
    """It asks to come back later."""

    reason = "PROVIDER_OVERLOADED"
    http_status = 503
    _WHY: ClassVar[str] = "is overloaded"

    def __init__(self, provider: str, retry_after_s: float | None, upstream: str = "") -> None:
        wait = f" in {math.ceil(retry_after_s)} s" if retry_after_s else " shortly"
        super().__init__(provider, f"provider '{provider}' {self._WHY}; try again{wait}", upstream)
        self.retry_after_s = retry_after_s


class ProviderRateLimited(ProviderOverloaded):
    """429."""

    reason = "PROVIDER_RATE_LIMITED"
    http_status = 429
    _WHY = "has used up the rate of the gateway's key"


class ProviderCrowded(ProviderOverloaded):
    """Too many requests of ours are with it already."""

    reason = "PROVIDER_CROWDED"
    http_status = 429
    _WHY = "is busy with as many requests as this gateway may send"


class ProviderUnreachable(ProviderFailed):
    """Nothing was sent, or nothing came back at all."""

    reason = "PROVIDER_UNREACHABLE"
    http_status = 503

    def __init__(self, provider: str, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(provider, f"provider '{provider}' cannot be reached: {detail}")
        self.retry_after_s = retry_after_s


class ProviderSilent(ProviderFailed):
    """No byte within the idle limit."""

    reason = "PROVIDER_SILENT"
    http_status = 504

    def __init__(self, provider: str, idle_timeout_s: float) -> None:
        super().__init__(
            provider, f"provider '{provider}' sent nothing for {idle_timeout_s:g} s; try again"
        )


class ProviderFault(ProviderFailed):
    """5xx, or an error in the midst of a stream."""

    reason = "PROVIDER_FAULT"

    def __init__(self, provider: str, status: int, upstream: str = "") -> None:
        code = f" ({status})" if status else ""
        super().__init__(
            provider, f"provider '{provider}' failed at its own end{code}; try again", upstream
        )
        self.status = status


class ProviderAnswerBroken(ProviderFailed):
    """What came is not an answer."""

    reason = "PROVIDER_ANSWER_BROKEN"

    def __init__(self, provider: str, detail: str) -> None:
        super().__init__(provider, f"the answer of provider '{provider}' {detail}")


def reveal(error: ShoalError) -> None:
    """Put what the provider said itself into the message, once."""
    if isinstance(error, ProviderFailed | ProviderRefusedRequest) and error.upstream:
        error.args = (f"{error}: {error.upstream}",)
        error.upstream = ""


def from_status(
    provider: str, status: int, retry_after_s: float | None, upstream: str
) -> ShoalError:
    """The error that a status of 400 or more means."""
    if status in (401, 403):
        return ProviderRefusedKey(provider, status)
    if status == 429:
        return ProviderRateLimited(provider, retry_after_s, upstream)
    if status in (503, 529):
        return ProviderOverloaded(provider, retry_after_s, upstream)
    if status >= 500 or status in (408, 409, 425):
        return ProviderFault(provider, status, upstream)
    if status == 404:
        return ProviderLacksModel(provider, status, upstream)
    return ProviderRefusedRequest(provider, status, upstream)
