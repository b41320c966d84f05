"""Cases to calibrate on, drawn from a seed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from shoal_entropy_drafter.calibration.cases import Answered, Case
from shoal_entropy_drafter.entropy import Entropy

SEED = 5


def entropy(bits: float, margin: float = 0.5) -> Entropy:
    return Entropy(bits, bits, bits, margin, True)


def answered(tokens: int, *bits: float, text: str = "", wall_s: float = 0.0) -> Answered:
    return Answered(text, (), tokens, wall_s, tuple(entropy(each) for each in bits))


def case(name: str, draft_bits: float, is_draft_right: bool, is_heavy_right: bool) -> Case:
    """A draft of four tokens, all as doubtful, and a heavyweight's answer of four."""
    draft = answered(4, *[draft_bits] * 4, wall_s=0.1)
    return Case(name, name, "", draft, answered(4, wall_s=0.4), is_draft_right, is_heavy_right)


@pytest.fixture
def drawn() -> Callable[[int], list[Case]]:
    """Cases of a drafter that is usually doubtful where it is wrong."""

    def draw(count: int, seed: int = SEED) -> list[Case]:
        print(f"seed {seed}")
        rng = Random(seed)
        cases = []
        for index in range(count):
            is_hard = rng.random() < 0.4
            tokens = rng.randint(3, 12)
            level = rng.uniform(0.8, 3.0) if is_hard else rng.uniform(0.0, 1.2)
            bits = [max(0.0, level + rng.uniform(-0.6, 0.6)) for _ in range(tokens)]
            heavy = answered(rng.randint(3, 12), wall_s=0.5)
            name = f"{seed}-{index}"
            is_right = not is_hard or rng.random() < 0.1
            cases.append(
                Case(
                    name,
                    name,
                    "",
                    answered(tokens + 1, *bits, wall_s=0.1),
                    heavy,
                    is_right,
                    rng.random() < 0.9,
                )
            )
        return cases

    return draw
