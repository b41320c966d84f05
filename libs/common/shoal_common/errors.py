"""What can go wrong in the world, as one tree.

ShoalError
├── InvalidRequest            the caller must change something
│   ├── UnknownModel          nobody in the fleet has heard of it
│   ├── PromptTooLong         prompt and reply do not fit the context
│   ├── InvalidGrammar        a format of the reply that nothing matches, or too complex
│   └── RequestTooLarge
├── Unauthenticated           no key, a wrong key, a wrong fleet token
├── Overloaded                a bounded queue is full; try again
├── Unavailable               a part is missing now; try again
│   ├── PlanUnavailable       layers that nobody holds
│   └── StageFailed           a stage of the pipeline died or went silent
├── DeadlineExceeded          the request's time is up
├── Cancelled                 the caller went away
└── Internal                  a fault of ours, seen by the other side

Services add leaves in their own `errors.py`. Two places translate: `shoal_common.rpc` (error to
gRPC status with ErrorInfo, and back) and the gateway's renderers (error to HTTP).
"""

from __future__ import annotations

from typing import ClassVar

import grpc


class ShoalError(Exception):
    """Base of every world error. The message says the numbers and what to do."""

    reason: ClassVar[str] = "INTERNAL"
    grpc_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False


class InvalidRequest(ShoalError):
    """The request cannot be served as it is; `param` names the field where one is to blame."""

    reason = "INVALID_REQUEST"
    grpc_code = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class UnknownModel(InvalidRequest):
    """No worker and no manifest of that name."""

    reason = "UNKNOWN_MODEL"
    grpc_code = grpc.StatusCode.NOT_FOUND
    http_status = 404

    def __init__(self, model: str, known: tuple[str, ...] = ()) -> None:
        hint = f"; known: {', '.join(known[:20])}" if known else ""
        super().__init__(f"model '{model}' does not exist{hint}", param="model")


class PromptTooLong(InvalidRequest):
    """Prompt and reply together exceed the model's context."""

    reason = "PROMPT_TOO_LONG"

    def __init__(self, prompt_tokens: int, context_length: int, max_tokens: int = 0) -> None:
        reply = f" and {max_tokens} tokens were asked for" if max_tokens else ""
        super().__init__(
            f"the prompt has {prompt_tokens} tokens{reply}; the model's limit is "
            f"{context_length} tokens in all: shorten the messages or lower max_tokens",
            param="messages",
        )


class InvalidGrammar(InvalidRequest):
    """The format asked of a reply cannot be enforced; `problem` says why."""

    reason = "INVALID_GRAMMAR"
    _PREFIX: ClassVar[str] = "the reply's format cannot be enforced: "

    def __init__(self, problem: str) -> None:
        super().__init__(self._PREFIX + problem, param="response_format")
        self.problem = problem

    @classmethod
    def told(cls, message: str) -> InvalidGrammar:
        """The error whose message another service has sent."""
        return cls(message.removeprefix(cls._PREFIX))


class RequestTooLarge(InvalidRequest):
    """A body, name or list beyond its limit."""

    reason = "REQUEST_TOO_LARGE"
    http_status = 413


class Unauthenticated(ShoalError):
    """No credentials, or wrong ones."""

    reason = "UNAUTHENTICATED"
    grpc_code = grpc.StatusCode.UNAUTHENTICATED
    http_status = 401


class Overloaded(ShoalError):
    """A bounded queue is full."""

    reason = "OVERLOADED"
    grpc_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 429
    retryable = True


class Unavailable(ShoalError):
    """Something needed is not there now."""

    reason = "UNAVAILABLE"
    grpc_code = grpc.StatusCode.UNAVAILABLE
    http_status = 503
    retryable = True


class PlanUnavailable(Unavailable):
    """No set of ready workers covers every layer of the model."""

    reason = "PLAN_UNAVAILABLE"


class StageFailed(Unavailable):
    """A stage of the pipeline died, went silent or answered nonsense."""

    reason = "STAGE_FAILED"

    def __init__(self, node_id: str, detail: str) -> None:
        super().__init__(f"worker {node_id} failed during generation: {detail}")
        self.node_id = node_id
        self.detail = detail


class DeadlineExceeded(ShoalError):
    """The request's time is up."""

    reason = "DEADLINE_EXCEEDED"
    grpc_code = grpc.StatusCode.DEADLINE_EXCEEDED
    http_status = 504


class Cancelled(ShoalError):
    """The caller went away or asked to stop."""

    reason = "CANCELLED"
    grpc_code = grpc.StatusCode.CANCELLED
    http_status = 499


class Internal(ShoalError):
    """A fault of ours; the details are in the log of the service that failed."""
