"""Writes the held-out benchmark as files of labelled prompts, as `shoal calibrate` reads them.

Owns `models/suite/benchmark-518.jsonl`, to choose a threshold on, and `benchmark-519.jsonl`, to
report it on. `python -m recipe.benchmark_files` writes them, with `--check` it says whether they
are what the generator makes.

Tool calls are written as OpenAI's clients would send and get them; a chat template makes the text
of them that the models were trained on.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe.chat import Message
from recipe.corpus import BenchmarkItem, benchmark
from recipe.tables import Tables, load_tables
from recipe.tokenizer import TOOL_TAGS, tool_schemas

SUITE_FOLDER = Path(__file__).resolve().parents[1] / "suite"
SETS = {518: "calibrate", 519: "test"}
EASY_COUNT, HARD_COUNT = 300, 218


def path_of(seed: int) -> Path:
    """Where the benchmark of a seed lies."""
    return SUITE_FOLDER / f"benchmark-{seed}.jsonl"


def text_of(seed: int, tables: Tables) -> str:
    """The file of a seed: one JSON object a line."""
    items = benchmark(seed, tables, EASY_COUNT, HARD_COUNT)
    entries = (entry_of(f"{seed}-{n}", item, tables, SETS[seed]) for n, item in enumerate(items, 1))
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def entry_of(prompt_id: str, item: BenchmarkItem, tables: Tables, set_name: str) -> dict[str, Any]:
    """One labelled prompt."""
    exchange = item.exchange
    entry: dict[str, Any] = {"id": prompt_id, "messages": _messages(exchange.prompt)}
    if exchange.tools:
        entry["tools"] = tool_schemas(exchange.tools, tables.tools)
    call = call_in(exchange.answer)
    entry |= {"answer": exchange.answer, "match": "exact"} if call is None else {"calls": [call]}
    return entry | {"task": item.task.name, "level": str(item.task.level), "set": set_name}


def call_in(text: str) -> dict[str, Any] | None:
    """The tool call that a text is, name and arguments; None for any other text."""
    opening, closing = TOOL_TAGS
    if not (text.startswith(opening) and text.endswith(closing)):
        return None
    call: dict[str, Any] = json.loads(text.removeprefix(opening).removesuffix(closing))
    return call


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """With calls and their results in OpenAI's form."""
    found: list[dict[str, Any]] = []
    call_id = ""
    for message in messages:
        call = call_in(message["content"]) if message["role"] == "assistant" else None
        if call is not None:
            call_id = f"call_{len(found)}"
            found.append(_calling(call_id, call))
        elif message["role"] == "tool":
            found.append({**message, "tool_call_id": call_id})
        else:
            found.append(dict(message))
    return found


def _calling(call_id: str, call: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
    calls = [{"id": call_id, "type": "function", "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the module docstring."""
    parser = argparse.ArgumentParser(description="write the benchmark as labelled prompts")
    parser.add_argument("--check", action="store_true", help="write nothing, fail when they differ")
    options = parser.parse_args(arguments)
    tables = load_tables()
    for seed in SETS:
        path, text = path_of(seed), text_of(seed, tables)
        if not options.check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            sys.exit(
                f"{path} is not what the generator makes: run python -m recipe.benchmark_files"
            )


if __name__ == "__main__":
    main()
