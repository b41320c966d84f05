"""The worker's own errors.

ShoalError
├── Overloaded
│   └── QueueFull            more requests wait than the engine's bound
├── Unavailable
│   ├── WrongEngine          the plan names another range, process or model than this engine
│   ├── KvExhausted          no KV blocks for a sequence; the head preempts or waits
│   ├── StaleAttempt         a message of an attempt that has been replaced
│   ├── StepFailed           a step ended with an error nobody foresaw
│   ├── LeaseExpired         the head of a sequence went silent
│   └── EngineNotReady       still loading, or draining
├── ModelDoesNotFit          the machine's free memory does not hold the stage
└── DeviceOutOfMemory        an accelerator ran out of memory while the stage was loaded
"""

from __future__ import annotations

import grpc

from shoal_common.errors import (
    InvalidGrammar,
    Overloaded,
    ShoalError,
    StageFailed,
    Unavailable,
)


class WrongEngine(Unavailable):
    """The caller believes it speaks to another engine; another plan knows better."""

    reason = "WRONG_ENGINE"


class QueueFull(Overloaded):
    """The bounded queue of waiting requests is full."""

    reason = "QUEUE_FULL"

    def __init__(self, waiting_max: int) -> None:
        super().__init__(f"{waiting_max} requests wait already; try again in a few seconds")


class KvExhausted(Unavailable):
    """No KV blocks for a sequence."""

    reason = "KV_EXHAUSTED"
    grpc_code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, wanted: int, free: int, total: int) -> None:
        super().__init__(
            f"{wanted} KV blocks are needed, {free} of {total} are free: shorten the prompt or "
            "raise SHOAL_WORKER_GPU_KV_MEMORY_MB"
        )


class StaleAttempt(Unavailable):
    """A newer attempt of the sequence stands here, or none."""

    reason = "STALE_ATTEMPT"

    def __init__(self, detail: str) -> None:
        super().__init__(f"the sequence's place on this stage is gone: {detail}")


class StepFailed(Unavailable):
    """A step ended with an error nobody foresaw; the engine's log has the traceback."""

    reason = "STEP_FAILED"

    def __init__(self, error_name: str) -> None:
        super().__init__(f"computing a step ended with {error_name}")


class LeaseExpired(Unavailable):
    """The head of a sequence went silent."""

    reason = "LEASE_EXPIRED"


class EngineNotReady(Unavailable):
    """The engine is loading or draining."""

    reason = "ENGINE_NOT_READY"


def refusal(node_id: str, reason: str, detail: str) -> ShoalError:
    """What a stage's refusal of a sequence means to the client: its own fault, or the stage's."""
    if reason == InvalidGrammar.reason:
        return InvalidGrammar.told(detail)
    if reason == StageFailed.reason:
        return StageFailed(node_id, detail)
    return StageFailed(node_id, f"{detail} ({reason})")


class ModelDoesNotFit(ShoalError):
    """The machine's free memory does not hold the stage; nothing was loaded."""

    reason = "MODEL_DOES_NOT_FIT"
    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 507
    retryable = False

    def __init__(
        self, model: str, *, weight_mb: int, step_mb: int, kv_mb: int, free_mb: int
    ) -> None:
        super().__init__(
            f"'{model}' needs {weight_mb} MiB of weights, {step_mb} MiB for a step and {kv_mb} MiB "
            f"of KV at least; {free_mb} MiB are free here: split its layers over more workers, use "
            "int8, or free memory"
        )


class DeviceOutOfMemory(ShoalError):
    """An accelerator ran out of memory while the stage was loaded."""

    reason = "DEVICE_OUT_OF_MEMORY"
    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 507
    retryable = False

    def __init__(self, model: str, device: str) -> None:
        super().__init__(
            f"{device} ran out of memory while '{model}' was loaded: free memory there, split the "
            "model over more workers, or allow SHOAL_WORKER_GPU_CPU_FALLBACK"
        )
