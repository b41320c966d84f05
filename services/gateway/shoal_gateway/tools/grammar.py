"""What an engine holds a reply to, where calls are demanded, a format is, or thoughts have a
budget. Pure.

Written in llguidance's dialect of Lark. A mark that is a token of its own can be written as that
token only; spelled out it is allowed too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from shoal.common.v1 import chat_pb2
from shoal_gateway.shape import Reading
from shoal_gateway.task import ChatTask, ReplyFormat, Tool
from shoal_gateway.tools.formats import ARGUMENTS_MARK, HERMES, MISTRAL, ToolFormat

# Workers refuse grammars above 64 KiB; beyond this only the names of tools are kept to.
GRAMMAR_BYTES_MAX = 60 * 1024
# Weak models fill a reply with white space where they may.
_JSON_RULES = {"whitespace_flexible": True, "whitespace_pattern": r"[ \n\t]{1,20}"}


def grammar_of(task: ChatTask, reading: Reading, max_tokens: int) -> chat_pb2.GrammarSpec | None:
    """None for a reply that may be anything.

    Tool calls win over a format where they are demanded; where they are merely allowed the reply
    is calls or the format. What a model thinks first is free, up to its budget of tokens, at which
    nothing but the mark may follow that closes the thoughts; a budget of `max_tokens` bounds none.
    """
    asked = task.reply_format
    tools = _demanded(task) if task.tool_choice.mode in ("required", "named") else ()
    choices = task.tools if asked and reading.tool_format and not tools else tools
    thinks = reading.starts_inside or (reading.may_think and reading.splits_thoughts)
    budget = _budget(task, reading, max_tokens) if thinks else None
    if not choices or reading.tool_format is None:
        if asked is None and budget is None:
            return None
        if asked is not None and not thinks:
            return _plain(asked)
    for is_loose in (False, True):
        source = _source(None if tools else asked, choices, reading, is_loose, budget)
        if len(source.encode()) <= GRAMMAR_BYTES_MAX:
            break
    return chat_pb2.GrammarSpec(lark=source)


def _demanded(task: ChatTask) -> tuple[Tool, ...]:
    name = task.tool_choice.name
    return tuple(tool for tool in task.tools if not name or tool.name == name)


def _budget(task: ChatTask, reading: Reading, max_tokens: int) -> int | None:
    """Tokens that the thoughts may have, None for any number. A mark that is several tokens would
    have to be looked for behind every one, which is not worth it: all that think have a token."""
    budget = task.thinking.budget_tokens
    if budget is None or budget >= max_tokens or reading.thinking is None:
        return None
    return budget if reading.thinking.closing in reading.mark_ids else None


def _plain(asked: ReplyFormat) -> chat_pb2.GrammarSpec:
    if asked.kind == "json_schema":
        return chat_pb2.GrammarSpec(json_schema=asked.text)
    if asked.kind == "regex":
        return chat_pb2.GrammarSpec(regex=asked.text)
    if asked.kind == "choice":
        return chat_pb2.GrammarSpec(choice=chat_pb2.Choices(texts=asked.choices))
    return chat_pb2.GrammarSpec(json_object=True)


def _source(
    asked: ReplyFormat | None,
    tools: Sequence[Tool],
    reading: Reading,
    is_loose: bool,
    budget: int | None,
) -> str:
    bodies: list[str] = []
    rules: list[str] = []
    if tools and reading.tool_format is not None:
        bodies.append("calls")
        rules += _calls(tools, reading.tool_format, reading, is_loose)
    if asked is not None:
        bodies.append("answer")
        rules.append(f"answer: {_answer(asked)}")
    if not bodies:
        bodies.append("anything")
        rules += _anything(reading)
    body = f"({' | '.join(bodies)})"
    return "\n".join([f"start: {_thoughts(reading, rules, budget)}{body}", *rules]) + "\n"


def _anything(reading: Reading) -> list[str]:
    """Text and the marks of calls, but no thoughts spelled out where they may begin."""
    known = reading.tool_format.marks if reading.tool_format is not None else ()
    marks = " | ".join(f"<[{reading.mark_ids[m]}]>" for m in known if m in reading.mark_ids)
    rest = f" (({marks}) TEXT)*" if marks else ""
    if reading.thinking is None or reading.starts_inside:
        return [f"anything: TEXT{rest}", r"TEXT: /(.|\n)*/"]
    opening = _literal(reading.thinking.opening)
    return [
        f"anything: FIRST?{rest}",
        rf"FIRST: /(.|\n)+/ & ~/[ \n\t\r]*{opening}(.|\n)*/",
        r"TEXT: /(.|\n)*/",
    ]


def _literal(text: str) -> str:
    """As part of an expression between slashes."""
    return text.replace("/", r"\/").replace("[", r"\[").replace("]", r"\]")


def _thoughts(reading: Reading, rules: list[str], budget: int | None) -> str:
    """The rule's text in front of the reply; its parts are added to `rules`."""
    marks = reading.thinking
    may_open = reading.may_think and reading.splits_thoughts
    if marks is None or not (reading.starts_inside or may_open):
        return ""
    pattern = _literal(marks.closing)
    if budget is not None:
        # Spelled out it would end the thoughts for whoever reads them, and not for the grammar.
        rules.append(rf"UNCLOSED: /(.|\n)*/ & ~/(.|\n)*{pattern}(.|\n)*/")
        rules.append(f"bounded[max_tokens={budget}]: UNCLOSED")
        rules.append(f"thought: bounded <[{reading.mark_ids[marks.closing]}]>")
        ends = ["thought"]
    else:
        # A closing mark that is text ends the thoughts at its first occurrence.
        rules.append(f"spelled[lazy]: /(.|\\n)*{pattern}/")
        ends = ["spelled"]
        if marks.closing in reading.mark_ids:
            rules.append(f"thought: /(.|\\n)*/ <[{reading.mark_ids[marks.closing]}]>")
            ends.append("thought")
    rules.append(f"thoughts: ({' | '.join(ends)}) /[ \\n]{{0,4}}/")
    if reading.starts_inside:
        return "thoughts "
    return f"({_mark(marks.opening, reading)} thoughts)? "


def _calls(
    tools: Sequence[Tool], tool_format: ToolFormat, reading: Reading, is_loose: bool
) -> list[str]:
    names = " | ".join(f"call_{index}" for index in range(len(tools)))
    rules = [_calls_rule(tool_format, reading), f"call: {names}"]
    for index, tool in enumerate(tools):
        rules.append(f"call_{index}: {_call(tool.name, index, tool_format, reading)}")
        schema = json.dumps(_schema(tool, is_loose), ensure_ascii=False)
        rules.append(f"arguments_{index}: %json {schema}")
    return rules


def _calls_rule(tool_format: ToolFormat, reading: Reading) -> str:
    """One call, or several where the format can tell them apart."""
    more = "" if reading.is_single_call else "*"
    opening = _mark(tool_format.opening, reading) if tool_format.opening else ""
    if tool_format.name == HERMES.name:
        closing = _mark(tool_format.closing, reading)
        marked = f'{opening} "\\n" call "\\n" {closing}'
        return f"calls: {marked}" + (f' ("\\n" {marked}){more}' if more else "")
    if tool_format.name == MISTRAL.name and tool_format.writes_names:
        return f"calls: {opening} call" + (f" ({opening} call){more}" if more else "")
    if tool_format.name == MISTRAL.name:
        rest = f' (", " call){more}' if more else ""
        return f'calls: {opening} /[ ]?/ "[" call{rest} "]"'
    return "calls: call"


def _call(name: str, index: int, tool_format: ToolFormat, reading: Reading) -> str:
    if tool_format.writes_names:
        return f"{json.dumps(name)} {_mark(ARGUMENTS_MARK, reading)} arguments_{index}"
    written = json.dumps(name, ensure_ascii=False)
    before = f'{{"name": {written}, "{tool_format.arguments_key}": '
    return f'{json.dumps(before, ensure_ascii=False)} arguments_{index} "}}"'


def _schema(tool: Tool, is_loose: bool) -> dict[str, Any]:
    """Rules that the engine does not know are no reason to refuse, unless `strict` was asked."""
    schema = {} if is_loose else dict(tool.parameters)
    schema["type"] = "object"
    schema["x-guidance"] = {**_JSON_RULES, "lenient": not tool.is_strict}
    return schema


def _mark(mark: str, reading: Reading) -> str:
    spelled = json.dumps(mark)
    if mark not in reading.mark_ids:
        return spelled
    return f"(<[{reading.mark_ids[mark]}]> | {spelled})"


def _answer(asked: ReplyFormat) -> str:
    if asked.kind == "json_schema":
        schema = {"x-guidance": _JSON_RULES} | json.loads(asked.text)
        return f"%json {json.dumps(schema, ensure_ascii=False)}"
    if asked.kind == "regex":
        escaped = asked.text.replace("\n", r"\n")
        return "/" + _escaped_slashes(escaped) + "/"
    if asked.kind == "choice":
        return " | ".join(json.dumps(text, ensure_ascii=False) for text in asked.choices)
    return "%json " + json.dumps({"type": "object", "x-guidance": _JSON_RULES})


def _escaped_slashes(expression: str) -> str:
    """An expression between slashes: each slash of its own is escaped once."""
    escaped = ""
    is_escape = False
    for char in expression:
        escaped += "\\/" if char == "/" and not is_escape else char
        is_escape = char == "\\" and not is_escape
    return escaped
