"""World errors of the engine.

    ShoalError
    ├── UnsupportedModel      the checkpoint is honest, but we cannot run it exactly
    ├── UntrustedCheckpoint   the folder holds something we refuse to open, or is damaged
    ├── InvalidLayerRange     the layers asked for are not in the model
    ├── UnsupportedDevice     the device or number format is not usable on this machine
    ├── CacheFull             the pool has too few free KV blocks
    ├── InvalidBatch          a step that contradicts the model or the KV it names
    └── InvalidSampling       a sampling parameter out of its range

Messages name files, sizes and remedies, never token ids or text.
"""

from pathlib import Path

import grpc

from shoal_common.errors import InvalidRequest, ShoalError


class UnsupportedModel(ShoalError):
    """The model cannot be run exactly by this engine."""

    reason = "UNSUPPORTED_MODEL"
    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 422
    retryable = False

    def __init__(self, detail: str) -> None:
        super().__init__(f"model not supported: {detail}")


class UntrustedCheckpoint(ShoalError):
    """A checkpoint folder is refused; nothing executable in it was opened."""

    reason = "UNTRUSTED_CHECKPOINT"
    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 422
    retryable = False

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        self.path = path
        super().__init__(f"checkpoint refused: {path.name}: {problem}; {remedy}")


class InvalidLayerRange(ShoalError):
    """A layer range is empty, reversed or beyond the model."""

    reason = "INVALID_LAYER_RANGE"
    grpc_code = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400
    retryable = False

    def __init__(self, asked: str, detail: str) -> None:
        super().__init__(f"layer range {asked}: {detail}; ranges are half-open, such as 0:3")


class UnsupportedDevice(ShoalError):
    """The device or dtype asked for cannot be used on this machine."""

    reason = "UNSUPPORTED_DEVICE"
    grpc_code = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 422
    retryable = False

    def __init__(self, detail: str) -> None:
        super().__init__(f"device not usable: {detail}")


class CacheFull(ShoalError):
    """Not enough free KV blocks; the pool was left as it was."""

    reason = "CACHE_FULL"
    grpc_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 503
    retryable = True

    def __init__(self, blocks_asked: int, blocks_free: int, block_count: int) -> None:
        self.blocks_asked = blocks_asked
        self.blocks_free = blocks_free
        self.block_count = block_count
        super().__init__(
            f"KV cache is full: {blocks_asked} blocks asked, {blocks_free} of {block_count} free; "
            "wait for a sequence to end, preempt one, or give the stage more kv_blocks"
        )


class InvalidBatch(ShoalError):
    """A step names positions, tokens or KV that cannot be; no KV was written."""

    reason = "INVALID_BATCH"
    grpc_code = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400
    retryable = False

    def __init__(self, detail: str) -> None:
        super().__init__(f"step refused: {detail}")


class InvalidSampling(InvalidRequest):
    """A sampling parameter is out of its range."""

    reason = "INVALID_SAMPLING"

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"sampling parameter {name} is {value}; allowed: {allowed}", param=name)
