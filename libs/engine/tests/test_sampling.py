"""Draws are pure functions of (seed, position, row), and every filter means what it says."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from shoal_engine.errors import InvalidSampling
from shoal_engine.sampling import (
    Sampled,
    SamplingSpec,
    SamplingState,
    needs_prompt_ids,
    sample,
)

VOCAB_SIZE = 50


def logits_of(seed: int, rows: int = 1, vocab_size: int = VOCAB_SIZE) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocab_size, generator=generator) * 2


def draw(logits: torch.Tensor, position: int = 0, **spec: Any) -> Sampled:
    state = SamplingState(SamplingSpec(**spec))
    return sample(logits.reshape(1, -1), [state], [position])[0]


def reference_kept(row: Sequence[float], spec: SamplingSpec) -> dict[int, float]:
    """Slow and plain: the probabilities that the filters leave, by id."""
    scaled = [value / spec.temperature for value in row]
    highest = max(scaled)
    weights = {token: math.exp(value - highest) for token, value in enumerate(scaled)}
    order = sorted(weights, key=lambda token: (-weights[token], token))
    order = [token for token in order if weights[token] >= spec.min_p]
    if spec.top_k:
        order = order[: spec.top_k]
    total = sum(weights[token] for token in order)
    kept: dict[int, float] = {}
    share = 0.0
    for token in order:
        if share >= spec.top_p:
            break
        kept[token] = weights[token]
        share += weights[token] / total
    total = sum(kept.values())
    return {token: weight / total for token, weight in kept.items()}


def test_greedy_takes_the_highest_and_of_equals_the_lowest_id() -> None:
    logits = torch.zeros(3, VOCAB_SIZE)
    logits[0, 7] = 1.0
    logits[1, [9, 4, 30]] = 2.0
    chosen = sample(logits, [SamplingState(SamplingSpec())] * 3, [0, 1, 2])
    assert [one.token_id for one in chosen] == [7, 4, 0]
    assert chosen[0].logprob is None
    assert chosen[0].top == ()


def test_near_tie_is_recorded_in_greedy_mode_only() -> None:
    logits = torch.zeros(VOCAB_SIZE)
    logits[3], logits[5], logits[6] = 1.0, 1.0 + 5e-6, 0.5
    assert draw(logits).near_tie
    assert draw(logits).token_id == 5
    assert not draw(logits, temperature=1.0).near_tie
    logits[5] = 1.0 + 3e-5
    assert not draw(logits).near_tie


def test_empty_step_samples_nothing() -> None:
    assert sample(torch.zeros(0, VOCAB_SIZE), [], []) == []


def test_same_seed_and_position_draw_alike_whatever_the_neighbours() -> None:
    logits = logits_of(1, rows=6)
    states = [SamplingState(SamplingSpec(temperature=1.0, seed=row, top_p=0.9)) for row in range(6)]
    together = sample(logits, states, range(6))
    for row in reversed(range(6)):
        assert sample(logits[row : row + 1], [states[row]], [row]) == [together[row]]


def test_seed_and_position_both_matter() -> None:
    logits = torch.zeros(VOCAB_SIZE)
    by_position = [draw(logits, position, temperature=1.0).token_id for position in range(40)]
    by_seed = [draw(logits, 0, temperature=1.0, seed=seed).token_id for seed in range(40)]
    assert len(set(by_position)) > 20
    assert len(set(by_seed)) > 20
    assert by_position != by_seed


def test_large_and_negative_seeds_are_seeds() -> None:
    logits = torch.zeros(VOCAB_SIZE)
    for seed in (-1, 2**63, 2**64 - 1):
        first = [draw(logits, p, temperature=1.0, seed=seed).token_id for p in range(20)]
        again = [draw(logits, p, temperature=1.0, seed=seed).token_id for p in range(20)]
        assert first == again
        assert len(set(first)) > 5


def test_draws_are_these_for_ever() -> None:
    # A changed stream would change what replays of running requests continue with.
    logits = torch.zeros(VOCAB_SIZE)
    drawn = [draw(logits, position, temperature=1.0, seed=42).token_id for position in range(8)]
    assert drawn == [16, 19, 26, 23, 43, 23, 42, 14]


def test_last_bit_noise_in_logits_rarely_moves_a_draw() -> None:
    logits = logits_of(3, vocab_size=1000)
    moved = 0
    for position in range(200):
        noise = torch.randn(1000, generator=torch.Generator().manual_seed(position)) * 1e-6
        one = draw(logits, position, temperature=1.0)
        other = draw(logits + noise, position, temperature=1.0)
        moved += one.token_id != other.token_id
    assert moved <= 1


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"top_k": 1},
        {"top_k": 7},
        {"top_k": 500},
        {"top_p": 0.5},
        {"top_p": 1e-9},
        {"min_p": 0.1},
        {"min_p": 1.0},
        {"top_k": 12, "top_p": 0.8, "min_p": 0.05},
        {"temperature": 0.3, "top_p": 0.9},
        {"temperature": 3.0, "min_p": 0.3, "top_p": 0.7},
    ],
    ids=str,
)
def test_filters_keep_what_the_plain_reference_keeps(filters: dict[str, Any]) -> None:
    spec = SamplingSpec(**({"temperature": 1.0} | filters))
    logits = logits_of(5).double().float()
    expected = reference_kept([float(value) for value in logits[0]], spec)
    count = 3000
    drawn = Counter(
        sample(logits, [SamplingState(spec)], [position])[0].token_id for position in range(count)
    )
    assert set(drawn) <= set(expected)
    likely = {token for token, share in expected.items() if share * count > 12}
    assert likely <= set(drawn)
    assert chi_square(drawn, expected, count) < 3.0


def chi_square(drawn: Counter[int], expected: dict[int, float], count: int) -> float:
    """Chi-square per degree of freedom, rare tokens pooled; about 1 for honest draws."""
    rare = {token for token, share in expected.items() if share * count < 5}
    total, cells = 0.0, 0
    for share, seen in [
        *((expected[token], drawn[token]) for token in expected.keys() - rare),
        (sum(expected[token] for token in rare), sum(drawn[token] for token in rare)),
    ]:
        if share * count >= 5:
            total += (seen - share * count) ** 2 / (share * count)
            cells += 1
    return total / max(1, cells - 1)


def test_top_k_keeps_exactly_k_of_equal_tokens() -> None:
    logits = torch.zeros(VOCAB_SIZE)
    logits[30] = 1.0
    drawn = {draw(logits, p, temperature=5.0, top_k=3).token_id for p in range(300)}
    assert drawn == {30, 0, 1}


def test_wide_nucleus_of_a_large_vocabulary_is_complete() -> None:
    logits = torch.zeros(3000)
    drawn = {draw(logits, p, temperature=1.0, top_p=0.5).token_id for p in range(4000)}
    assert max(drawn) < 1500
    assert len(drawn) > 1300


def penalised(
    logits: Sequence[float], spec: SamplingSpec, prompt: list[int], made: list[int]
) -> list[float]:
    """Slow and plain: penalties and bias."""
    result = list(logits)
    for token in range(len(result)):
        if token in prompt or token in made:
            if result[token] > 0:
                result[token] /= spec.repetition_penalty
            else:
                result[token] *= spec.repetition_penalty
        if token in made:
            result[token] -= spec.presence_penalty
            result[token] -= spec.frequency_penalty * made.count(token)
        result[token] += spec.logit_bias.get(token, 0.0)
    return result


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.5},
        {"repetition_penalty": 0.7},
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.8},
        {"presence_penalty": -2.0, "frequency_penalty": 0.4},
        {"logit_bias": {3: 100.0, 4: -100.0, 49: 2.5, 50: 1.0, 99999: 5.0}},
        {"repetition_penalty": 1.2, "presence_penalty": 0.5, "logit_bias": {7: -3.0}},
    ],
    ids=str,
)
def test_penalties_and_bias_match_the_plain_reference(settings: dict[str, Any]) -> None:
    spec = SamplingSpec(**settings)
    prompt, made = [1, 2, 3, 3, 7], [3, 7, 7, 7, 11]
    rows = logits_of(8, rows=30)
    for row in rows:
        state = SamplingState(spec, prompt, made)
        adjusted = row.double().numpy().copy()
        state.adjust(adjusted)
        expected = penalised([float(value) for value in row], spec, prompt, made)
        assert adjusted.tolist() == pytest.approx(expected)
        chosen = sample(row.reshape(1, -1), [state], [0])[0].token_id
        assert chosen == max(range(VOCAB_SIZE), key=lambda token: (expected[token], -token))


def test_sampled_draws_see_penalties_too() -> None:
    spec = SamplingSpec(temperature=1.0, presence_penalty=100.0)
    state = SamplingState(spec)
    drawn = []
    for position in range(VOCAB_SIZE):
        token = sample(logits_of(2), [state], [position])[0].token_id
        state.observe(token)
        drawn.append(token)
    assert sorted(drawn) == list(range(VOCAB_SIZE))


def test_observing_equals_rebuilding() -> None:
    spec = SamplingSpec(temperature=1.0, repetition_penalty=1.3, frequency_penalty=0.5)
    grown = SamplingState(spec, [1, 2])
    for token in (5, 6, 5):
        grown.observe(token)
    rebuilt = SamplingState(spec, [1, 2], [5, 6, 5])
    logits = logits_of(9)
    for position in range(30):
        assert sample(logits, [grown], [position]) == sample(logits, [rebuilt], [position])


def test_sampling_changes_neither_logits_nor_state() -> None:
    logits = logits_of(4)
    before = logits.clone()
    state = SamplingState(SamplingSpec(temperature=1.0, presence_penalty=1.0, logprobs=3), (), [1])
    first = sample(logits, [state], [0])
    assert torch.equal(logits, before)
    assert sample(logits, [state], [0]) == first


def test_logprobs_come_from_the_raw_logits() -> None:
    logits = logits_of(6)
    spec = SamplingSpec(
        temperature=0.5, top_k=2, logprobs=4, logit_bias={7: 50.0}, presence_penalty=1.0
    )
    chosen = sample(logits, [SamplingState(spec, (), [3])], [0])[0]
    expected = torch.log_softmax(logits[0].double(), dim=0)
    assert chosen.token_id == 7
    assert chosen.logprob == pytest.approx(float(expected[7]))
    best = expected.sort(descending=True)
    assert [token for token, _ in chosen.top] == best.indices[:4].tolist()
    assert [value for _, value in chosen.top] == pytest.approx(best.values[:4].tolist())


def test_logprobs_of_the_chosen_token_only_and_of_more_than_there_are() -> None:
    logits = logits_of(6)
    chosen = draw(logits, logprobs=0)
    assert chosen.top == ()
    assert chosen.logprob is not None
    everything = draw(logits, logprobs=1000).top
    assert len(everything) == VOCAB_SIZE
    assert sum(math.exp(value) for _, value in everything) == pytest.approx(1.0)


def test_only_repetition_penalty_needs_the_prompt() -> None:
    assert needs_prompt_ids(SamplingSpec(repetition_penalty=1.1))
    assert not needs_prompt_ids(SamplingSpec(presence_penalty=1.0, frequency_penalty=1.0))


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"presence_penalty": math.nan},
        {"frequency_penalty": math.inf},
        {"logprobs": -2},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": {1: math.nan}},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidSampling, match=next(iter(settings))):
        SamplingSpec(**settings)
