"""Who answers when nobody is named."""

from __future__ import annotations

import pytest

from shoal_gateway.mcp_server.catalogue import ModelFacts
from shoal_gateway.mcp_server.choosing import Tier, for_research, for_tier

SMALL = ModelFacts("small-local", is_ready=True, layer_count=6, context_length=512)
LARGE = ModelFacts("big-local", is_ready=True, layer_count=32, context_length=4096)
COLD = ModelFacts("cold-local", is_ready=False, is_loadable=True, layer_count=2)
BROKEN = ModelFacts("half-local", is_ready=False, layer_count=1)
CLOUD = ModelFacts("gpt-4o", is_ready=True, context_length=128_000, provider="openai")
CLOUD_MINI = ModelFacts("gpt-4o-mini", is_ready=True, context_length=128_000, provider="openai")
ALL = (CLOUD, CLOUD_MINI, BROKEN, LARGE, COLD, SMALL)


@pytest.mark.parametrize(
    ("tier", "models", "wanted"),
    [
        ("fast", ALL, "small-local"),
        ("fast", (COLD, CLOUD_MINI), "cold-local"),
        ("fast", (CLOUD, CLOUD_MINI), "gpt-4o-mini"),
        ("cheap", ALL, "cold-local"),
        ("cheap", (LARGE, SMALL), "small-local"),
        ("cheap", (CLOUD, CLOUD_MINI), "gpt-4o-mini"),
        ("smart", ALL, "gpt-4o"),
        ("smart", (SMALL, LARGE, COLD, CLOUD_MINI), "big-local"),
        ("smart", (COLD,), "cold-local"),
    ],
)
def test_a_tier_takes(tier: Tier, models: tuple[ModelFacts, ...], wanted: str) -> None:
    for listed in (models, models[::-1]):
        choice = for_tier(tier, listed)
        assert choice is not None
        assert choice.model == wanted


def test_the_reason_names_provider_layers_and_waiting() -> None:
    told = {tier: for_tier(tier, models) for tier, models in (("smart", ALL), ("cheap", ALL))}  # type: ignore[arg-type]
    assert told["smart"] is not None
    assert "at openai" in told["smart"].why
    assert told["cheap"] is not None
    assert "2 layers; it is loaded first" in told["cheap"].why


def test_nothing_can_answer() -> None:
    assert for_tier("fast", (BROKEN,)) is None
    assert for_research((BROKEN,)) == ()


def test_research_asks_local_models_first_and_five_at_most() -> None:
    assert for_research(ALL) == ("big-local", "small-local", "gpt-4o-mini", "gpt-4o")
    many = [ModelFacts(f"m{index}", is_ready=True, layer_count=index) for index in range(9)]
    assert for_research([CLOUD, *many]) == ("m8", "m7", "m6", "m5", "m4")


def test_research_loads_one_model_where_none_is_ready() -> None:
    other = ModelFacts("zzz", is_ready=False, is_loadable=True)
    assert for_research((other, COLD)) == ("cold-local",)
