"""The options of older systems that a worker takes without using them."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal_common.settings import read
from shoal_worker_gpu.settings import Settings

OLD_OPTIONS = ("MAX_BATCH_SIZE", "BATCH_TIMEOUT_MS", "GPU_LAYERS", "PREFIX_CACHE_MAX_ENTRIES")


def test_old_batching_options_start_a_worker_and_change_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {"SHOAL_DATA_DIR": str(tmp_path)}
    old = {f"SHOAL_WORKER_GPU_{name}": "1" for name in OLD_OPTIONS}
    settings = read(Settings, {}, environ | old)
    assert settings.model_dump() == read(Settings, {}, environ).model_dump()
    settings.log_ignored()
    (record,) = caplog.records
    assert list(vars(record)["replaced_by"]) == [name.lower() for name in OLD_OPTIONS]
