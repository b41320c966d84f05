"""Request bodies as JSON objects."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from shoal_common.errors import RequestTooLarge
from shoal_gateway import limits
from shoal_gateway.errors import MalformedBody


async def read_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object. Raises MalformedBody, RequestTooLarge."""
    if (request.content_length or 0) > limits.BODY_SIZE_BYTES_MAX:
        raise body_too_large()
    raw = await request.read()
    try:
        body = json.loads(raw.decode(), parse_constant=_refuse_constant)
        # Escaped halves of surrogate pairs are no characters; tokenisers and UTF-8 refuse them.
        json.dumps(body, ensure_ascii=False).encode()
    except RecursionError as err:
        raise MalformedBody("it is nested too deeply") from err
    except UnicodeError as err:
        raise MalformedBody("it is not valid text") from err
    except ValueError as err:
        raise MalformedBody(str(err)[:200]) from err
    if not isinstance(body, dict):
        raise MalformedBody(f"it is of type {limits.type_name(body)}")
    return body


def body_too_large() -> RequestTooLarge:
    return RequestTooLarge(
        f"the body is larger than {limits.BODY_SIZE_BYTES_MAX} bytes; shorten the messages"
    )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
