"""What demanded calls and formats let a model write, judged by the library that engines use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from shoal_common.tokens import ModelTokens
from shoal_gateway.collect import Collected
from shoal_gateway.shape import Reading, ReadingRules, reading_of
from shoal_gateway.task import ChatTask, Message, ReplyFormat, TextDelta, Thinking, Tool, ToolChoice
from shoal_gateway.tools.grammar import grammar_of

llguidance = pytest.importorskip("llguidance")

MAX_TOKENS = 100
TOKENIZER = Path(__file__).parents[3] / "models" / "heavyweight" / "tokenizer.json"
SPECIAL = ("[TOOL_CALLS]", "[ARGS]", "<|python_tag|>")
PLAIN = ("<think>", "</think>")
WEATHER = Tool(
    "weather",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
CLOCK = Tool('the "clock"')
PARIS = '{"city": "Paris", "days": 2}'
REQUIRED = ToolChoice("required")
TEMPLATES = {
    "hermes": "<tool_call>",
    "llama3": "<|start_header_id|>",
    "mistral": "[TOOL_CALLS]",
    "named": "[TOOL_CALLS] [ARGS]",
    "json": "",
}


@pytest.fixture(scope="module")
def tokens() -> ModelTokens:
    """The demo vocabulary with the marks of other families."""
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False) for text in PLAIN])
    return ModelTokens.from_files({"tokenizer.json": tokenizer.to_str().encode()})


class Judge:
    """Says which texts a grammar lets through whole."""

    def __init__(self, tokens: ModelTokens) -> None:
        self._tokens = tokens
        source = tokens.tokenizer.to_str()
        size = tokens.tokenizer.get_vocab_size()
        self._table = llguidance.LLTokenizer(source, n_vocab=size, eos_token=[2])

    def accepts(self, task: ChatTask, reading: Reading, text: str) -> bool:
        spec = grammar_of(task, reading, MAX_TOKENS)
        assert spec is not None
        assert spec.WhichOneof("kind") == "lark", spec
        source = llguidance.LLMatcher.grammar_from_lark(spec.lark)
        matcher = llguidance.LLMatcher(self._table, source, log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        ids = self._tokens.encode(text)
        return all(matcher.consume_token(token) for token in ids) and matcher.is_accepting()


@pytest.fixture(scope="module")
def judge(tokens: ModelTokens) -> Judge:
    return Judge(tokens)


def task(**fields: Any) -> ChatTask:
    values: dict[str, Any] = {"tools": (WEATHER, CLOCK), "tool_choice": REQUIRED} | fields
    return ChatTask(model="m", messages=(Message("user", "hi"),), **values)


def reading(asked: ChatTask, tokens: ModelTokens, kind: str, prompt: str = "") -> Reading:
    return reading_of(asked, TEMPLATES[kind], prompt, tokens, ReadingRules())


# A call of each format, and how two of them stand together; "" where only one can.
CALLS = [
    ("hermes", '<tool_call>\n{"name": "weather", "arguments": %s}\n</tool_call>', "\n"),
    ("llama3", '{"name": "weather", "parameters": %s}', ""),
    ("named", "[TOOL_CALLS]weather[ARGS]%s", "[TOOL_CALLS]weather[ARGS]%s"),
    ("json", '{"name": "weather", "arguments": %s}', ""),
]


@pytest.mark.parametrize(("kind", "call"), [(kind, call) for kind, call, _ in CALLS])
def test_a_demanded_call_is_written_as_the_model_writes_it_and_read_again(
    kind: str, call: str, judge: Judge, tokens: ModelTokens
) -> None:
    asked = task()
    how = reading(asked, tokens, kind)
    assert judge.accepts(asked, how, call % PARIS)
    assert not judge.accepts(asked, how, call % '{"city": 1}')
    assert not judge.accepts(asked, how, call.replace("weather", "nobody") % PARIS)
    assert not judge.accepts(asked, how, "Paris")
    shape = how.shape(())
    whole = Collected()
    for content in [*shape.feed(TextDelta(call % PARIS)), *shape.flush()]:
        whole.add(content)
    assert [(one.name, one.arguments) for one in whole.calls] == [("weather", PARIS)]
    assert not whole.text


def test_mistral_lists_its_calls(judge: Judge, tokens: ModelTokens) -> None:
    asked = task()
    how = reading(asked, tokens, "mistral")
    call = CALLS[3][1] % PARIS
    assert judge.accepts(asked, how, f"[TOOL_CALLS] [{call}]")
    assert judge.accepts(asked, how, f"[TOOL_CALLS][{call}, {call}]")
    single = replace(asked, allows_parallel_calls=False)
    how = reading(single, tokens, "mistral")
    assert judge.accepts(single, how, f"[TOOL_CALLS][{call}]")
    assert not judge.accepts(single, how, f"[TOOL_CALLS][{call}, {call}]")


def test_several_calls_only_where_they_are_allowed(judge: Judge, tokens: ModelTokens) -> None:
    two = "\n".join([CALLS[0][1] % PARIS] * 2)
    asked = task()
    assert judge.accepts(asked, reading(asked, tokens, "hermes"), two)
    for other in (
        replace(asked, allows_parallel_calls=False),
        replace(asked, tool_choice=ToolChoice("named", "weather")),
    ):
        assert not judge.accepts(other, reading(other, tokens, "hermes"), two)


def test_a_named_choice_leaves_one_tool(judge: Judge, tokens: ModelTokens) -> None:
    asked = task(tool_choice=ToolChoice("named", 'the "clock"'))
    how = reading(asked, tokens, "json")
    assert judge.accepts(asked, how, '{"name": "the \\"clock\\"", "arguments": {"any": [1]}}')
    assert not judge.accepts(asked, how, CALLS[3][1] % PARIS)


def test_thoughts_come_first_and_are_free(judge: Judge, tokens: ModelTokens) -> None:
    asked = task()
    call = CALLS[0][1] % PARIS
    template = "<tool_call> <think>"
    thinks = reading_of(asked, template, "", tokens, ReadingRules())
    assert judge.accepts(asked, thinks, f"<think>\nso {{ it is\n</think>\n\n{call}")
    assert judge.accepts(asked, thinks, call)
    assert not judge.accepts(asked, thinks, f"so it is {call}")
    inside = reading_of(asked, template, "<|im_start|>assistant\n<think>\n", tokens, ReadingRules())
    assert judge.accepts(asked, inside, f"so it is</think>\n{call}")
    assert not judge.accepts(asked, inside, call)
    done = reading_of(asked, template, "<think>\n\n</think>\n\n", tokens, ReadingRules())
    assert judge.accepts(asked, done, call)
    assert not judge.accepts(asked, done, f"<think>no</think>{call}")
    kept = reading_of(asked, template, "", tokens, ReadingRules(reasoning_mode="preserve"))
    assert not judge.accepts(asked, kept, f"<think>no</think>{call}")


THINKS = "<tool_call> <think>"
INSIDE = "<|im_start|>assistant\n<think>\n"


@pytest.mark.parametrize(("prompt", "opening"), [(INSIDE, ""), ("", "<think>")])
def test_thoughts_end_at_their_budget(
    prompt: str, opening: str, judge: Judge, tokens: ModelTokens
) -> None:
    words = "one two three four five"
    budget = len(tokens.encode(words))
    plain = task(tool_choice=ToolChoice(), thinking=Thinking("on", budget))
    how = reading_of(plain, THINKS, prompt, tokens, ReadingRules())
    call = CALLS[0][1] % PARIS
    assert judge.accepts(plain, how, f"{opening}{words}</think>\n\nYes, {words} <b>. {call}")
    assert judge.accepts(plain, how, f"{opening}one</think>")
    assert not judge.accepts(plain, how, f"{opening}{words} six</think>Yes.")
    assert not judge.accepts(plain, how, f"{opening}{words}")
    demanded = replace(plain, tool_choice=REQUIRED)
    assert judge.accepts(demanded, how, f"{opening}{words}</think>\n{call}")
    assert not judge.accepts(demanded, how, f"{opening}{words} six</think>\n{call}")
    formatted = replace(plain, tools=(), reply_format=ReplyFormat("json_object", "f"))
    how = reading_of(formatted, THINKS, prompt, tokens, ReadingRules())
    assert judge.accepts(formatted, how, f"{opening}{words}</think>\n{{}}")
    assert not judge.accepts(formatted, how, f"{opening}{words} six</think>\n{{}}")


def test_a_reply_with_a_budget_need_not_think(judge: Judge, tokens: ModelTokens) -> None:
    asked = task(tool_choice=ToolChoice(), thinking=Thinking("on", 2))
    how = reading_of(asked, THINKS, "", tokens, ReadingRules())
    for text in ("", "Yes, that is so. 🦈", CALLS[0][1] % PARIS):
        assert judge.accepts(asked, how, text)
    done = reading_of(asked, THINKS, "<think>\n\n</think>", tokens, ReadingRules())
    assert grammar_of(asked, done, MAX_TOKENS) is None


def test_marks_of_calls_follow_bounded_thoughts(judge: Judge, tokens: ModelTokens) -> None:
    asked = task(tool_choice=ToolChoice(), thinking=Thinking("on", 2))
    how = reading_of(asked, "[TOOL_CALLS] [ARGS] <think>", INSIDE, tokens, ReadingRules())
    call = CALLS[2][1] % PARIS
    assert judge.accepts(asked, how, f"a</think>So: {call}{call}")


def test_budgets_that_bound_nothing_cost_no_grammar(tokens: ModelTokens) -> None:
    asked = task(tool_choice=ToolChoice(), thinking=Thinking("on", MAX_TOKENS))
    for template, prompt in ((THINKS, INSIDE), ("", ""), ("[THINK]", "[THINK]")):
        how = reading_of(asked, template, prompt, tokens, ReadingRules())
        assert grammar_of(asked, how, MAX_TOKENS) is None
    # Marks that are several tokens of the vocabulary bound nothing.
    less = replace(asked, thinking=Thinking("on", 2))
    how = reading_of(less, "[THINK]", "[THINK]", tokens, ReadingRules())
    assert grammar_of(less, how, MAX_TOKENS) is None


@pytest.mark.parametrize(
    ("reply_format", "good", "bad"),
    [
        (ReplyFormat("json_object", "f"), '{"a": 1}', "[1]"),
        (ReplyFormat("json_schema", "f", '{"type":"integer"}'), "12", '"x"'),
        (ReplyFormat("regex", "f", r"(a/b|c\/d)+"), "a/bc/d", "ab"),
        (ReplyFormat("choice", "f", choices=('y"es', "no")), 'y"es', "maybe"),
    ],
)
def test_a_format_with_tools_is_the_format_or_calls(
    reply_format: ReplyFormat, good: str, bad: str, judge: Judge, tokens: ModelTokens
) -> None:
    asked = task(reply_format=reply_format, tool_choice=ToolChoice())
    how = reading(asked, tokens, "hermes")
    assert judge.accepts(asked, how, good)
    assert judge.accepts(asked, how, CALLS[0][1] % PARIS)
    assert not judge.accepts(asked, how, bad)
    thinks = reading_of(asked, "<think>", "<think>", tokens, ReadingRules())
    assert judge.accepts(replace(asked, tools=()), thinks, f"hm</think>\n{good}")
    assert not judge.accepts(replace(asked, tools=()), thinks, good)


def test_demanded_calls_win_over_a_format(judge: Judge, tokens: ModelTokens) -> None:
    asked = task(reply_format=ReplyFormat("json_object", "f"))
    how = reading(asked, tokens, "hermes")
    assert not judge.accepts(asked, how, "{}")
    assert judge.accepts(asked, how, CALLS[0][1] % PARIS)


def test_nothing_is_held_to_where_nothing_is_demanded(tokens: ModelTokens) -> None:
    asked = task(tool_choice=ToolChoice())
    assert grammar_of(asked, reading(asked, tokens, "hermes"), MAX_TOKENS) is None
    strict = replace(asked, tools=(replace(WEATHER, is_strict=True),))
    assert grammar_of(strict, reading(strict, tokens, "hermes"), MAX_TOKENS) is None
    off = reading_of(task(), "<tool_call>", "", tokens, ReadingRules(tool_mode="off"))
    assert grammar_of(task(), off, MAX_TOKENS) is None


def test_a_format_alone_is_left_to_the_engine(tokens: ModelTokens) -> None:
    asked = task(tools=(), tool_choice=ToolChoice(), reply_format=ReplyFormat("regex", "f", "a+"))
    spec = grammar_of(asked, reading(asked, tokens, "hermes"), MAX_TOKENS)
    assert spec is not None
    assert spec.regex == "a+"


def test_rules_that_the_engine_does_not_know_refuse_strict_tools_only(
    judge: Judge, tokens: ModelTokens
) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "string", "format": "nonsense"}}}
    call = '{"name": "odd", "arguments": {"x": "y"}}'
    loose = task(tools=(Tool("odd", parameters=schema),))
    assert judge.accepts(loose, reading(loose, tokens, "json"), call)
    strict = task(tools=(Tool("odd", parameters=schema, is_strict=True),))
    with pytest.raises(AssertionError, match="nonsense"):
        judge.accepts(strict, reading(strict, tokens, "json"), call)


def test_schemas_too_large_for_an_engine_give_way_to_names(
    judge: Judge, tokens: ModelTokens
) -> None:
    properties = {f"field_{i}": {"type": "string", "description": "d" * 100} for i in range(20)}
    tools = tuple(Tool(f"t{i}", parameters={"properties": properties}) for i in range(60))
    asked = task(tools=tools)
    how = reading(asked, tokens, "json")
    spec = grammar_of(asked, how, MAX_TOKENS)
    assert spec is not None
    assert len(spec.lark.encode()) < 60 * 1024
    assert judge.accepts(asked, how, '{"name": "t59", "arguments": {"anything": 1}}')
    assert not judge.accepts(asked, how, '{"name": "t60", "arguments": {}}')
