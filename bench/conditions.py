"""Under which conditions measurements run: which models, how many rounds, quick or in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench import checkpoints
from bench.fleets import ROOT, FleetPlan

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
    """folder: where checkpoints are made.

    is_quick: the demo model in place of the large ones and few rounds, to see that all works.
    """

    folder: Path
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

    def large(self, name: str = "tinyllama-1.1b") -> Model:
        """A random checkpoint of a real shape, served in int8; the demo model when quick."""
        if self.is_quick:
            return self.demo()
        settings = {"QUANTIZATION": "int8", "KV_MEMORY_MB": "1024"}
        return Model(name, self.checkpoint(name), settings, is_large=True)

    def checkpoint(self, name: str) -> Path:
        """Its folder; made on first use."""
        return checkpoints.ensure(name, self.folder)

    def models(self) -> tuple[Model, ...]:
        """The demo model, and the large one in a full run."""
        return (self.demo(),) if self.is_quick else (self.demo(), self.large())
