"""Which rows go into a head's next step: a pure decision over the running sequences.

Decode rows come first, because somebody waits for each of them; prompts are cut into chunks that
share the step's budget of prompt tokens, and that budget is small while others decode. In a
pipeline of several stages each step takes only its share of the sequences, so that as many steps
are in flight as there are stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A running sequence as the scheduler sees it.

    pending: tokens known but not computed, 1 when decoding. room: positions behind `computed`
    for which every stage holds KV.
    """

    sequence: int
    computed: int
    pending: int
    room: int
    is_in_flight: bool

    @property
    def is_decoding(self) -> bool:
        return self.pending == 1 and self.computed > 0


@dataclass(frozen=True)
class ChosenRow:
    sequence: int
    position: int
    count: int
    wants_token: bool


@dataclass(frozen=True)
class StepLimits:
    """rows_max: decode rows in one step. depth: stages of the pipeline. prefill_tokens_max: prompt
    tokens in one step. prompt_budget: of these, how many beside n decode rows while m prompts
    wait. prompts_max: prompts in one step."""

    rows_max: int
    depth: int
    prefill_tokens_max: int
    prompt_budget: Callable[[int, int], int]
    prompts_max: int


def choose_rows(candidates: Iterable[Candidate], limits: StepLimits) -> list[ChosenRow]:
    """The next step, in the order given (oldest first); empty when nothing can run now."""
    running = list(candidates)
    ready = [c for c in running if not c.is_in_flight and c.pending > 0]
    decoding = sum(1 for c in running if c.is_decoding or c.is_in_flight)
    share = min(limits.rows_max, -(-decoding // limits.depth))
    rows = [_row(c, 1) for c in ready if c.is_decoding and c.room > 0][:share]
    prompts = [c for c in ready if not c.is_decoding and c.room > 0]
    budget = limits.prefill_tokens_max
    if any(c.is_decoding for c in running):
        # Those whose rows are in flight elsewhere wait behind this step as well.
        budget = min(budget, limits.prompt_budget(share, len(prompts)))
    prompts = prompts[: limits.prompts_max]
    for candidate in prompts:
        count = min(candidate.pending, candidate.room, budget)
        if count > 0:
            rows.append(_row(candidate, count))
            budget -= count
    return rows


def _row(candidate: Candidate, count: int) -> ChosenRow:
    return ChosenRow(
        candidate.sequence,
        candidate.computed,
        count,
        wants_token=count == candidate.pending,
    )
