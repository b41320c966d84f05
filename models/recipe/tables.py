"""Typed view of `tables.toml`, the facts and phrasings that the tasks draw from."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Pairs = tuple[tuple[str, str], ...]
TABLES_PATH = Path(__file__).with_name("tables.toml")


@dataclass(frozen=True)
class SmallTalk:
    """Prompts that share one answer."""

    prompts: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Tables:
    """All data of the corpus; field names are the keys of `tables.toml`."""

    prefixes: tuple[str, ...]
    days: tuple[str, ...]
    months: tuple[str, ...]
    names: tuple[str, ...]
    words: tuple[str, ...]
    things: tuple[str, ...]
    extra_cities: tuple[str, ...]
    skies: tuple[str, ...]
    capitals_common: Pairs
    capitals_other: Pairs
    elements: Pairs
    stations: Pairs
    opposites: Pairs
    colors: Pairs
    young: Pairs
    tools: Mapping[str, tuple[str, ...]]
    questions: Mapping[str, tuple[str, ...]]
    small_talk: tuple[SmallTalk, ...]

    @property
    def cities(self) -> tuple[str, ...]:
        """Cities that a tool may be asked about."""
        return (*sorted({city for _, city in self.capitals_common}), *self.extra_cities)


def load_tables(path: Path = TABLES_PATH) -> Tables:
    """Read and freeze the tables; raises TypeError for a missing or unknown key."""
    raw = tomllib.loads(path.read_text(encoding="utf-8"))
    groups = raw.pop("small_talk")
    small_talk = tuple(SmallTalk(tuple(group["prompts"]), group["answer"]) for group in groups)
    return Tables(small_talk=small_talk, **{key: _freeze(value) for key, value in raw.items()})


def _freeze(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_freeze(item) for item in value)
    if isinstance(value, dict):
        return {key: _freeze(item) for key, item in value.items()}
    return value
