"""What a stage takes is known before it is loaded."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from shoal_engine.cache_spec import CacheKind, CacheSpec
from shoal_engine.kv_store import PagedKvStore
from shoal_engine.loading import StageOptions, plan_stage
from shoal_engine.shape import LayerRange, read_shape
from shoal_engine.testing import ARCHITECTURES, LAYER_COUNT

from .conftest import CheckpointMaker

RANGES = [(0, LAYER_COUNT), (0, 2), (2, LAYER_COUNT), (1, 3)]


@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_planned_weights_are_loaded_weights(
    checkpoint: CheckpointMaker, architecture: str, quantization: str
) -> None:
    for start, stop in RANGES:
        plan = plan_stage(
            checkpoint(architecture),
            LayerRange(start, stop),
            StageOptions(quantization=quantization),
        )
        stage = plan.load(8)
        assert plan.weight_bytes == stage.weight_bytes, f"{start}:{stop}"
        assert plan.kv_block_bytes == stage.kv_bytes_per_block


MEASURE = """
import resource, sys
from pathlib import Path
import torch
from shoal_engine.loading import StageOptions, plan_stage
from shoal_engine.shape import LayerRange, read_shape
from shoal_engine.stage import Row, StageBatch

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

torch.set_num_threads(1)
folder, quantization = Path(sys.argv[1]), sys.argv[2]
blocks = 24
layers = LayerRange(0, read_shape(folder).layer_count)
plan = plan_stage(folder, layers, StageOptions(quantization=quantization, threads=1))
before = resident()
stage = plan.load(blocks)
kv = stage.pool.sequence(blocks * 16)
for start in range(0, 16 * blocks, 128):
    ids = torch.zeros(128, dtype=torch.int64)
    stage.forward(StageBatch([Row(kv, start, 128, False)], token_ids=ids))
planned = plan.weight_bytes + blocks * plan.kv_block_bytes + plan.step_bytes(128, 0)
print(planned, resident() - before)
"""


def test_kv_takes_memory_only_when_it_is_written() -> None:
    specs = [CacheSpec(0, CacheKind.PAGED, kv_head_count=64, head_dim=128)]
    process = psutil.Process()
    before = process.memory_info().rss
    store = PagedKvStore(specs, 4096, 16, torch.float32, torch.device("cpu"))
    assert store.bytes_per_block * 4096 == 4 << 30
    row = torch.ones(1, 64, 128)
    store.write(0, torch.tensor([4095 * 16]), row, row)
    keys, _ = store.view(0, 4095 * 16 - 1, 2)
    assert keys.sum().item() == row.numel()
    assert process.memory_info().rss - before < 64 << 20


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_the_plan_is_within_a_tenth_of_the_truth(
    checkpoint: CheckpointMaker, quantization: str
) -> None:
    folder: Path = checkpoint(
        "Qwen2ForCausalLM",
        hidden_size=1024,
        intermediate_size=3072,
        num_attention_heads=16,
        num_key_value_heads=4,
        num_hidden_layers=6,
        vocab_size=16_000,
        max_position_embeddings=2048,
    )
    assert read_shape(folder).layer_count == 6
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), quantization],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    planned, true = map(int, run.stdout.split())
    assert abs(planned - true) <= 0.1 * true, f"planned {planned}, took {true}"
