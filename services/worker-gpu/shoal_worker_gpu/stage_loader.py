"""From a model on this machine to a loaded stage, within the memory there is.

Owns the choice of device, threads and KV blocks. Imports torch only when it loads: the agent and
its tests read settings without it. Runs in the compute thread; it takes seconds to minutes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from shoal_worker_gpu.backends.base import Backend
from shoal_worker_gpu.errors import DeviceOutOfMemory, ModelDoesNotFit
from shoal_worker_gpu.memory import MemoryNeed, free_memory_bytes, kv_block_count
from shoal_worker_gpu.settings import Settings
from shoal_worker_gpu.shards import LocalModel

if TYPE_CHECKING:
    from shoal_engine.loading import StageOptions, StagePlan

log = logging.getLogger(__name__)

_SHORT_SEQUENCE_TOKENS = 512
_SMALL_STAGE_BYTES = 200 << 20

T = TypeVar("T")


def load_stage_of(
    model: LocalModel,
    settings: Settings,
    thread_share: int,
    memory_max_bytes: int | None = None,
) -> Backend:
    """Load the layers of `model`, on the CPU where the device has no room and settings allow it.

    memory_max_bytes: what the stage may take of what is free; None: all of it.
    Raises ModelDoesNotFit before anything is read, DeviceOutOfMemory, and what loading raises.
    """
    try:
        return first_with_room(
            devices_to_try(settings.device, cpu_fallback=settings.cpu_fallback),
            lambda device: _load_on(device, model, settings, thread_share, memory_max_bytes),
        )
    finally:
        model.source.close()


def devices_to_try(device: str, *, cpu_fallback: bool) -> list[str]:
    """In order of preference."""
    return [device, "cpu"] if cpu_fallback and device != "cpu" else [device]


def first_with_room(devices: Sequence[str], load_on: Callable[[str], T]) -> T:
    """What `load_on` gives on the first device that has room; the last refusal is raised."""
    *others, last = devices
    for device in others:
        try:
            return load_on(device)
        except (ModelDoesNotFit, DeviceOutOfMemory) as err:
            log.warning("device has no room", extra={"device": device, "detail": str(err)})
    return load_on(last)


def _load_on(
    device: str,
    model: LocalModel,
    settings: Settings,
    thread_share: int,
    memory_max_bytes: int | None,
) -> Backend:
    import torch

    from shoal_engine.loading import plan_stage
    from shoal_engine.shape import LayerRange
    from shoal_worker_gpu.backends.torch_shard import TorchShard

    options = stage_options(settings, device)
    plan = plan_stage(model.folder, LayerRange(*model.layers), options, model.source)
    room = free_bytes(device)
    if memory_max_bytes is not None:
        room = min(room, memory_max_bytes)
    need = memory_need(plan, settings)
    blocks = kv_block_count(model.model, need, room, settings.kv_memory_mb)
    threads = thread_count(settings.threads, thread_share, plan.weight_bytes)
    log.info(
        "memory divided",
        extra={"weight_bytes": plan.weight_bytes, "kv_blocks": blocks, "threads": threads},
    )
    try:
        stage = plan.load(blocks, threads)
    except torch.cuda.OutOfMemoryError as err:
        raise DeviceOutOfMemory(model.model, device) from err
    return TorchShard(stage, model.folder)


def free_bytes(device: str) -> int:
    """What a stage may take on a device."""
    if device == "cpu":
        return free_memory_bytes()
    import torch

    free: int = torch.cuda.mem_get_info(device)[0]
    return free


def thread_count(asked: int, share: int, weight_bytes: int) -> int:
    """Torch threads of a stage: as asked, else its share of the cores, one for a small stage.

    A step of a small stage is many short pieces; two threads wait for each other as long as they
    compute (demo heavyweight, 8 rows, quiet: 9.7 ms with two threads, 10.3 ms with one).
    """
    if asked:
        return asked
    return 1 if weight_bytes < _SMALL_STAGE_BYTES else share


def stage_options(settings: Settings, device: str = "cpu") -> StageOptions:
    """What the engine is to know of the settings."""
    from shoal_engine.loading import StageOptions

    return StageOptions(
        device=device,
        dtype=settings.dtype,
        quantization=settings.quantization,
        block_size_tokens=settings.block_size_tokens,
        strict_exact=settings.strict_exact,
    )


def memory_need(plan: StagePlan, settings: Settings) -> MemoryNeed:
    """Memory of a stage: one short sequence at least, at most all that run at full length."""
    per_sequence = -(-plan.shape.context_length // settings.block_size_tokens)
    return MemoryNeed(
        weight_bytes=plan.weight_bytes,
        step_bytes=plan.step_bytes(
            settings.prefill_chunk_tokens + settings.max_running, 2 * settings.max_running
        ),
        kv_block_bytes=plan.kv_block_bytes,
        kv_blocks_min=min(per_sequence, -(-_SHORT_SEQUENCE_TOKENS // settings.block_size_tokens)),
        kv_blocks_max=per_sequence * settings.max_running,
    )
