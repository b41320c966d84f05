"""1,000 pairs that ask the same and 1,000 that do not, from templates and a seed.

Owns how templates become pairs and which half they belong to: every second template of a kind, and
every second value of a slot, is `test` and was not looked at while the guard was tuned.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from bench.cache_safety.near_misses import NEAR_MISSES
from bench.cache_safety.paraphrases import PARAPHRASES
from bench.cache_safety.slots import SLOTS

Half = Literal["dev", "test"]
HALVES: tuple[Half, Half] = ("dev", "test")
SEED = 6
COUNT = 1000

_SLOT = re.compile(r"\{([a-z]+)(_2)?(:[lu])?\}")
# Draws without a new pair after which the templates of a kind have nothing left to give.
_IDLE_DRAWS_MAX = 2000

_Item = TypeVar("_Item")
Templates = Mapping[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Pair:
    """kind: how the second differs from the first. is_same: one answer fits both."""

    kind: str
    half: Half
    is_same: bool
    one: str
    other: str


def paraphrases(count: int = COUNT, seed: int = SEED) -> list[Pair]:
    """`count` different pairs that ask the same, the kinds and halves as even as they go."""
    return _pairs(PARAPHRASES, True, count, seed)


def near_misses(count: int = COUNT, seed: int = SEED) -> list[Pair]:
    """`count` different pairs that ask something else."""
    return _pairs(NEAR_MISSES, False, count, seed)


def _pairs(templates: Templates, is_same: bool, count: int, seed: int) -> list[Pair]:
    groups = [(kind, half) for half in HALVES for kind in templates]
    shares = [(count + index) // len(groups) for index in range(len(groups))]
    pairs: list[Pair] = []
    for (kind, half), share in zip(groups, shares, strict=True):
        generator = random.Random(f"{seed} {kind} {half} {is_same}")
        drawn = _drawn(_half(templates[kind], half), half, share, generator)
        pairs += [Pair(kind, half, is_same, one, other) for one, other in drawn]
    assert len(pairs) == count
    return pairs


def _drawn(
    templates: Sequence[tuple[str, str]], half: Half, count: int, generator: random.Random
) -> list[tuple[str, str]]:
    """Templates take turns; a pair that was there already is drawn again by the next one."""
    found: dict[tuple[str, str], None] = {}
    for index in range(count + _IDLE_DRAWS_MAX):
        if len(found) == count:
            break
        found[_filled(templates[index % len(templates)], half, generator)] = None
    assert len(found) == count, f"the slots hold {len(found)} pairs, {count} are needed"
    return list(found)


def _filled(template: tuple[str, str], half: Half, generator: random.Random) -> tuple[str, str]:
    """Both texts of a template with the same values; `{x_2}` is never the value of `{x}`."""
    names = sorted({match[1] for text in template for match in _SLOT.finditer(text)})
    values: dict[str, str] = {}
    for name in names:
        values[name], values[f"{name}_2"] = generator.sample(_half(SLOTS[name], half), 2)

    def value(match: re.Match[str]) -> str:
        text = values[match[1] + (match[2] or "")]
        return {":l": text.lower(), ":u": text.upper()}.get(match[3] or "", text)

    one, other = template
    return _SLOT.sub(value, one), _SLOT.sub(value, other)


def _half(items: Sequence[_Item], half: Half) -> Sequence[_Item]:
    return items[HALVES.index(half) :: 2]
