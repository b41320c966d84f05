"""Layers whose state cannot be stored are refused by name."""

import pytest

from shoal_engine.cache_spec import CacheKind, cache_specs
from shoal_engine.errors import UnsupportedModel
from shoal_engine.shape import LayerRange, ModelShape

SHAPE = ModelShape(
    architecture="LlamaForCausalLM",
    layer_count=3,
    hidden_size=32,
    vocab_size=100,
    context_length=64,
    head_count=4,
    kv_head_count=2,
    head_dim=8,
    tie_embeddings=False,
    eos_token_ids=(2,),
    checkpoint_dtype="float32",
)


def test_every_layer_is_paged_when_the_model_names_no_types() -> None:
    specs = cache_specs(None, SHAPE, LayerRange(1, 3))
    assert [(spec.layer, spec.kind) for spec in specs] == [
        (1, CacheKind.PAGED),
        (2, CacheKind.PAGED),
    ]
    assert specs[0].elements_per_position == 2 * 2 * 8


def test_sliding_layers_are_paged() -> None:
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    specs = cache_specs(types, SHAPE, LayerRange(0, 3))
    assert {spec.kind for spec in specs} == {CacheKind.PAGED}


@pytest.mark.parametrize("kind", ["linear_attention", "chunked_attention", "something new"])
def test_other_state_is_refused_only_where_the_stage_needs_it(kind: str) -> None:
    types = ["full_attention", "full_attention", kind]
    assert len(cache_specs(types, SHAPE, LayerRange(0, 2))) == 2
    with pytest.raises(UnsupportedModel, match=f"layer 2 is '{kind}'"):
        cache_specs(types, SHAPE, LayerRange(1, 3))


def test_types_must_cover_the_model() -> None:
    with pytest.raises(UnsupportedModel, match="2 layer types for 3 layers"):
        cache_specs(["full_attention"] * 2, SHAPE, LayerRange(0, 1))
