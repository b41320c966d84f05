"""Who answers when nobody is named."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from shoal_gateway.mcp_server.catalogue import JoinedCatalogue, ModelFacts
from shoal_gateway.mcp_server.choosing import TIERS, Tier, for_research, for_tier

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


def test_research_asks_one_model_of_each_provider_first() -> None:
    offered = {"a": ("a-mini", "a-nano", "a-tts-mini"), "b": ("b-large",), "c": ("c-flash",)}
    models = [
        ModelFacts(name, is_ready=True, provider=provider)
        for provider, names in offered.items()
        for name in names
    ]
    assert for_research(models) == ("a-mini", "c-flash", "b-large", "a-nano")


def test_models_that_do_not_chat_are_not_chosen() -> None:
    embedding = ModelFacts("text-embedding-3-small", is_ready=True, provider="openai")
    for tier in TIERS:
        assert for_tier(tier, (embedding,)) is None


def test_a_word_within_another_word_says_nothing() -> None:
    gemini = ModelFacts("gemini-2.5-pro", is_ready=True, provider="google")
    choice = for_tier("smart", (gemini, LARGE))
    assert choice is not None
    assert choice.model == "gemini-2.5-pro"


@dataclass(frozen=True)
class Offer:
    model_id: str
    provider: str
    context_length: int = 0


@dataclass
class FakeOffers:
    offers: list[Offer] = field(default_factory=list)

    async def listed(self) -> list[Offer]:
        return self.offers


class FakeFleet:
    async def models(self) -> tuple[ModelFacts, ...]:
        return (SMALL, LARGE)


async def test_a_name_that_the_fleet_has_is_the_fleets() -> None:
    offers = FakeOffers([Offer("small-local", "openai"), Offer("gpt-4o", "openai", 128_000)])
    assert await JoinedCatalogue(FakeFleet(), offers).models() == (SMALL, LARGE, CLOUD)
