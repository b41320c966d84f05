"""Which model answers when the caller names none. Pure rules, in order of priority."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from shoal_gateway.mcp_server.catalogue import ModelFacts

Tier = Literal["fast", "cheap", "smart"]
TIERS: tuple[Tier, ...] = get_args(Tier)
RESEARCH_MODELS_MAX = 5
# What providers call their small models.
_SMALL_WORDS = ("mini", "nano", "flash", "lite", "haiku", "small", "instant", "free")


@dataclass(frozen=True)
class Choice:
    """`why` is a sentence for the caller."""

    model: str
    why: str


def for_tier(tier: Tier, models: Sequence[ModelFacts]) -> Choice | None:
    """The model for a task of that tier; None where no model could answer.

    fast: the ready local model with the fewest layers, then one that must be loaded, then a
    provider's. cheap: the same, but a smaller model is worth waiting for. smart: a provider's
    large model, then the local one with the most layers.
    """
    usable = _by_name(models)
    if not usable:
        return None
    if tier == "smart":
        ready = [model for model in usable if model.is_ready] or usable
        return _told(max(ready, key=_strength), "the most capable model")
    if tier == "cheap":
        return _told(min(usable, key=_cost), "the smallest model that costs nothing extra")
    return _told(min(usable, key=_delay), "the quickest model")


def for_research(models: Sequence[ModelFacts]) -> tuple[str, ...]:
    """At most five that can answer at once: local ones, the strongest first, then providers'
    small ones. Where none is ready, the first that can be loaded."""
    usable = _by_name(models)
    ready = [model for model in usable if model.is_ready] or usable[:1]
    local = sorted((m for m in ready if not m.provider), key=_strength, reverse=True)
    cloud = sorted((m for m in ready if m.provider), key=lambda model: not _is_small(model))
    return tuple(model.name for model in [*local, *cloud][:RESEARCH_MODELS_MAX])


def _by_name(models: Sequence[ModelFacts]) -> list[ModelFacts]:
    """What can answer, in an order that does not depend on who was listed first."""
    return sorted((m for m in models if m.is_ready or m.is_loadable), key=lambda model: model.name)


def _is_small(model: ModelFacts) -> bool:
    return any(word in model.name.lower() for word in _SMALL_WORDS)


def _delay(model: ModelFacts) -> tuple[int, ...]:
    return (
        bool(model.provider),
        not model.is_ready,
        bool(model.provider) and not _is_small(model),
        model.layer_count,
        model.context_length,
    )


def _cost(model: ModelFacts) -> tuple[int, ...]:
    return (
        bool(model.provider),
        bool(model.provider) and not _is_small(model),
        model.layer_count,
        not model.is_ready,
        model.context_length,
    )


def _strength(model: ModelFacts) -> tuple[int, ...]:
    is_large = bool(model.provider) and not _is_small(model)
    rank = 2 if is_large else 0 if model.provider else 1
    return (rank, model.layer_count, model.context_length)


def _told(model: ModelFacts, what: str) -> Choice:
    where = f"at {model.provider}" if model.provider else "of this fleet"
    size = f", {model.layer_count} layers" if model.layer_count else ""
    wait = "" if model.is_ready else "; it is loaded first"
    return Choice(model.name, f"{what} {where}{size}{wait}")
