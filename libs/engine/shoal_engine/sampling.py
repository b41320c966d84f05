"""From raw logits to token ids.

Owns penalties, filters, the seeded draw and log probabilities. A row's draw is a pure function of
(seed, position, that row's logits and its own history): no generator is shared, so neighbours,
batching, splits and replays cannot change it. Does not know stop conditions or text.

Order of treatment: repetition, presence and frequency penalties, logit bias, then only the ids that
a grammar allows, temperature, the filters min-p, top-k, top-p, and the draw.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from shoal_common.errors import ShoalError
from shoal_engine.errors import InvalidSampling

NEAR_TIE = 1e-5

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SamplingSpec:
    """How one sequence is sampled. Raises InvalidSampling for values out of range.

    logit_bias: added to the logits of these ids; ids beyond the vocabulary have no effect.
    logprobs: -1 none, 0 of the chosen token, k also the k most likely tokens.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    seed: int = 0
    logprobs: int = -1

    def __post_init__(self) -> None:
        finite = math.isfinite
        checks = (
            ("temperature", finite(self.temperature) and self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("min_p", 0 <= self.min_p <= 1, "0 to 1"),
            (
                "repetition_penalty",
                finite(self.repetition_penalty) and self.repetition_penalty > 0,
                "above 0",
            ),
            ("presence_penalty", finite(self.presence_penalty), "a finite number"),
            ("frequency_penalty", finite(self.frequency_penalty), "a finite number"),
            ("logprobs", self.logprobs >= -1, "-1 (none) or more"),
        )
        for name, is_valid, allowed in checks:
            if not is_valid:
                raise InvalidSampling(name, getattr(self, name), allowed)
        if not all(token >= 0 and finite(bias) for token, bias in self.logit_bias.items()):
            raise InvalidSampling("logit_bias", "malformed", "finite numbers by token id")

    @property
    def changes_logits(self) -> bool:
        """True when penalties or bias move logits before they are compared."""
        return bool(
            self.repetition_penalty != 1.0
            or self.presence_penalty
            or self.frequency_penalty
            or self.logit_bias
        )


def needs_prompt_ids(spec: SamplingSpec) -> bool:
    """True when the prompt's ids must travel with the spec: only repetition penalty sees them."""
    return spec.repetition_penalty != 1.0


class Constraint(Protocol):
    """Which tokens may come next in one reply (`shoal_engine.grammar.GrammarState`)."""

    def allowed_ids(self) -> Ids:
        """Ascending, at least one. Raises ShoalError, which ends this reply alone."""
        ...

    def observe(self, token_id: int) -> None: ...


class SamplingState:
    """A spec with what its penalties remember, and the constraint of its reply.

    Repetition penalty counts the prompt and what was generated; presence and frequency penalties
    count only what was generated. Rebuilt from ids at any time: the state after observing ids one
    by one equals the state built with them.
    """

    def __init__(
        self,
        spec: SamplingSpec,
        prompt_ids: Sequence[int] = (),
        generated_ids: Sequence[int] = (),
        constraint: Constraint | None = None,
    ) -> None:
        """constraint: fresh; the generated ids are observed here."""
        self.spec = spec
        self.constraint = constraint
        self._seen = set(prompt_ids) if needs_prompt_ids(spec) else set()
        self._generated: Counter[int] = Counter()
        for token_id in generated_ids:
            self.observe(token_id)

    def observe(self, token_id: int) -> None:
        """Remember a token that was generated."""
        if self.constraint is not None:
            self.constraint.observe(token_id)
        if not self.spec.changes_logits:
            return
        self._seen.add(token_id)
        self._generated[token_id] += 1

    def adjust(self, logits: Floats) -> None:
        """Apply penalties and bias to one row's logits (V,), in place."""
        spec = self.spec
        vocab_size = logits.shape[0]
        if spec.repetition_penalty != 1.0 and self._seen:
            seen = _within(self._seen, vocab_size)
            values = logits[seen]
            logits[seen] = np.where(
                values > 0, values / spec.repetition_penalty, values * spec.repetition_penalty
            )
        if (spec.presence_penalty or spec.frequency_penalty) and self._generated:
            ids = _within(self._generated, vocab_size)
            counts = np.array([self._generated[int(token)] for token in ids], dtype=np.float64)
            logits[ids] -= spec.presence_penalty + spec.frequency_penalty * counts
        if spec.logit_bias:
            ids = _within(spec.logit_bias, vocab_size)
            logits[ids] += np.array([spec.logit_bias[int(token)] for token in ids])


@dataclass(frozen=True)
class Sampled:
    """A chosen token.

    logprob and top come from the raw logits, before penalties, bias and temperature; top is sorted
    from most likely, ties by id. near_tie: greedy, and the two highest raw logits, of those
    that the constraint allows, differ by less than NEAR_TIE, so that another grouping of the same
    sums could have chosen the other token. failure: the constraint gave up; no token then.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    near_tie: bool = False
    failure: ShoalError | None = None


NO_TOKEN = -1


def sample(
    logits: torch.Tensor, states: Sequence[SamplingState], positions: Sequence[int]
) -> list[Sampled]:
    """Choose one token per row.

    logits: (R, V) float32, on any device, not changed. positions: the position each chosen token
    will have in its sequence. States are not changed: the caller observes what it keeps.
    """
    assert logits.ndim == 2
    assert len(states) == len(positions) == logits.shape[0]
    if not states:
        return []
    best_values = logits.topk(min(2, logits.shape[1]), dim=1).values
    gaps = (best_values[:, 0] - best_values[:, -1]).tolist()
    greedy = logits.argmax(dim=1).tolist()  # The lowest id of equal ones, unlike topk.
    sampled = []
    for row, (state, position) in enumerate(zip(states, positions, strict=True)):
        spec = state.spec
        is_greedy = spec.temperature == 0
        if state.constraint is not None:
            sampled.append(_sample_constrained(logits[row], state, state.constraint, position))
            continue
        if is_greedy and not spec.changes_logits:
            token_id = int(greedy[row])
        else:
            token_id = _choose(logits[row], state, position)
        logprob, top = _logprobs(logits[row], token_id, spec.logprobs)
        near_tie = is_greedy and logits.shape[1] > 1 and gaps[row] < NEAR_TIE
        sampled.append(Sampled(token_id, logprob, top, near_tie))
    return sampled


def _sample_constrained(
    row: torch.Tensor, state: SamplingState, constraint: Constraint, position: int
) -> Sampled:
    """One row whose token must be among those that its constraint allows."""
    try:
        allowed = constraint.allowed_ids()
    except ShoalError as err:
        return Sampled(NO_TOKEN, failure=err)
    spec = state.spec
    near_tie = False
    if spec.temperature == 0:
        raw = row.cpu().numpy()[allowed]
        best = raw.argmax()
        token_id = int(allowed[best])
        first, raw[best] = raw[best], -np.inf
        near_tie = bool(first - raw.max() < NEAR_TIE)
    if spec.temperature > 0 or spec.changes_logits:
        token_id = _choose(row, state, position, allowed)
    logprob, top = _logprobs(row, token_id, spec.logprobs)
    return Sampled(token_id, logprob, top, near_tie)


def _choose(
    row: torch.Tensor, state: SamplingState, position: int, allowed: Ids | None = None
) -> int:
    logits: Floats = row.detach().to("cpu", torch.float64, copy=True).numpy()
    state.adjust(logits)
    if allowed is not None:
        forbidden = np.ones(logits.shape, dtype=np.bool_)
        forbidden[allowed] = False
        logits[forbidden] = -np.inf
    if state.spec.temperature == 0:
        return int(logits.argmax())
    logits = (logits - logits.max()) / state.spec.temperature
    kept = _kept(logits, state.spec, allowed)
    noise = _gumbel(state.spec.seed, position, kept)
    return int(kept[np.argmax(logits[kept] + noise)])


def _kept(logits: Floats, spec: SamplingSpec, allowed: Ids | None) -> Ids:
    """Ids that the filters leave, ascending, of all or the allowed ones; logits (V,) with maximum
    0, after temperature, -inf where not allowed."""
    kept: Ids = np.arange(logits.shape[0]) if allowed is None else allowed
    if spec.min_p > 0:
        # p / p_max >= min_p, in logs.
        kept = np.flatnonzero(logits >= math.log(spec.min_p))
    if 0 < spec.top_k < kept.shape[0]:
        kept = _most_likely(logits, kept, spec.top_k)
    if spec.top_p < 1:
        kept = _nucleus(logits, kept, spec.top_p)
    return np.sort(kept)


def _most_likely(logits: Floats, ids: Ids, count: int) -> Ids:
    """The `count` ids of highest logit; of equal ones the lowest ids."""
    values = logits[ids]
    bound = np.partition(values, -count)[-count]
    above = ids[values > bound]
    return np.concatenate([above, ids[values == bound][: count - above.shape[0]]])


def _nucleus(logits: Floats, ids: Ids, top_p: float) -> Ids:
    """The fewest most likely ids whose share of `ids`' probability reaches `top_p`."""
    weights = np.exp(logits[ids])
    total = weights.sum()
    # Sorting a whole vocabulary costs milliseconds; nearly every nucleus is within its head.
    for count in (256, ids.shape[0]):
        head = ids if count >= ids.shape[0] else _most_likely(logits, ids, count)
        head = head[np.lexsort((head, -logits[head]))]
        shares = np.cumsum(np.exp(logits[head])) / total
        if shares[-1] >= top_p or count >= ids.shape[0]:
            break
    return head[: int(np.searchsorted(shares, top_p)) + 1]


def _gumbel(seed: int, position: int, ids: Ids) -> Floats:
    """Gumbel noise of `ids` (ascending): number i of the Philox stream of (seed, position).

    Indexed by token id rather than by rank, so that two logits which change places in the last bit
    keep their noise.
    """
    stream = np.random.Philox(key=seed % 2**64, counter=[0, position, 0, 0])
    raw = stream.random_raw(int(ids[-1]) + 1)[ids]
    # The middle of one of 2^52 equal intervals: never 0 and never 1 (2^53 would round to 1).
    uniform = ((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    noise: Floats = -np.log(-np.log(uniform))
    return noise


def _logprobs(
    row: torch.Tensor, token_id: int, count: int
) -> tuple[float | None, tuple[tuple[int, float], ...]]:
    if count < 0:
        return None, ()
    scores = torch.log_softmax(row.double(), dim=-1)
    top: tuple[tuple[int, float], ...] = ()
    if count > 0:
        values, ids = scores.topk(min(count, scores.shape[0]))
        pairs = zip(ids.tolist(), values.tolist(), strict=True)
        top = tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))
    return float(scores[token_id]), top


def _within(ids: "set[int] | Counter[int] | dict[int, float]", vocab_size: int) -> Ids:
    return np.array([token for token in ids if 0 <= token < vocab_size], dtype=np.int64)
