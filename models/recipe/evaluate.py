"""Measures exported models on the held-out benchmark.

`python -m recipe.evaluate DRAFTER HEAVYWEIGHT` prints accuracy per task, how well entropy tells
the drafter's errors, what a cascade costs at each threshold, and speculative acceptance.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipe.corpus import BenchmarkItem, benchmark
from recipe.metrics import Answer, accepted_proposals, cascade, wrongness_auroc
from recipe.tables import Tables, load_tables
from recipe.tokenizer import TURN_END, tool_schemas

ANSWER_TOKENS_MAX = 64
BATCH_SIZE = 74
TOP_CANDIDATES = 20
WINDOWS = (1, 2, 4, 8, 16)
CASCADE_WINDOW = 4
THRESHOLDS_BITS = (0.05, 0.1, 0.2, 0.5, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
PROPOSALS_MAX = 4


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model folder, in fp32 on the CPU."""

    model: Any
    tokenizer: Any

    @property
    def parameter_count(self) -> int:
        """Parameters, the tied head counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def load(folder: Path) -> Checkpoint:
    """Load an exported folder the way any user of `transformers` would."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return Checkpoint(model.eval(), AutoTokenizer.from_pretrained(folder, padding_side="left"))


def prompt_text(checkpoint: Checkpoint, item: BenchmarkItem, tables: Tables) -> str:
    """The prompt as the model's own chat template renders it."""
    text = checkpoint.tokenizer.apply_chat_template(
        list(item.exchange.prompt),
        tools=tool_schemas(item.exchange.tools, tables.tools) or None,
        add_generation_prompt=True,
        tokenize=False,
    )
    assert isinstance(text, str)
    return text


def entropy_bits(logits: Tensor) -> Tensor:
    """Entropy of the renormalised TOP_CANDIDATES most likely tokens. logits: (B, V) -> (B,)."""
    top = torch.log_softmax(logits.float(), dim=-1).topk(TOP_CANDIDATES).values
    share = torch.softmax(top, dim=-1)
    return -(share * torch.log2(share.clamp_min(torch.finfo(share.dtype).tiny))).sum(dim=-1)


def answer_all(
    checkpoint: Checkpoint, items: Sequence[BenchmarkItem], tables: Tables
) -> list[Answer]:
    """Greedy answers to all items, in their order; right means equal to the last character."""
    prompts = [prompt_text(checkpoint, item, tables) for item in items]
    by_length = sorted(range(len(items)), key=lambda index: len(prompts[index]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(items), BATCH_SIZE):
        indices = by_length[start : start + BATCH_SIZE]
        wanted = [items[index].exchange.answer for index in indices]
        batch = _answer_batch(checkpoint, [prompts[index] for index in indices], wanted)
        answers.update(zip(indices, batch, strict=True))
    return [answers[index] for index in range(len(items))]


@torch.inference_mode()
def _answer_batch(checkpoint: Checkpoint, prompts: list[str], wanted: list[str]) -> list[Answer]:
    tokenizer = checkpoint.tokenizer
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    output = checkpoint.model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=ANSWER_TOKENS_MAX,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    written = output.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    entropies = torch.stack([entropy_bits(step) for step in output.logits], dim=1).tolist()
    turn_end = tokenizer.convert_tokens_to_ids(TURN_END)
    answers = []
    for ids, bits, text in zip(written, entropies, wanted, strict=True):
        length = ids.index(turn_end) + 1 if turn_end in ids else len(ids)
        is_right = tokenizer.decode(ids[:length], skip_special_tokens=True) == text
        answers.append(Answer(tuple(ids[:length]), tuple(bits[:length]), is_right))
    return answers


@torch.inference_mode()
def draft_matches(drafter: Checkpoint, prompt: str, written: Sequence[int]) -> list[bool]:
    """For each token of the heavyweight's answer: would the drafter have written it here?"""
    prompt_ids = drafter.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    logits = drafter.model(torch.tensor([[*prompt_ids, *written]])).logits[0]
    favoured = logits[len(prompt_ids) - 1 : -1].argmax(dim=-1).tolist()
    return [mine == theirs for mine, theirs in zip(favoured, written, strict=True)]


def accuracy_lines(
    items: Sequence[BenchmarkItem], drafts: Sequence[Answer], heavies: Sequence[Answer]
) -> list[str]:
    """Table of accuracies per task, per level and over all."""
    lines = ["| level | task | prompts | drafter | heavyweight |", "|---|---|---|---|---|"]
    groups: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        level = item.task.level
        for label in (f"{level} | {item.task.name}", f"{level} | all", "all | all"):
            groups.setdefault(label, []).append(index)
    for label, chosen in sorted(groups.items()):
        draft, heavy = (
            sum(answers[index].is_right for index in chosen) / len(chosen)
            for answers in (drafts, heavies)
        )
        lines.append(f"| {label} | {len(chosen)} | {draft:.3f} | {heavy:.3f} |")
    return lines


def cascade_lines(
    drafts: Sequence[Answer], heavies: Sequence[Answer], parameter_ratio: float
) -> list[str]:
    """AUROC per window and the threshold sweep."""
    lines = [
        f"entropy tells the drafter's errors, {window}-token window: "
        f"AUROC {wrongness_auroc(drafts, window):.3f}"
        for window in WINDOWS
    ]
    lines += ["| threshold bits | escalated | accuracy | cost |", "|---|---|---|---|"]
    for threshold in THRESHOLDS_BITS:
        point = cascade(drafts, heavies, parameter_ratio, CASCADE_WINDOW, threshold)
        lines.append(
            f"| {threshold} | {point.escalated_share:.1%} | {point.accuracy:.3f} "
            f"| {point.cost:.3f} |"
        )
    return lines


def speculation_line(
    drafter: Checkpoint,
    items: Sequence[BenchmarkItem],
    heavies: Sequence[Answer],
    tables: Tables,
) -> str:
    """Acceptance of the drafter's greedy proposals; needs a shared tokenizer."""
    accepted = proposed = passes = tokens = 0
    for item, heavy in zip(items, heavies, strict=True):
        matches = draft_matches(drafter, prompt_text(drafter, item, tables), heavy.token_ids)
        more = accepted_proposals(matches, PROPOSALS_MAX)
        accepted, proposed, passes = accepted + more[0], proposed + more[1], passes + more[2]
        tokens += len(matches)
    return (
        f"speculation, {PROPOSALS_MAX} proposals: {accepted / proposed:.3f} accepted, "
        f"{tokens / passes:.2f} tokens per pass"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module docstring."""
    parser = argparse.ArgumentParser(description="measure a drafter and a heavyweight")
    parser.add_argument("drafter", type=Path)
    parser.add_argument("heavyweight", type=Path)
    parser.add_argument("--seed", type=int, default=518, help="which benchmark is drawn")
    parser.add_argument("--easy", type=int, default=300, help="easy prompts")
    parser.add_argument("--hard", type=int, default=218, help="hard prompts")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    tables = load_tables()
    items = benchmark(options.seed, tables, options.easy, options.hard)
    drafter, heavyweight = load(options.drafter), load(options.heavyweight)
    drafts = answer_all(drafter, items, tables)
    heavies = answer_all(heavyweight, items, tables)
    ratio = drafter.parameter_count / heavyweight.parameter_count
    lines = [*accuracy_lines(items, drafts, heavies), *cascade_lines(drafts, heavies, ratio)]
    if drafter.tokenizer.get_vocab() == heavyweight.tokenizer.get_vocab():
        lines.append(speculation_line(drafter, items, heavies, tables))
    else:
        lines.append("speculation: not measured, the two models have different tokenizers")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
