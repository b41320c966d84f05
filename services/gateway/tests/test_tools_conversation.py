"""Earlier calls as templates of different families want them.

The templates here are written for these tests; each does with calls what its family's does.
"""

from __future__ import annotations

from typing import Any

import pytest

from shoal_common.tokens.template_worker import make_environment
from shoal_gateway.conversation import (
    HistoryStyle,
    needs_style,
    probe_conversations,
    style_of,
    template_variables,
)
from shoal_gateway.task import ChatTask, Message, Thinking, Tool, ToolCall, ToolChoice

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def template(call: str, before: str = "", result: str = "{{ m.content }}") -> str:
    return (
        "{% for m in messages %}{% if m.role == 'tool' %}[" + result + "]"
        "{% elif m.tool_calls is defined %}" + before + "{{ m.content }}"
        "{% for c in m.tool_calls %}" + call + "{% endfor %};"
        "{% else %}({{ m.content }}){% endif %}{% endfor %}"
    )


ONE_ONLY = "{% if m.tool_calls|length != 1 %}{{ raise_exception('one at a time') }}{% endif %}"
NINE = "{% if c.id|length != 9 %}{{ raise_exception('nine characters') }}{% endif %}"
# Arguments always through `tojson`, as Qwen 2.5's.
DUMPS = template("<tool_call>{{ c.function.name }} {{ c.function.arguments | tojson }}")
# Text as it is, objects as JSON, as Qwen 3's.
BOTH = template(
    "<tool_call>{% if c.function.arguments is string %}{{ c.function.arguments }}"
    "{% else %}{{ c.function.arguments | tojson }}{% endif %}"
)
# One call a message, as Llama 3.1's.
SINGLE = template('{"name": "{{ c.function.name }}", "parameters": '
                  "{{ c.function.arguments | tojson }}}", before=ONE_ONLY)  # fmt: skip
# The whole function as JSON, ids of nine characters, as Mistral's.
SHORT = template(NINE + "[TOOL_CALLS]{{ c.function | tojson }}{{ c.id }}",
                 result="{{ m.content }}{{ m.tool_call_id }}")  # fmt: skip
# Text joined to text, as DeepSeek R1's.
JOINS = template("{{ c.function.name + '\\n' + c.function.arguments }}")
# Every argument by itself, as GLM's.
ITEMS = template("{% set a = c.function.arguments %}{% for k, v in a.items() %}{{ k }}={{ v }} "
                 "{% endfor %}")  # fmt: skip
# The results' names, as Hermes'.
NAMED = template("{{ c.function.name }}", result="{{ m.name }}: {{ m.content }}")


def render(source: str, variables: dict[str, Any]) -> str:
    return make_environment().from_string(source).render(**variables)


def style(source: str) -> HistoryStyle:
    texts = []
    for variables in probe_conversations(SPECIAL):
        try:
            texts.append(render(source, variables))
        # A template can raise anything.
        except Exception:
            texts.append("")
    return style_of((texts[0], texts[1], texts[2]), source)


def shown(source: str, *messages: Message) -> str:
    variables = template_variables(ChatTask("m", messages), SPECIAL, style(source))
    return render(source, variables)


ASKED = Message("user", "hi")
CALLED = Message("assistant", "", tool_calls=(ToolCall("call_1", "f", '{"x":1}'),))
ANSWERED = Message("tool", "one", tool_call_id="call_1")
TWO = Message(
    "assistant",
    "So.",
    tool_calls=(ToolCall("call_1", "f", '{"x":1}'), ToolCall("call_2", "g", "{}")),
)
ANSWERS = (Message("tool", "two", tool_call_id="call_2"), ANSWERED)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (DUMPS, HistoryStyle()),
        (BOTH, HistoryStyle(reads_text=True)),
        (SINGLE, HistoryStyle(is_single=True)),
        (SHORT, HistoryStyle(has_short_ids=True)),
        (JOINS, HistoryStyle(reads_text=True)),
        (ITEMS, HistoryStyle()),
        ("{{ raise_exception('no') }}", HistoryStyle()),
    ],
)
def test_a_template_shows_what_it_wants(source: str, expected: HistoryStyle) -> None:
    assert style(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (DUMPS, '<tool_call>f {"x": 1}'),
        (BOTH, '<tool_call>{"x":1}'),
        (SINGLE, '{"name": "f", "parameters": {"x": 1}}'),
        (JOINS, 'f\n{"x":1}'),
        (ITEMS, "x=1 "),
    ],
)
def test_arguments_are_never_written_twice_as_json(source: str, expected: str) -> None:
    assert shown(source, ASKED, CALLED, ANSWERED) == f"(hi){expected};[one]"


def test_arguments_that_are_no_object_stay_as_they_were_written() -> None:
    for text in ('{"x": ', "[1]", "7"):
        broken = Message("assistant", "", tool_calls=(ToolCall("call_1", "f", text),))
        variables = template_variables(ChatTask("m", (broken,)), SPECIAL, HistoryStyle())
        assert variables["messages"][0]["tool_calls"][0]["function"]["arguments"] == text
        assert shown(JOINS, broken) == f"f\n{text};"


def test_no_arguments_are_an_empty_object() -> None:
    empty = Message("assistant", "", tool_calls=(ToolCall("call_1", "f", ""),))
    assert shown(DUMPS, empty) == "<tool_call>f {};"
    assert shown(JOINS, empty) == "f\n{};"


def test_calls_made_at_once_are_told_in_turn_where_a_template_takes_one() -> None:
    text = shown(SINGLE, ASKED, TWO, *ANSWERS, Message("user", "and?"))
    assert text == (
        '(hi)So.{"name": "f", "parameters": {"x": 1}};[one]'
        '{"name": "g", "parameters": {}};[two](and?)'
    )
    assert shown(DUMPS, ASKED, TWO, *ANSWERS).count(";") == 1


def test_short_ids_join_a_result_to_its_call() -> None:
    text = shown(SHORT, CALLED, ANSWERED)
    call_id = text.split("}")[-1].split(";")[0]
    assert len(call_id) == 9
    assert call_id.isalnum()
    assert text.endswith(f";[one{call_id}]")
    own = Message("assistant", "", tool_calls=(ToolCall("abcDEF123", "f", "{}"),))
    assert "abcDEF123" in shown(SHORT, own)


def test_a_result_is_named_after_its_call() -> None:
    assert shown(NAMED, CALLED, ANSWERED) == "f;[f: one]"
    assert shown(NAMED, CALLED, Message("tool", "x", tool_call_id="call_1", name="own")) == (
        "f;[own: x]"
    )


def test_only_conversations_with_calls_need_to_know_the_style() -> None:
    assert needs_style(ChatTask("m", (ASKED, CALLED)))
    assert not needs_style(ChatTask("m", (ASKED, Message("assistant", "ho"))))


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("", {}),
        ("off", {"enable_thinking": False, "thinking": False}),
        ("on", {"enable_thinking": True, "thinking": True}),
        ("low", {"enable_thinking": True, "thinking": True, "reasoning_effort": "low"}),
    ],
)
def test_every_family_finds_its_word_for_thinking(level: str, expected: dict[str, Any]) -> None:
    task = ChatTask("m", (ASKED,), thinking=Thinking(level))
    variables = template_variables(task, {}, HistoryStyle())
    names = ("enable_thinking", "thinking", "reasoning_effort")
    assert {name: variables[name] for name in names if name in variables} == expected


def test_tools_are_hidden_where_none_may_be_called() -> None:
    task = ChatTask("m", (ASKED,), tools=(Tool("f"),), tool_choice=ToolChoice("none"))
    assert template_variables(task, {}, HistoryStyle())["tools"] is None


def test_a_failed_result_says_so_in_its_text() -> None:
    failed = Message("tool", "no city", tool_call_id="1", is_error=True)
    task = ChatTask("m", (ASKED, CALLED, failed))
    assert template_variables(task, {}, HistoryStyle())["messages"][2]["content"] == (
        "Error: no city"
    )
