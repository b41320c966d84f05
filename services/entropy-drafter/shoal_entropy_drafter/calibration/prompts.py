"""Prompts with their right answers, one JSON object a line, and when an answer counts as right.

    {"id": "c1", "messages": [{"role": "user", "content": "Capital of France?"}], "answer": "Paris",
     "match": "contains", "tools": [...], "calls": [{"name": "f", "arguments": {"x": 1}}],
     "task": "capital", "level": "easy", "set": "calibrate"}

`messages` and `tools` are OpenAI's. `match` is "exact" (all of it, but for space around it),
"contains" (somewhere in it, whatever the case), "number" (the last number in it) or "regex" (found
in it). With `calls` the answer is these tool calls, in this order, and the text does not count;
without, an answer that calls a tool is wrong. `id`, `task`, `level` and `set` may be missing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from shoal_entropy_drafter.calibration.errors import PromptsBroken

Match = Literal["exact", "contains", "number", "regex"]
PromptSet = Literal["calibrate", "test"]

PROMPTS_MAX = 100_000
LINE_CHARACTERS_MAX = 1 << 20
_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
_NUMBER_SLACK = 1e-9


@dataclass(frozen=True)
class Call:
    """A tool call; `arguments` as a JSON value, whatever the order of its keys was."""

    name: str
    arguments: Any

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": self.arguments}


@dataclass(frozen=True)
class LabelledPrompt:
    """What is asked, and what counts as a right answer to it."""

    prompt_id: str
    messages: tuple[Mapping[str, Any], ...]
    answer: str
    match: Match = "exact"
    tools: tuple[Mapping[str, Any], ...] = ()
    calls: tuple[Call, ...] = ()
    task: str = ""
    level: str = ""
    prompt_set: PromptSet = "calibrate"

    @property
    def key(self) -> str:
        """Digest of what is asked: the same question has the same key in every file."""
        asked = json.dumps([self.messages, self.tools], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()[:32]

    def is_right(self, text: str, calls: Sequence[Call] = ()) -> bool:
        """Whether an answer is right."""
        if tuple(calls) != self.calls:
            return False
        return bool(self.calls) or _matches(self.match, self.answer, text)


def read_prompts(path: Path) -> list[LabelledPrompt]:
    """All prompts of a file. Raises PromptsBroken naming file, line and what is wrong with it."""
    found: list[LabelledPrompt] = []
    ids: set[str] = set()
    keys: set[str] = set()
    for number, line in _lines(path):
        try:
            prompt = _prompt(json.loads(line), default_id=str(number))
        except ValueError as err:
            raise PromptsBroken(path, number, _problem(err)) from err
        if prompt.prompt_id in ids:
            raise PromptsBroken(path, number, f"the id '{prompt.prompt_id}' is taken already")
        if prompt.key in keys:
            raise PromptsBroken(path, number, "the same question stands above already")
        if len(found) == PROMPTS_MAX:
            raise PromptsBroken(path, number, f"more than {PROMPTS_MAX} prompts")
        ids.add(prompt.prompt_id)
        keys.add(prompt.key)
        found.append(prompt)
    if not found:
        raise PromptsBroken(path, 0, "it holds no prompts")
    return found


def calls_of(tool_calls: Sequence[Mapping[str, Any]]) -> tuple[Call, ...]:
    """Calls of an OpenAI answer. Arguments that are not JSON stay text, and equal no others."""
    calls = []
    for entry in tool_calls:
        function = entry.get("function") or {}
        arguments = function.get("arguments") or "{}"
        try:
            value = json.loads(arguments) if isinstance(arguments, str) else arguments
        except ValueError:
            value = arguments
        calls.append(Call(str(function.get("name")), value))
    return tuple(calls)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers from 1. Raises PromptsBroken."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if len(line) > LINE_CHARACTERS_MAX:
                    raise PromptsBroken(
                        path, number, f"longer than {LINE_CHARACTERS_MAX} characters"
                    )
                if line.strip():
                    yield number, line
    except OSError as err:
        raise PromptsBroken(path, 0, (err.strerror or "it cannot be read").lower()) from err
    except UnicodeDecodeError as err:
        raise PromptsBroken(path, 0, "it is not UTF-8 text") from err


def _problem(err: ValueError) -> str:
    if isinstance(err, json.JSONDecodeError):
        return f"not JSON at column {err.colno} ({err.msg.lower()})"
    return str(err)


def _prompt(entry: Any, default_id: str) -> LabelledPrompt:
    """Raises ValueError saying what is wrong."""
    if not isinstance(entry, dict):
        raise ValueError("a line is one JSON object")
    calls = tuple(_call(call) for call in _list(entry, "calls"))
    if "answer" not in entry and not calls:
        raise ValueError("'answer' is missing (or 'calls', where a tool call is the answer)")
    prompt = LabelledPrompt(
        prompt_id=_text(entry, "id", default_id),
        messages=_messages(entry),
        answer=_text(entry, "answer", ""),
        match=_one_of(entry, "match", get_args(Match), "exact"),
        tools=tuple(_tool(tool) for tool in _list(entry, "tools")),
        calls=calls,
        task=_text(entry, "task", ""),
        level=_text(entry, "level", ""),
        prompt_set=_one_of(entry, "set", get_args(PromptSet), "calibrate"),
    )
    if not calls:
        _check_answer(prompt)
    return prompt


def _check_answer(prompt: LabelledPrompt) -> None:
    """Raises ValueError for an answer that nothing, or everything, would match."""
    if not prompt.answer.strip():
        raise ValueError("'answer' is empty")
    if prompt.match == "number" and _last_number(prompt.answer) is None:
        raise ValueError("'match' is number, and 'answer' holds none")
    if prompt.match == "regex":
        try:
            re.compile(prompt.answer)
        except re.error as err:
            raise ValueError(f"'answer' is not a regular expression ({err})") from err


def _messages(entry: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    messages = _list(entry, "messages")
    if not messages:
        raise ValueError("'messages' is missing or empty")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError(f"'messages[{index}]' is not an object with a 'role'")
    if messages[-1]["role"] == "assistant":
        raise ValueError("'messages' ends with the assistant: leave its answer out")
    return tuple(messages)


def _tool(entry: Any) -> Mapping[str, Any]:
    function = entry.get("function") if isinstance(entry, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError("'tools' holds something other than OpenAI's function tools")
    assert isinstance(entry, dict)
    return entry


def _call(entry: Any) -> Call:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise ValueError("'calls' holds something without a 'name'")
    return Call(entry["name"], entry.get("arguments", {}))


def _list(entry: Mapping[str, Any], field: str) -> list[Any]:
    value = entry.get(field)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"'{field}' is not a list")
    return value


def _text(entry: Mapping[str, Any], field: str, otherwise: str) -> str:
    value = entry.get(field, otherwise)
    if not isinstance(value, str):
        raise ValueError(f"'{field}' is not a string")
    return value


def _one_of(entry: Mapping[str, Any], field: str, allowed: Sequence[str], otherwise: str) -> Any:
    value = entry.get(field, otherwise)
    if value not in allowed:
        raise ValueError(f"'{field}' is none of {', '.join(allowed)}")
    return value


def _matches(match: Match, answer: str, text: str) -> bool:
    if match == "contains":
        return answer.strip().casefold() in text.casefold()
    if match == "regex":
        return re.search(answer, text) is not None
    if match == "number":
        wanted, said = _last_number(answer), _last_number(text)
        assert wanted is not None, "the reader refuses such answers"
        return said is not None and abs(said - wanted) <= _NUMBER_SLACK * max(1.0, abs(wanted))
    return text.strip() == answer.strip()


def _last_number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None
