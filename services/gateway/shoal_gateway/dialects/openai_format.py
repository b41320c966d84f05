"""What the reply must look like, as OpenAI's and vLLM's clients ask for it. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.task import ReplyFormat

FIELDS = ("response_format", "guided_regex", "guided_choice")
_TYPES = ("text", "json_object", "json_schema")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def parse_format(given: dict[str, Any]) -> ReplyFormat | None:
    """None for free text. Raises InvalidRequest naming the field that is wrong.

    Whether the schema or expression can be held to is for the engine to say.
    """
    readers = (_response_format, _guided_regex, _guided_choice)
    asked = [
        reader(given[name]) for name, reader in zip(FIELDS, readers, strict=True) if name in given
    ]
    found = [reply_format for reply_format in asked if reply_format is not None]
    if len(found) > 1:
        raise InvalidRequest(
            f"'{found[1].param}' cannot go with '{found[0].param}': ask for one format",
            param=found[1].param,
        )
    return found[0] if found else None


def _response_format(value: Any) -> ReplyFormat | None:
    fields = limits.as_object(value, "response_format")
    kind = limits.as_text(fields.get("type"), "response_format.type")
    if kind not in _TYPES:
        raise InvalidRequest(
            f"'response_format.type' must be one of {', '.join(_TYPES)}",
            param="response_format.type",
        )
    if kind == "text":
        return None
    if kind == "json_object":
        return ReplyFormat("json_object", "response_format")
    return _json_schema(fields.get("json_schema"))


def _json_schema(value: Any) -> ReplyFormat:
    """`strict` changes nothing: the schema always holds."""
    param = "response_format.json_schema"
    fields = limits.as_object(value, param)
    name = limits.as_text(fields.get("name"), f"{param}.name")
    if _NAME.fullmatch(name) is None:
        raise InvalidRequest(
            f"'{param}.name' must be 1 to 64 letters, digits, dashes or underscores",
            param=f"{param}.name",
        )
    if fields.get("strict") is not None:
        limits.as_boolean(fields["strict"], f"{param}.strict")
    if fields.get("schema") is None:
        return ReplyFormat("json_object", "response_format")
    schema = limits.as_object(fields["schema"], f"{param}.schema")
    try:
        text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    except RecursionError as err:
        raise InvalidRequest(
            f"'{param}.schema' is nested too deeply", param=f"{param}.schema"
        ) from err
    limits.check_length(text, f"{param}.schema", 0, limits.SCHEMA_CHARS_MAX)
    return ReplyFormat("json_schema", "response_format", text)


def _guided_regex(value: Any) -> ReplyFormat:
    text = limits.as_text(value, "guided_regex")
    limits.check_length(text, "guided_regex", 1, limits.REGEX_CHARS_MAX)
    return ReplyFormat("regex", "guided_regex", text)


def _guided_choice(value: Any) -> ReplyFormat:
    entries = limits.as_list(value, "guided_choice", limits.CHOICE_COUNT_MAX)
    if not entries:
        raise InvalidRequest("'guided_choice' must hold at least one string", param="guided_choice")
    choices = tuple(
        limits.check_length(
            limits.as_text(entry, "guided_choice"), "guided_choice", 1, limits.CHOICE_CHARS_MAX
        )
        for entry in entries
    )
    return ReplyFormat("choice", "guided_choice", choices=choices)
