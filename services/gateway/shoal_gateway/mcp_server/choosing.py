"""Which model answers when the caller names none. Pure rules, in order of priority."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from shoal_gateway.mcp_server.catalogue import ModelFacts

Tier = Literal["fast", "cheap", "smart"]
TIERS: tuple[Tier, ...] = get_args(Tier)
RESEARCH_MODELS_MAX = 5
# What providers call their small models.
# Words of the names of providers' small models.
_SMALL_WORDS = frozenset({"mini", "nano", "flash", "lite", "haiku", "small", "instant", "free"})
# Beginnings of words in names of models that providers list, and that do not chat.
_OTHER_WORDS = (
    "embed", "rerank", "moderation", "guard", "whisper", "transcribe", "tts", "audio", "speech",
    "realtime", "image", "dall", "sora", "video", "ocr", "bge", "davinci", "babbage",
)  # fmt: skip


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
    """At most five that can answer at once: local ones, the strongest first, then one of each
    provider, a small one if it has any, then their next. Where none is ready, the first that can
    be loaded."""
    usable = _by_name(models)
    ready = [model for model in usable if model.is_ready] or usable[:1]
    local = sorted((m for m in ready if not m.provider), key=_strength, reverse=True)
    cloud = _in_turns(sorted((m for m in ready if m.provider), key=lambda m: not _is_small(m)))
    return tuple(model.name for model in [*local, *cloud][:RESEARCH_MODELS_MAX])


def _in_turns(models: Sequence[ModelFacts]) -> list[ModelFacts]:
    """The first of every provider, then the second of every provider, and so on."""
    seen: Counter[str] = Counter()
    turns = []
    for model in models:
        turns.append((seen[model.provider], model))
        seen[model.provider] += 1
    return [model for _, model in sorted(turns, key=lambda turn: turn[0])]


def _by_name(models: Sequence[ModelFacts]) -> list[ModelFacts]:
    """What can answer, in an order that does not depend on who was listed first."""
    usable = (m for m in models if (m.is_ready or m.is_loadable) and _chats(m))
    return sorted(usable, key=lambda model: model.name)


def _chats(model: ModelFacts) -> bool:
    """A provider's list says nothing but names."""
    return not model.provider or not any(word.startswith(_OTHER_WORDS) for word in _words(model))


def _is_small(model: ModelFacts) -> bool:
    return not _SMALL_WORDS.isdisjoint(_words(model))


def _words(model: ModelFacts) -> list[str]:
    return re.split("[^a-z0-9]+", model.name.lower())


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
