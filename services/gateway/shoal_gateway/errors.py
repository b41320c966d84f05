"""What can go wrong at the front door, besides shoal_common's tree.

InvalidRequest
├── MalformedBody      not JSON, not an object, not text
├── UnknownRoute       no such path
├── MetricsOff         the operator turned them off
├── WrongMethod        the path knows other methods
├── WrongHost          a Host that is not one of ours
├── BodyTooSlow        the body did not come in time
├── ScopeMissing       a key that may not do this
├── UnknownKey         no named key of that id
└── BudgetExceeded     the key's tokens of this month are used up
Overloaded
└── RateLimited        too many requests in a minute
Unavailable
├── NoModelReady       `auto`, and nothing is ready
├── ModelNotReady      its engines are starting, so that nothing is known of it yet
├── ModelReplaced      a new revision came between tokenising and planning
├── VisionEncoderUnavailable  a model for images, whose encoder nobody holds
├── DatabaseUnreachable  keys and accounts cannot be read now
├── StartupProbeFailed  the router does not answer at start
├── DrafterMissing     nobody drafts for the cascade
├── EmbedderMissing    nobody who makes embeddings serves that model
└── ProcessNotStarted  one of several processes ended before it served
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from shoal_common.errors import InvalidRequest, Overloaded, Unavailable


class MalformedBody(InvalidRequest):
    """The body cannot be read as a JSON object."""

    reason = "MALFORMED_BODY"

    def __init__(self, detail: str) -> None:
        super().__init__(f"the request body must be a JSON object in UTF-8: {detail}")


class UnknownRoute(InvalidRequest):
    """No route of that path."""

    reason = "UNKNOWN_ROUTE"
    http_status = 404

    def __init__(self, method: str, path: str) -> None:
        super().__init__(f"there is no {method} {path[:200]}")


class MetricsOff(InvalidRequest):
    """`metrics_enabled` is off."""

    reason = "METRICS_OFF"
    http_status = 404

    def __init__(self) -> None:
        super().__init__(
            "metrics are turned off on this port; the operator can set metrics_enabled, or read "
            "the side port"
        )


class WrongMethod(InvalidRequest):
    """The path exists, with other methods."""

    reason = "METHOD_NOT_ALLOWED"
    http_status = 405

    def __init__(self, method: str, path: str, allowed: str) -> None:
        super().__init__(f"{method} is not allowed on {path[:200]}; allowed: {allowed}")


class WrongHost(InvalidRequest):
    """The Host header names somebody else."""

    reason = "WRONG_HOST"
    http_status = 421

    def __init__(self, host: str) -> None:
        super().__init__(
            f"this gateway does not answer for host '{host[:200]}'; its operator can add the name "
            "to allowed_hosts"
        )


class BodyTooSlow(InvalidRequest):
    """The request's body stopped, or trickles."""

    reason = "BODY_TOO_SLOW"
    http_status = 408

    def __init__(self, received_bytes: int, timeout_s: float) -> None:
        super().__init__(
            f"only {received_bytes} bytes of the body came within {timeout_s:.0f} s; send it again"
        )


class ScopeMissing(InvalidRequest):
    """The key is valid and may not do this."""

    reason = "SCOPE_MISSING"
    grpc_code = grpc.StatusCode.PERMISSION_DENIED
    http_status = 403

    def __init__(self, key_name: str, wanted: Sequence[str]) -> None:
        super().__init__(
            f"key '{key_name}' may not do this; it needs the scope {' or '.join(wanted)}"
        )


class UnknownKey(InvalidRequest):
    """No named key of that id, or it was revoked."""

    reason = "UNKNOWN_KEY"
    http_status = 404

    def __init__(self, key_id: str) -> None:
        super().__init__(f"there is no key '{key_id[:100]}' in use")


class BudgetExceeded(InvalidRequest):
    """Trying again helps nobody before the month ends."""

    reason = "BUDGET_EXCEEDED"
    grpc_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 429

    def __init__(self, used: int, budget: int, month: str) -> None:
        super().__init__(
            f"{used} of the key's {budget} tokens for {month} are used up; its budget starts anew "
            "with the next month (UTC), or its operator can raise it"
        )


class RateLimited(Overloaded):
    """More requests in a minute than the key or the address may send."""

    reason = "RATE_LIMITED"

    def __init__(self, limit: int, retry_after_s: float, reset_s: float) -> None:
        super().__init__(
            f"more than {limit} requests in a minute; try again in {retry_after_s:.1f} s"
        )
        self.limit = limit
        self.retry_after_s = retry_after_s
        self.reset_s = reset_s


class StartupProbeFailed(Unavailable):
    """`strict_startup`, and the router does not answer."""

    reason = "STARTUP_PROBE_FAILED"

    def __init__(self, address: str, timeout_s: float) -> None:
        super().__init__(
            f"the router at {address} did not answer within {timeout_s:g} s; start it first, or "
            "turn strict_startup off"
        )


class NoModelReady(Unavailable):
    """No model was named and none is ready."""

    reason = "NO_MODEL_READY"

    def __init__(self) -> None:
        super().__init__("no model is ready yet; try again shortly or see /v1/models")


class ModelNotReady(Unavailable):
    """The model's engines are starting."""

    reason = "MODEL_NOT_READY"

    def __init__(self, model: str) -> None:
        super().__init__(f"model '{model}' is starting; try again in a few seconds")


class ModelReplaced(Unavailable):
    """The plan is for another revision than the prompt's tokens."""

    reason = "MODEL_REPLACED"

    def __init__(self, model: str) -> None:
        super().__init__(f"model '{model}' was replaced while the request began; try again")


class VisionEncoderUnavailable(Unavailable):
    """The model's images need an encoder; the fleet's workers hold layers of text only."""

    reason = "VISION_ENCODER_UNAVAILABLE"
    retryable = False

    def __init__(self, model: str) -> None:
        super().__init__(
            f"no worker holds the vision encoder of model '{model}'; leave the images out or ask "
            "another model"
        )


class DatabaseUnreachable(Unavailable):
    """SQLite or PostgreSQL does not answer."""

    reason = "DATABASE_UNREACHABLE"

    def __init__(self) -> None:
        super().__init__("the gateway's database does not answer now; try again")


class ProcessNotStarted(Unavailable):
    """A child of the parent process; its own log says why."""

    reason = "PROCESS_NOT_STARTED"
    retryable = False

    def __init__(self, exit_code: int) -> None:
        super().__init__(
            f"a gateway process ended with {exit_code} before it served; see the log above"
        )


class DrafterMissing(Unavailable):
    """No entropy-drafter is named, or it only embeds: its operator must act."""

    reason = "DRAFTER_MISSING"
    retryable = False

    def __init__(self) -> None:
        super().__init__(
            "nobody drafts here: name an entropy-drafter with drafter_address, and give that a "
            "drafter_provider other than none"
        )


class EmbedderMissing(Unavailable):
    """No provider of embeddings is configured for the model: its operator must act."""

    reason = "EMBEDDER_MISSING"
    retryable = False

    def __init__(self, model: str) -> None:
        super().__init__(
            f"nobody makes embeddings with '{model}': its provider's key is not set, or it is no "
            "model of a provider; see /api/admin/providers"
        )
