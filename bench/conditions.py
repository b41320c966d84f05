"""Under which conditions measurements run: which models, how many rounds, quick or in full."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.fleets import ROOT, FleetPlan, Skipped
from bench.streams import read_config

DEMO = "heavyweight"


@dataclass(frozen=True)
class Model:
    """A checkpoint to measure. label: in tables. settings: of the workers that serve it."""

    label: str
    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    is_large: bool = False

    def plan(self, workers: int = 1, threads: int = 1, **settings: str) -> FleetPlan:
        """A fleet that serves it; settings of the workers in upper case."""
        return FleetPlan(self.folder, workers, threads, {**self.settings, **settings})


@dataclass(frozen=True)
class Conditions:
    """is_quick: the demo model in place of the large ones, few rounds; to see that all works."""

    checkpoints: Path
    is_quick: bool = False

    @property
    def rounds(self) -> int:
        """Of measurements that take a second or so."""
        return 2 if self.is_quick else 5

    @property
    def large_rounds(self) -> int:
        """Of measurements that take tens of seconds."""
        return 1 if self.is_quick else 3

    def demo(self) -> Model:
        """The trained model that ships with the repository."""
        return Model("demo", ROOT / "models" / DEMO)

    def large(self, name: str = "tinyllama-1.1b", context: int = 0) -> Model:
        """A random checkpoint of a real model's shape, served in int8; the demo model when quick.

        context: positions it must take, where the shape's own number is too small. Raises Skipped
        when it cannot be made.
        """
        if self.is_quick:
            return self.demo()
        settings = {"QUANTIZATION": "int8", "KV_MEMORY_MB": "1024"}
        folder = self.checkpoint(name)
        if context > read_config(folder)["max_position_embeddings"]:
            folder = with_context(folder, context)
        return Model(name, folder, settings, is_large=True)

    def checkpoint(self, name: str) -> Path:
        """Its folder; made on first use. Raises Skipped."""
        try:
            from bench.checkpoints import ensure
        except ImportError as err:
            raise Skipped(f"no maker of checkpoints: {err}") from err
        return ensure(name, self.checkpoints)

    def models(self) -> tuple[Model, ...]:
        """The demo model, and the large one in a full run."""
        return (self.demo(),) if self.is_quick else (self.demo(), self.large())


def with_context(folder: Path, context: int) -> Path:
    """The same random weights (hard links) under a configuration with more positions."""
    made = folder.with_name(f"{folder.name}-{context}")
    made.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name != "config.json" and not (made / path.name).exists():
            os.link(path, made / path.name)
    config = {**read_config(folder), "max_position_embeddings": context}
    (made / "config.json").write_text(json.dumps(config, indent=1))
    return made
