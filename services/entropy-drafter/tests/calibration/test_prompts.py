"""Labelled prompts: what is read, what is refused, what counts as right."""

import json
from pathlib import Path
from typing import Any

import pytest

from shoal_entropy_drafter.calibration.errors import PromptsBroken
from shoal_entropy_drafter.calibration.prompts import Call, Match, calls_of, read_prompts

ASK = [{"role": "user", "content": "12 + 7 = ?"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def write(folder: Path, *entries: Any) -> Path:
    path = folder / "prompts.jsonl"
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    path.write_text("\n".join(lines))
    return path


def test_a_whole_entry_is_read(tmp_path: Path) -> None:
    calls = [{"name": "add", "arguments": {"x": 1}}]
    entry = {
        "id": "a", "messages": ASK, "tools": [TOOL], "calls": calls,
        "task": "sum", "level": "hard", "set": "test",
    }  # fmt: skip
    [prompt] = read_prompts(write(tmp_path, entry))
    assert prompt.calls == (Call("add", {"x": 1}),)
    assert (prompt.prompt_id, prompt.task, prompt.level, prompt.prompt_set) == (
        "a", "sum", "hard", "test",
    )  # fmt: skip
    assert prompt.tools == (TOOL,)


def test_ids_are_line_numbers_where_none_are_given(tmp_path: Path) -> None:
    other = [{"role": "user", "content": "other"}]
    path = write(
        tmp_path, {"messages": ASK, "answer": "19"}, "", {"messages": other, "answer": "x"}
    )
    assert [prompt.prompt_id for prompt in read_prompts(path)] == ["1", "3"]


def test_shipped_benchmarks_are_read() -> None:
    suite = Path(__file__).resolve().parents[4] / "models" / "suite"
    one, other = (read_prompts(suite / f"benchmark-{seed}.jsonl") for seed in (518, 519))
    assert len(one) == len(other) == 518
    assert {prompt.prompt_set for prompt in one} == {"calibrate"}
    assert {prompt.prompt_set for prompt in other} == {"test"}


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{", "not JSON at column 2"),
        ([1], "a line is one JSON object"),
        ({"answer": "x"}, "'messages' is missing or empty"),
        ({"messages": [{"content": "x"}], "answer": "x"}, "'messages[0]' is not an object with"),
        ({"messages": [*ASK, {"role": "assistant", "content": "19"}], "answer": "19"}, "ends with"),
        ({"messages": ASK}, "'answer' is missing"),
        ({"messages": ASK, "answer": " "}, "'answer' is empty"),
        ({"messages": ASK, "answer": 19}, "'answer' is not a string"),
        ({"messages": ASK, "answer": "x", "match": "same"}, "'match' is none of exact, contains"),
        ({"messages": ASK, "answer": "x", "match": []}, "'match' is none of"),
        ({"messages": ASK, "answer": "x", "match": "number"}, "'answer' holds none"),
        ({"messages": ASK, "answer": "(", "match": "regex"}, "not a regular expression"),
        ({"messages": ASK, "answer": "x", "set": "train"}, "'set' is none of calibrate, test"),
        ({"messages": ASK, "answer": "x", "tools": ["add"]}, "OpenAI's function tools"),
        ({"messages": ASK, "calls": [{}]}, "'calls' holds something without a 'name'"),
        ({"messages": ASK, "answer": "x", "tools": {}}, "'tools' is not a list"),
        ({"id": "a", "messages": ASK, "answer": "x"}, "the id 'a' is taken already"),
        (
            {"id": "b", "messages": [{"role": "user", "content": "hi"}], "answer": "x"},
            "stands above",
        ),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path: Path, entry: Any, says: str) -> None:
    first = {"id": "a", "messages": [{"role": "user", "content": "hi"}], "answer": "x"}
    path = write(tmp_path, first, entry)
    with pytest.raises(PromptsBroken) as caught:
        read_prompts(path)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{path}:2: ")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PromptsBroken, match="no such file"):
        read_prompts(tmp_path / "none.jsonl")
    with pytest.raises(PromptsBroken, match="holds no prompts"):
        read_prompts(write(tmp_path, ""))
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PromptsBroken, match="not UTF-8"):
        read_prompts(path)


@pytest.mark.parametrize(
    ("match", "answer", "right", "wrong"),
    [
        ("exact", "It is Rome.", ["It is Rome.", " It is Rome.\n"], ["it is rome.", "Rome", ""]),
        ("contains", "Rome", ["It is ROME!", "Rome"], ["Paris", ""]),
        ("number", "19", ["12 + 7 = 19", "19.0", "it is 19."], ["12 + 7 = 91", "nineteen", "1 9"]),
        ("number", "1,250.5", ["about 1250.5", "1,250.50"], ["1250", "-1250.5"]),
        ("regex", "^(yes|no)$", ["yes", "no"], ["yes!", "maybe"]),
    ],
)
def test_matches(
    tmp_path: Path, match: Match, answer: str, right: list[str], wrong: list[str]
) -> None:
    entry = {"messages": ASK, "answer": answer, "match": match}
    [prompt] = read_prompts(write(tmp_path, entry))
    assert [text for text in right if not prompt.is_right(text)] == []
    assert [text for text in wrong if prompt.is_right(text)] == []


def test_calls_are_compared_as_values(tmp_path: Path) -> None:
    wanted = {"name": "add", "arguments": {"x": 1, "y": "2"}}
    [prompt] = read_prompts(write(tmp_path, {"messages": ASK, "calls": [wanted]}))

    def said(*arguments: str) -> tuple[Call, ...]:
        return calls_of([{"function": {"name": "add", "arguments": each}} for each in arguments])

    assert prompt.is_right("whatever", said('{"y": "2", "x": 1}'))
    assert not prompt.is_right("", said('{"y": "2", "x": 2}'))
    assert not prompt.is_right("", said('{"y": "2", "x": 1'))
    assert not prompt.is_right("", said('{"y": "2", "x": 1}', '{"y": "2", "x": 1}'))
    assert not prompt.is_right('{"x": 1, "y": "2"}')


def test_a_call_nobody_wanted_is_wrong(tmp_path: Path) -> None:
    [prompt] = read_prompts(write(tmp_path, {"messages": ASK, "answer": "19"}))
    assert prompt.is_right("19")
    assert not prompt.is_right("19", (Call("add", {}),))


def test_the_key_is_of_the_question_alone(tmp_path: Path) -> None:
    [one] = read_prompts(write(tmp_path, {"id": "a", "messages": ASK, "answer": "19"}))
    [same] = read_prompts(write(tmp_path, {"id": "b", "messages": ASK, "answer": "20"}))
    [tools] = read_prompts(write(tmp_path, {"messages": ASK, "answer": "19", "tools": [TOOL]}))
    assert one.key == same.key != tools.key
