"""How tensors are packed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from shoal_shard_store.errors import UntrustedFolder
from shoal_shard_store.manifest import ShardPlan, facts_of, plan_shards
from shoal_shard_store.model_folder import read_folder
from shoal_shard_store.safetensors_header import StoredTensor


def _plan(folder: Path, shard_size_bytes: int) -> ShardPlan:
    return plan_shards(read_folder(folder).tensors, 2, shard_size_bytes)


def test_groups_are_embedding_layers_head(model_folder: Path) -> None:
    groups = _plan(model_folder, 1 << 20).groups
    assert [(group.name, group.layer) for group in groups] == [
        ("embed", None),
        ("layer.0", 0),
        ("layer.1", 1),
        ("head", None),
    ]


@pytest.mark.parametrize("shard_size_bytes", [1, 64, 100, 128, 200, 448, 10_000])
def test_every_byte_is_packed_once_without_gaps(model_folder: Path, shard_size_bytes: int) -> None:
    plan = _plan(model_folder, shard_size_bytes)
    packed: list[str] = []
    for shard in range(plan.shard_count):
        expected = 0
        for segment in plan.segments_of(shard):
            assert segment.offset_bytes == expected
            expected += segment.size_bytes
            packed += [tensor.name for tensor in segment.tensors]
        assert 0 < expected <= max(shard_size_bytes, 64)
    assert sorted(packed) == sorted(tensor.name for tensor in read_folder(model_folder).tensors)


def test_plan_does_not_depend_on_the_order_of_the_tensors(model_folder: Path) -> None:
    tensors = list(read_folder(model_folder).tensors)
    expected = plan_shards(tensors, 2, 200)
    random.Random(7).shuffle(tensors)
    assert plan_shards(tensors, 2, 200) == expected


def test_tensor_of_no_group_is_refused() -> None:
    strange = StoredTensor("vision.weight", "U8", (1,), "model.safetensors", 0, 1)
    with pytest.raises(UntrustedFolder, match=r"vision\.weight belongs to no layer below 2"):
        plan_shards([strange], 2, 100)


def test_layer_without_tensors_is_refused(model_folder: Path) -> None:
    with pytest.raises(UntrustedFolder, match=r"nothing is stored for layer\.2"):
        plan_shards(read_folder(model_folder).tensors, 3, 100)


def test_context_ends_where_rotary_frequencies_switch() -> None:
    config = {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "num_hidden_layers": 2,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "longrope"},
    }
    assert facts_of(config, ["lm_head.weight"]).context_length == 4096
