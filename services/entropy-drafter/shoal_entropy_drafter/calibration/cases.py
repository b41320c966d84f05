"""What both models said to one prompt, and who was right. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shoal_entropy_drafter.calibration.errors import NotCalibratable
from shoal_entropy_drafter.calibration.prompts import Call, LabelledPrompt
from shoal_entropy_drafter.entropy import Entropy

CASES_MIN = 50
"""Fewer say nothing: one wrong answer in fifty is two percent."""


@dataclass(frozen=True)
class Answered:
    """A model's greedy answer. entropies: of a draft, one per token shown; else none.

    completion_tokens: what the source counts, tokens it does not show included. wall_s: from
    sending the request to the whole answer.
    """

    text: str
    calls: tuple[Call, ...]
    completion_tokens: int
    wall_s: float
    entropies: tuple[Entropy, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Read back by `answered_from`."""
        said: dict[str, Any] = {
            "text": self.text,
            "calls": [call.as_json() for call in self.calls],
            "completion_tokens": self.completion_tokens,
            "wall_s": round(self.wall_s, 6),
        }
        if self.entropies:
            said["entropies"] = [
                [e.lower, e.upper, e.renormalised, e.margin, e.is_known] for e in self.entropies
            ]
        return said


def answered_from(said: dict[str, Any]) -> Answered:
    """Raises KeyError, TypeError, ValueError for what `as_json` did not write."""
    return Answered(
        text=str(said["text"]),
        calls=tuple(Call(call["name"], call["arguments"]) for call in said["calls"]),
        completion_tokens=int(said["completion_tokens"]),
        wall_s=float(said["wall_s"]),
        entropies=tuple(
            Entropy(float(lower), float(upper), float(bits), float(margin), bool(is_known))
            for lower, upper, bits, margin, is_known in said.get("entropies", [])
        ),
    )


@dataclass(frozen=True)
class Case:
    """One prompt with both models' answers, judged. key: of the question, see `LabelledPrompt`."""

    prompt_id: str
    key: str
    task: str
    draft: Answered
    heavy: Answered
    is_draft_right: bool
    is_heavy_right: bool


def case_of(prompt: LabelledPrompt, draft: Answered, heavy: Answered) -> Case:
    """Both answers judged by the prompt."""
    return Case(
        prompt.prompt_id,
        prompt.key,
        prompt.task,
        draft,
        heavy,
        prompt.is_right(draft.text, draft.calls),
        prompt.is_right(heavy.text, heavy.calls),
    )


@dataclass(frozen=True)
class Parameters:
    """Sizes of both models: what a token costs. Only their ratio matters."""

    drafter: float
    heavyweight: float

    def __post_init__(self) -> None:
        assert self.drafter > 0 < self.heavyweight

    @property
    def ratio(self) -> float:
        """What a drafted token costs in tokens of the heavyweight."""
        return self.drafter / self.heavyweight


def check_cases(cases: Sequence[Case]) -> None:
    """Raises NotCalibratable where no threshold can be told from these answers."""
    if len(cases) < CASES_MIN:
        raise NotCalibratable(
            f"{len(cases)} prompts were answered; at least {CASES_MIN} are needed to choose a "
            "threshold: add labelled prompts"
        )
    wrong = sum(not case.is_draft_right for case in cases)
    if wrong in (0, len(cases)):
        word = "right" if wrong == 0 else "wrong"
        remedy = (
            "it needs no cascade on these prompts; add harder ones"
            if wrong == 0
            else "add easier prompts, or look whether 'match' and 'answer' fit what it writes"
        )
        raise NotCalibratable(
            f"the drafter was {word} on all {len(cases)} prompts, so nothing tells doubtful "
            f"drafts from good ones: {remedy}"
        )
    if not any(case.is_heavy_right for case in cases):
        raise NotCalibratable(
            f"the heavyweight was wrong on all {len(cases)} prompts: look whether 'match' and "
            "'answer' fit what it writes, or name another with --heavyweight"
        )
