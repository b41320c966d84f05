"""The fixed prompts on which end-to-end tests compare greedy tokens between splits.

Owns `models/suite/prompts.json`. A prompt qualifies if for both shipped models the best two
logits differ clearly at each of the first 64 greedy tokens, so that no legal difference in the
last bits of a sum can flip one. The end of the turn is written like any token and does not stop.

`python -m recipe.suite choose` draws the file anew, `python -m recipe.suite check` measures it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from recipe.chat import Exchange, Message, user
from recipe.evaluate import Checkpoint, load
from recipe.tables import Tables, load_tables
from recipe.tasks_easy import EASY_TASKS, capital, recall_favorite, recall_name, tool_call
from recipe.tasks_hard import HARD_TASKS
from recipe.tokenizer import tool_schemas

MODELS_PATH = Path(__file__).resolve().parents[1]
SUITE_PATH = MODELS_PATH / "suite" / "prompts.json"
MODEL_NAMES = ("drafter", "heavyweight")
NEW_TOKENS = 64
GAP_MIN = 1e-3
"""Logit units; what the suite promises."""
GAP_CHOSEN_MIN = 1e-2
"""Asked of a new prompt, so that the promise also holds on other machines."""
KIND_COUNTS = {"easy": 7, "hard": 6, "tool": 4, "multi_turn": 3}
SEED = 20


@dataclass(frozen=True)
class Greedy:
    """A model's first greedy tokens and the smallest gap between its best two logits."""

    token_ids: list[int]
    gap_min: float


def prompt_ids(checkpoint: Checkpoint, prompt: Mapping[str, Any]) -> list[int]:
    """Ids of a suite prompt, up to where the answer starts."""
    text = checkpoint.tokenizer.apply_chat_template(
        prompt["messages"], tools=prompt.get("tools"), add_generation_prompt=True, tokenize=False
    )
    ids: list[int] = checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@torch.inference_mode()
def generate(checkpoint: Checkpoint, ids: list[int]) -> Greedy:
    """The first NEW_TOKENS greedy tokens by `transformers`' own `generate`."""
    checkpoint.model.generation_config.eos_token_id = None
    output = checkpoint.model.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return Greedy(output.sequences[0, len(ids) :].tolist(), _gap_min(torch.cat(output.logits)))


@torch.inference_mode()
def replay(checkpoint: Checkpoint, ids: list[int], written: list[int]) -> Greedy:
    """What the model favours at each place of `written`, from one pass without a cache.

    If the favourites equal `written`, then `written` is the greedy continuation.
    """
    logits = checkpoint.model(torch.tensor([ids + written])).logits[0, len(ids) - 1 : -1]
    return Greedy(logits.argmax(dim=-1).tolist(), _gap_min(logits))


def _gap_min(logits: torch.Tensor) -> float:
    best = logits.float().topk(2, dim=-1).values
    return float((best[:, 0] - best[:, 1]).min())


def measure(models: Mapping[str, Checkpoint], suite: Mapping[str, Any]) -> dict[str, float]:
    """Smallest gap per model over the suite. Raises ValueError where recorded tokens differ."""
    gaps = dict.fromkeys(models, float("inf"))
    for prompt in suite["prompts"]:
        for name, checkpoint in models.items():
            written = prompt["greedy"][name]
            found = replay(checkpoint, prompt_ids(checkpoint, prompt), written)
            if found.token_ids != written:
                raise ValueError(f"{name} no longer writes the recorded tokens of {prompt['id']}")
            gaps[name] = min(gaps[name], found.gap_min)
    return gaps


def choose(models: Mapping[str, Checkpoint], tables: Tables) -> dict[str, Any]:
    """Draw candidates of each kind until enough qualify; the same seed gives the same suite."""
    prompts = []
    gaps = dict.fromkeys(models, float("inf"))
    for kind, wanted in KIND_COUNTS.items():
        candidates = CANDIDATES[kind](Random(f"{kind}-{SEED}"), tables)
        for number in range(1, wanted + 1):
            prompt, runs = _next_qualified(models, candidates)
            greedy = {name: run.token_ids for name, run in runs.items()}
            prompts.append({"id": f"{kind}-{number}", "kind": kind, **prompt, "greedy": greedy})
            gaps = {name: min(gap, runs[name].gap_min) for name, gap in gaps.items()}
    return {
        "about": "Greedy tokens (fp32, end of turn ignored) on which every split must agree.",
        "new_tokens": NEW_TOKENS,
        "gap_allowed_min": GAP_MIN,
        "gap_measured_min": gaps,
        "prompts": prompts,
    }


def _next_qualified(
    models: Mapping[str, Checkpoint], candidates: Iterator[dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Greedy]]:
    while True:
        prompt = next(candidates)
        runs = {name: generate(m, prompt_ids(m, prompt)) for name, m in models.items()}
        if all(run.gap_min > GAP_CHOSEN_MIN for run in runs.values()):
            return prompt, runs


def _easy(rng: Random, tables: Tables) -> Iterator[dict[str, Any]]:
    with_history_or_tools = (tool_call, recall_name, recall_favorite)
    easy = [task for task in EASY_TASKS if task.make not in with_history_or_tools]
    yield {"messages": [user("What is the capital of France?")]}
    while True:
        rng.shuffle(easy)
        for task in easy:
            yield _prompt(task.make(rng, tables))


def _hard(rng: Random, tables: Tables) -> Iterator[dict[str, Any]]:
    hard = list(HARD_TASKS)
    while True:
        rng.shuffle(hard)
        for task in hard:
            yield _prompt(task.make(rng, tables))


def _tool(rng: Random, tables: Tables) -> Iterator[dict[str, Any]]:
    """Calls to be made, and every other time the answer after a result in OpenAI's form."""
    wants_result = False
    while True:
        exchange = tool_call(rng, tables)
        has_result = any(message["role"] == "tool" for message in exchange.messages)
        if has_result == wants_result:
            schemas = tool_schemas(exchange.tools, tables.tools)
            yield {"messages": _structured(exchange.prompt), "tools": schemas}
            wants_result = not wants_result


def _structured(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages with written tool calls turned into the `tool_calls` field."""
    structured: list[dict[str, Any]] = []
    for message in messages:
        if not message["content"].startswith("<tool_call>"):
            structured.append(dict(message))
            continue
        call = json.loads(message["content"].split("\n")[1])
        function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
        calls = [{"id": "call_1", "type": "function", "function": function}]
        structured.append({"role": "assistant", "content": None, "tool_calls": calls})
    return structured


def _multi_turn(rng: Random, tables: Tables) -> Iterator[dict[str, Any]]:
    """A system text, a name, a question in between, and the name asked back."""
    system: Message = {"role": "system", "content": "You are a helpful assistant."}
    while True:
        recalled = recall_name(rng, tables)
        middle = capital(rng, tables)
        yield _prompt(Exchange((system, *middle.messages, *recalled.messages)))


def _prompt(exchange: Exchange) -> dict[str, Any]:
    return {"messages": list(exchange.prompt)}


CANDIDATES: dict[str, Callable[[Random, Tables], Iterator[dict[str, Any]]]] = {
    "easy": _easy,
    "hard": _hard,
    "tool": _tool,
    "multi_turn": _multi_turn,
}


def write(path: Path, suite: Mapping[str, Any]) -> None:
    """Write the suite with one prompt per line."""
    head = json.dumps({key: value for key, value in suite.items() if key != "prompts"}, indent=2)
    rows = ",\n".join("    " + json.dumps(prompt) for prompt in suite["prompts"])
    text = head.removesuffix("\n}") + ',\n  "prompts": [\n' + rows + "\n  ]\n}\n"
    path.write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 1 if the suite no longer keeps its promise."""
    parser = argparse.ArgumentParser(description="choose or check the fixed prompts")
    parser.add_argument("action", choices=["choose", "check"])
    action = parser.parse_args(arguments).action
    torch.set_num_threads(1)
    models = {name: load(MODELS_PATH / name) for name in MODEL_NAMES}
    if action == "choose":
        write(SUITE_PATH, choose(models, load_tables()))
    suite = json.loads(SUITE_PATH.read_text(encoding="utf-8"))
    gaps = measure(models, suite)
    for name, gap in gaps.items():
        print(f"{name}: smallest gap {gap:.5f} over {len(suite['prompts'])} prompts")
    return 0 if min(gaps.values()) > GAP_MIN else 1


if __name__ == "__main__":
    sys.exit(main())
