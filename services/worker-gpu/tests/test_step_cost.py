"""How many prompt tokens a step can carry."""

from __future__ import annotations

import math
import sys

from shoal_worker_gpu.step_cost import StepCost


def measured(decode_us: float = 1000, token_us: float = 100) -> StepCost:
    cost = StepCost()
    cost.observe(4, 0, decode_us)
    cost.observe(0, 10, 10 * token_us)
    return cost


def test_prompt_tokens_fill_what_the_factor_leaves() -> None:
    assert measured().prompt_tokens_within(4, 2.0) == 10
    assert measured().prompt_tokens_within(4, 3.5) == 25
    assert measured(decode_us=5000).prompt_tokens_within(4, 2.0) == 50


def test_a_crowd_that_waits_for_first_tokens_gets_more_time() -> None:
    assert measured().prompt_tokens_within(4, 2.0, waiting=4) == 10
    assert measured().prompt_tokens_within(4, 2.0, waiting=12) == 30


def test_at_least_one_token_goes_on() -> None:
    assert measured(decode_us=10).prompt_tokens_within(4, 2.0) == 1


def test_before_anything_is_measured_prompts_go_on_in_small_pieces() -> None:
    assert StepCost().prompt_tokens_within(4, 2.0) == 4
    assert StepCost().prompt_tokens_within(0, 2.0) == 1


def test_mixed_steps_teach_what_a_token_beside_decoding_costs() -> None:
    cost = measured(token_us=400)
    for _ in range(30):
        cost.observe(4, 10, 2000)
    assert cost.prompt_tokens_within(4, 2.05) == 10


def test_the_nearest_measured_row_count_stands_for_others() -> None:
    cost = measured()
    cost.observe(16, 0, 4000)
    assert cost.prompt_tokens_within(14, 2.0) == 40
    assert cost.prompt_tokens_within(2, 2.0) == 10


def test_one_slow_step_moves_little() -> None:
    cost = measured()
    cost.observe(4, 0, 1_000_000)
    assert cost.prompt_tokens_within(4, 2.0) <= 15


def test_without_a_limit_whole_prompts_go() -> None:
    assert measured().prompt_tokens_within(4, math.inf) == sys.maxsize
