"""How each family of models writes its calls, and which family a chat template is of. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

FormatMode = Literal["auto", "hermes", "llama3", "mistral", "json", "off"]


@dataclass(frozen=True)
class ToolFormat:
    """One way to write calls.

    opening, closing: the marks around a call, "" for none. is_bare: a reply may begin with a call,
    unmarked. separators: what may stand between two calls. is_named: `name[ARGS]{...}` is a call
    too. writes_names: that is the way it is taught to write them.
    """

    name: str
    opening: str = ""
    closing: str = ""
    is_bare: bool = False
    separators: str = ","
    arguments_key: str = "arguments"
    is_named: bool = False
    writes_names: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        """What may be a token of its own."""
        named = (CALL_ID_MARK, ARGUMENTS_MARK) if self.is_named else ()
        return tuple(mark for mark in (self.opening, self.closing, *named) if mark)


ARGUMENTS_MARK = "[ARGS]"
CALL_ID_MARK = "[CALL_ID]"

# A model that closes one bracket too many has still made its call.
HERMES = ToolFormat("hermes", "<tool_call>", "</tool_call>", separators=",}")
LLAMA3 = ToolFormat(
    "llama3", "<|python_tag|>", is_bare=True, separators=",;", arguments_key="parameters"
)
MISTRAL = ToolFormat("mistral", "[TOOL_CALLS]", is_named=True)
MISTRAL_NAMED = ToolFormat("mistral", "[TOOL_CALLS]", is_named=True, writes_names=True)
JSON = ToolFormat("json", is_bare=True, separators=",;")

_LLAMA = re.compile(r"<\|(python_tag|start_header_id)\|>")
_BY_MODE = {"hermes": HERMES, "llama3": LLAMA3, "json": JSON}


def format_of(template: str, mode: FormatMode) -> ToolFormat | None:
    """The format of a chat template, or the one that `mode` names; None where calls stay text."""
    if mode == "off":
        return None
    if mode in _BY_MODE:
        return _BY_MODE[mode]
    if mode == "mistral" or MISTRAL.opening in template:
        return MISTRAL_NAMED if ARGUMENTS_MARK in template else MISTRAL
    if HERMES.opening in template:
        return HERMES
    if _LLAMA.search(template):
        return LLAMA3
    return JSON
