"""Where a stage is loaded, and with how many threads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shoal_common.errors import ShoalError
from shoal_engine.loading import FolderSource
from shoal_engine.testing import LAYER_COUNT, make_checkpoint
from shoal_worker_gpu.errors import DeviceOutOfMemory, ModelDoesNotFit
from shoal_worker_gpu.settings import Settings
from shoal_worker_gpu.shards import LocalModel
from shoal_worker_gpu.stage_loader import (
    devices_to_try,
    first_with_room,
    load_stage_of,
    thread_count,
)

MIB = 1 << 20


@pytest.mark.parametrize(
    ("asked", "share", "weight_mb", "expected"),
    [(0, 4, 1000, 4), (0, 4, 100, 1), (3, 4, 100, 3), (3, 1, 1000, 3), (0, 1, 1000, 1)],
)
def test_a_small_stage_takes_one_thread_unless_asked(
    asked: int, share: int, weight_mb: int, expected: int
) -> None:
    assert thread_count(asked, share, weight_mb * MIB) == expected


def test_the_cpu_is_tried_only_where_that_is_allowed() -> None:
    assert devices_to_try("cuda:1", cpu_fallback=True) == ["cuda:1", "cpu"]
    assert devices_to_try("cuda:1", cpu_fallback=False) == ["cuda:1"]
    assert devices_to_try("cpu", cpu_fallback=True) == ["cpu"]


@pytest.mark.parametrize(
    "refusal",
    [
        DeviceOutOfMemory("m", "cuda"),
        ModelDoesNotFit("m", weight_mb=9, step_mb=1, kv_mb=1, free_mb=5),
    ],
)
def test_a_device_without_room_is_passed_over_with_a_warning(
    refusal: ShoalError, caplog: pytest.LogCaptureFixture
) -> None:
    def load_on(device: str) -> str:
        if device == "cuda":
            raise refusal
        return f"loaded on {device}"

    assert first_with_room(["cuda", "cpu"], load_on) == "loaded on cpu"
    (record,) = caplog.records
    assert (record.levelname, record.message) == ("WARNING", "device has no room")
    with pytest.raises(type(refusal)):
        first_with_room(["cuda"], load_on)


def test_other_troubles_are_not_passed_over() -> None:
    def load_on(device: str) -> str:
        raise ValueError(device)

    with pytest.raises(ValueError, match="cuda"):
        first_with_room(["cuda", "cpu"], load_on)


class OpenFolder(FolderSource):
    """A folder where a fetched model is expected."""

    def close(self) -> None:
        """Nothing is kept open."""


def test_a_stage_takes_no_more_than_it_may(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    folder = make_checkpoint(tmp_path, "LlamaForCausalLM")
    layers = (0, LAYER_COUNT)
    source = OpenFolder(folder)
    model = LocalModel("m", folder, "r", {}, layers, folder, source)  # type: ignore[arg-type]
    free = load_stage_of(model, Settings(), 1)
    # Most is what the kernels take with the first step.
    limited = load_stage_of(model, Settings(), 1, memory_max_bytes=20 * MIB)
    assert 0 < limited.blocks_total < free.blocks_total
    with pytest.raises(ModelDoesNotFit, match="10 MiB are free"):
        load_stage_of(model, Settings(), 1, memory_max_bytes=10 * MIB)
