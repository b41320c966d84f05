"""The two models: their shapes, corpus mixes and training budgets."""

from dataclasses import dataclass

from recipe.corpus import DRAFT_MIX, HEAVY_MIX, Mix


@dataclass(frozen=True)
class Shape:
    """Dimensions of a Llama decoder with tied embeddings."""

    hidden_size: int
    intermediate_size: int
    layer_count: int
    head_count: int
    kv_head_count: int
    head_dim: int
    vocabulary_size: int = 1536
    context_tokens_max: int = 4096


@dataclass(frozen=True)
class Preset:
    """All that makes one model besides the seed.

    `token_budget` counts the tokens of the full mix, padding included; the echo phase before it
    stops by itself, at `echo_budget` tokens at the latest.
    """

    name: str
    shape: Shape
    mix: Mix
    token_budget: int
    echo_budget: int
    decay_share: float
    """Last part of the budget over which the learning rates fall to `train.FLOOR`."""
    batch_tokens: int = 3000
    echo_loss_target: float = 0.2
    echo_matrix_lr: float = 0.010
    matrix_lr: float = 0.012
    other_lr: float = 2.5e-3


DRAFTER = Preset(
    name="drafter",
    shape=Shape(128, 384, layer_count=3, head_count=4, kv_head_count=2, head_dim=32),
    mix=DRAFT_MIX,
    token_budget=20_000_000,
    echo_budget=3_000_000,
    decay_share=0.4,
)
HEAVYWEIGHT = Preset(
    name="heavyweight",
    shape=Shape(256, 768, layer_count=6, head_count=4, kv_head_count=2, head_dim=64),
    mix=HEAVY_MIX,
    token_budget=9_000_000,
    echo_budget=1_500_000,
    decay_share=0.4,
)
PRESETS = (DRAFTER, HEAVYWEIGHT)
