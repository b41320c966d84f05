"""Builds the Llama decoder that is trained, from its shape and a seed.

The class is `transformers`' own, so that what is trained is what every runtime will load.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from recipe.presets import Shape

EMBEDDING_STD = 0.02


def config_fields(shape: Shape) -> dict[str, Any]:
    """`config.json` in the spelling that runtimes old and new read."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.layer_count,
        "num_attention_heads": shape.head_count,
        "num_key_value_heads": shape.kv_head_count,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.context_tokens_max,
        "rope_theta": 10_000.0,
        "rope_scaling": None,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "initializer_range": EMBEDDING_STD,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
    }


def build_model(shape: Shape, seed: int) -> Any:
    """A freshly initialised `LlamaForCausalLM` in fp32, in training mode."""
    fields = config_fields(shape)
    del fields["torch_dtype"]
    model = LlamaForCausalLM(LlamaConfig(**fields)).float()
    _initialise(model, shape, torch.Generator().manual_seed(seed))
    model.train()
    return model


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a linear map of the decoder, as opposed to a norm or embedding."""
    return parameter.dim() == 2 and "embed" not in name


@torch.no_grad()
def _initialise(model: Any, shape: Shape, generator: torch.Generator) -> None:
    """Fan-in scaling; what writes to the residual stream starts smaller the deeper the model."""
    residual_scale = 1 / math.sqrt(2 * shape.layer_count)
    for name, parameter in model.named_parameters():
        if parameter.dim() != 2:
            continue
        std = 1 / math.sqrt(parameter.shape[1]) if is_matrix(name, parameter) else EMBEDDING_STD
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            std *= residual_scale
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def target_loss(model: Any, token_ids: Tensor, is_target: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the target tokens.

    token_ids, is_target: (B, T), padded on the right with non-targets; causality keeps padding
    out of every target's context. Logits are only made where a target follows.
    """
    hidden = model.model(input_ids=token_ids, use_cache=False).last_hidden_state
    selected = is_target[:, 1:]
    logits = model.lm_head(hidden[:, :-1][selected])
    return functional.cross_entropy(logits, token_ids[:, 1:][selected])
