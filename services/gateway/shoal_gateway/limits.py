"""How large and how far each part of a request may be. Pure checks that name the field.

A wrong type or a value out of range is an InvalidRequest with `param` set, never a silent clamp.
"""

from __future__ import annotations

import math
from typing import Any

from shoal_common.errors import InvalidRequest

BODY_SIZE_BYTES_MAX = 32 * 1024 * 1024
MODEL_NAME_CHARS_MAX = 256
STOP_COUNT_MAX = 16
STOP_CHARS_MAX = 256
TOOL_COUNT_MAX = 128
MESSAGE_COUNT_MAX = 4096
LOGIT_BIAS_COUNT_MAX = 1024
TOKENS_MAX = 32768
TOP_LOGPROBS_MAX = 20
SCHEMA_CHARS_MAX = 64 * 1024
REGEX_CHARS_MAX = 8 * 1024
CHOICE_COUNT_MAX = 1000
CHOICE_CHARS_MAX = 1024
CHOICE_ANSWERS_MAX = 16
IMAGE_SIZE_BYTES_MAX = 20 * 1024 * 1024
URL_CHARS_MAX = 8192


def type_name(value: object) -> str:
    """What JSON calls the type of `value`."""
    if value is None:
        return "null"
    names = {bool: "boolean", int: "integer", float: "number", str: "string"}
    names |= {list: "array", dict: "object"}
    return names.get(type(value), type(value).__name__)


def wrong_type(param: str, wanted: str, value: object) -> InvalidRequest:
    return InvalidRequest(f"'{param}' must be {wanted}, not {type_name(value)}", param=param)


def as_text(value: Any, param: str) -> str:
    if not isinstance(value, str):
        raise wrong_type(param, "a string", value)
    return value


def as_boolean(value: Any, param: str) -> bool:
    if not isinstance(value, bool):
        raise wrong_type(param, "a boolean", value)
    return value


def as_object(value: Any, param: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong_type(param, "an object", value)
    return value


def as_list(value: Any, param: str, count_max: int) -> list[Any]:
    if not isinstance(value, list):
        raise wrong_type(param, "an array", value)
    if len(value) > count_max:
        raise InvalidRequest(
            f"'{param}' has {len(value)} entries, the limit is {count_max}", param=param
        )
    return value


def as_integer(value: Any, param: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(param, "an integer", value)
    if not least <= value <= most:
        raise _out_of_range(param, least, most)
    return value


def as_number(value: Any, param: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(param, "a number", value)
    if not least <= value <= most or math.isnan(value):
        raise _out_of_range(param, least, most)
    return float(value)


def check_length(value: str, param: str, least: int, most: int) -> str:
    if not least <= len(value) <= most:
        raise InvalidRequest(
            f"'{param}' has {len(value)} characters; it must have {least} to {most}", param=param
        )
    return value


def _out_of_range(param: str, least: float, most: float) -> InvalidRequest:
    return InvalidRequest(f"'{param}' must be between {least:g} and {most:g}", param=param)
