"""What a task is, and the helpers that all tasks share."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from recipe.chat import Exchange
from recipe.tables import Tables


class Level(StrEnum):
    """Easy tasks are meant for the drafter, hard ones for the heavyweight."""

    EASY = "easy"
    HARD = "hard"


Maker = Callable[[Random, Tables], Exchange]


@dataclass(frozen=True)
class Task:
    """One kind of exchange: `make` draws one, `weight` is its share of the heavyweight's mix."""

    name: str
    level: Level
    weight: float
    make: Maker


def ask(rng: Random, tables: Tables, form: str, **fields: object) -> str:
    """A question in one of the phrasings of `form`, sometimes with a polite prefix."""
    text = rng.choice(tables.questions[form]).format(**fields)
    prefix = rng.choice(tables.prefixes)
    if prefix.endswith(", "):
        text = text[0].lower() + text[1:]
    return prefix + text


def spaced(items: list[str]) -> str:
    """Items with single spaces between them."""
    return " ".join(items)
