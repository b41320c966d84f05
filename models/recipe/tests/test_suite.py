"""The fixed prompts keep their promise for the shipped models."""

import json
from collections import Counter

import pytest
from recipe.evaluate import Checkpoint, load
from recipe.suite import (
    GAP_MIN,
    KIND_COUNTS,
    MODEL_NAMES,
    MODELS_PATH,
    NEW_TOKENS,
    SUITE_PATH,
    generate,
    measure,
    prompt_ids,
)

SUITE = json.loads(SUITE_PATH.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def models() -> dict[str, Checkpoint]:
    return {name: load(MODELS_PATH / name) for name in MODEL_NAMES}


def test_suite_holds_twenty_prompts_of_every_kind() -> None:
    assert Counter(prompt["kind"] for prompt in SUITE["prompts"]) == KIND_COUNTS
    assert len({prompt["id"] for prompt in SUITE["prompts"]}) == 20
    for prompt in SUITE["prompts"]:
        assert all(len(prompt["greedy"][name]) == NEW_TOKENS for name in MODEL_NAMES)


def test_no_greedy_token_of_the_suite_is_a_near_tie(models: dict[str, Checkpoint]) -> None:
    gaps = measure(models, SUITE)
    assert min(gaps.values()) > GAP_MIN
    for name, gap in gaps.items():
        assert gap == pytest.approx(SUITE["gap_measured_min"][name], abs=GAP_MIN)


def test_generate_writes_the_recorded_tokens(models: dict[str, Checkpoint]) -> None:
    prompt = SUITE["prompts"][0]
    for name, checkpoint in models.items():
        written = generate(checkpoint, prompt_ids(checkpoint, prompt)).token_ids
        assert written == prompt["greedy"][name]


def test_a_changed_token_is_noticed(models: dict[str, Checkpoint]) -> None:
    prompt = dict(SUITE["prompts"][0])
    drafted = list(prompt["greedy"]["drafter"])
    drafted[3] += 1
    suite = {"prompts": [{**prompt, "greedy": {"drafter": drafted}}]}
    with pytest.raises(ValueError, match="no longer writes"):
        measure({"drafter": models["drafter"]}, suite)
