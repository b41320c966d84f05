"""The shipped files of labelled prompts."""

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest
from recipe import benchmark_files
from recipe.chat import Exchange
from recipe.corpus import benchmark
from recipe.tables import Tables
from recipe.tokenizer import TEMPLATE_PATH, TURN_START, render

ANSWERING = f"{TURN_START}assistant\n"


def entries(seed: int) -> list[dict[str, Any]]:
    lines = benchmark_files.path_of(seed).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_files_are_what_the_generator_makes() -> None:
    benchmark_files.main(["--check"])


def test_a_changed_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_files, "SUITE_FOLDER", tmp_path)
    with pytest.raises(SystemExit, match="is not what the generator makes"):
        benchmark_files.main(["--check"])


def test_no_prompt_is_in_both_files() -> None:
    one, other = ({json.dumps(entry["messages"]) for entry in entries(s)} for s in (518, 519))
    assert len(one) == len(other) == 518
    # Small talk is a closed list with few held-out prompts, and tables of facts are short.
    shared = one & other
    assert len(shared) < 518 / 2


@pytest.mark.parametrize("seed", [518, 519])
def test_the_template_makes_the_training_text_of_the_prompts(seed: int, tables: Tables) -> None:
    template = jinja2.Environment().from_string(TEMPLATE_PATH.read_text(encoding="utf-8"))
    for item, entry in zip(benchmark(seed, tables), entries(seed), strict=True):
        prompt = Exchange(item.exchange.prompt, item.exchange.tools)
        text = "".join(segment.text for segment in render(prompt, tables.tools)) + ANSWERING
        shown = template.render(
            messages=entry["messages"], tools=entry.get("tools"), add_generation_prompt=True
        )
        assert shown == text


def test_answers_are_the_generators(tables: Tables) -> None:
    called = 0
    for item, entry in zip(benchmark(518, tables), entries(518), strict=True):
        if "calls" in entry:
            called += 1
            [call] = entry["calls"]
            assert json.dumps(call) in item.exchange.answer
        else:
            assert entry["answer"] == item.exchange.answer
        assert entry["task"] == item.task.name
    assert 5 < called <= 22
