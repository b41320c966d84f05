"""Fields that several dialects share: a JSON value to its checked form. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.task import Image

IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")


def model_name(given: dict[str, Any]) -> str:
    """ "" for none and for `auto`."""
    model = limits.as_text(given.get("model", ""), "model")
    limits.check_length(model, "model", 0, limits.MODEL_NAME_CHARS_MAX)
    return "" if model == "auto" else model


def short_text(given: dict[str, Any], param: str) -> str:
    """A name or id, "" where it is missing."""
    return limits.check_length(limits.as_text(given.get(param, ""), param), param, 0, 256)


def number(given: dict[str, Any], param: str, least: float, most: float) -> float | None:
    """None where it is missing."""
    return limits.as_number(given[param], param, least, most) if param in given else None


def integer(given: dict[str, Any], param: str, least: int, most: int) -> int | None:
    """None where it is missing."""
    return limits.as_integer(given[param], param, least, most) if param in given else None


def boolean(given: dict[str, Any], param: str, default: bool) -> bool:
    """`default` where it is missing."""
    return limits.as_boolean(given.get(param, default), param)


def stop_strings(given: dict[str, Any], param: str) -> tuple[str, ...]:
    """A string or a list of them."""
    value = given.get(param, [])
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise limits.wrong_type(param, "a string or an array of strings", value)
    entries = limits.as_list(value, param, limits.STOP_COUNT_MAX)
    return tuple(
        limits.check_length(limits.as_text(entry, param), param, 1, limits.STOP_CHARS_MAX)
        for entry in entries
    )


def present(body: dict[str, Any]) -> dict[str, Any]:
    """Without the nulls that clients send for what they leave out."""
    return {key: value for key, value in body.items() if value is not None}


def unknown(given: dict[str, Any], known: Iterable[str], is_strict: bool) -> dict[str, Any]:
    """Fields that are not in `known`; with `is_strict` they are refused."""
    extras = {key: given[key] for key in given.keys() - set(known)}
    if is_strict and extras:
        first = min(extras)
        raise InvalidRequest(f"unknown field '{first[:80]}'", param=first[:80])
    return extras


def image_of(media_type: str, data: str, param: str, offset: int) -> Image:
    """From base64 text. Raises InvalidRequest naming `param`."""
    if media_type not in IMAGE_TYPES:
        raise InvalidRequest(f"'{param}' must be one of {', '.join(IMAGE_TYPES)}", param=param)
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as err:
        raise InvalidRequest(f"'{param}' is not valid base64", param=param) from err
    if not 0 < len(raw) <= limits.IMAGE_SIZE_BYTES_MAX:
        raise InvalidRequest(
            f"'{param}' has {len(raw)} bytes; it must have 1 to {limits.IMAGE_SIZE_BYTES_MAX}",
            param=param,
        )
    return Image(media_type, raw, offset=offset)


def image_at(url: str, param: str, offset: int) -> Image:
    """From a data: URL, or of an http(s) URL that is fetched later if that is allowed."""
    if url.startswith("data:"):
        head, comma, data = url[5:].partition(",")
        media_type, _, encoding = head.partition(";")
        if not comma or encoding != "base64":
            raise InvalidRequest(f"'{param}' must be a data: URL with base64", param=param)
        return image_of(media_type.lower(), data, param, offset)
    limits.check_length(url, param, 1, limits.URL_CHARS_MAX)
    if not url.startswith(("https://", "http://")):
        raise InvalidRequest(f"'{param}' must be a data:, https: or http: URL", param=param)
    return Image("", b"", offset=offset, url=url)
