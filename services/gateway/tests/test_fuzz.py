"""Ten thousand malformed bodies: every one is answered or refused by name, never a fault.

Most go straight to the dialects; a share goes over HTTP, raw bytes among them.
"""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson
import pytest

from shoal_common.errors import InvalidRequest
from shoal_gateway.dialects import anthropic, openai_chat, openai_completions, responses

KEY = "k" * 64
SEED = 20261121
BODY_COUNT = 10_000
HTTP_COUNT = 600

PIXEL = "data:image/png;base64,iVBORw0KGgo="
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
CHAT: dict[str, Any] = {
    "model": "auto",
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "a"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL}}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "well",
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    ],
    "stream": False,
    "stream_options": {"include_usage": True},
    "max_tokens": 4,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 3,
    "n": 1,
    "stop": ["a", "b"],
    "seed": 1,
    "logit_bias": {"1": 2},
    "logprobs": True,
    "top_logprobs": 2,
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "parallel_tool_calls": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
    "reasoning_effort": "low",
    "chat_template_kwargs": {"enable_thinking": True},
    "user": "u",
    "metadata": {"a": "b"},
}
COMPLETION: dict[str, Any] = {
    "model": "auto",
    "prompt": ["a", "b"],
    "max_tokens": 4,
    "n": 1,
    "best_of": 1,
    "logprobs": 2,
    "echo": False,
    "stop": "x",
    "stream": False,
    "temperature": 1,
    "logit_bias": {"1": 2},
    "suffix": None,
    "guided_choice": ["a"],
}
MESSAGES: dict[str, Any] = {
    "model": "auto",
    "max_tokens": 2000,
    "system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "well", "signature": "s"},
                {"type": "tool_use", "id": "t", "name": "f", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t", "content": "1", "is_error": False},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
                },
            ],
        },
    ],
    "stream": False,
    "temperature": 0.5,
    "stop_sequences": ["a"],
    "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "metadata": {"user_id": "u"},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
}
RESPONSE: dict[str, Any] = {
    "model": "auto",
    "instructions": "be brief",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "well"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
        {"role": "user", "content": [{"type": "input_image", "image_url": PIXEL}]},
    ],
    "max_output_tokens": 4,
    "store": False,
    "stream": False,
    "temperature": 0.5,
    "tools": [{"type": "function"} | FUNCTION],
    "tool_choice": "auto",
    "text": {"format": {"type": "text"}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "metadata": {"a": "b"},
    "include": ["message.output_text.logprobs"],
    "truncation": "disabled",
    "user": "u",
}
DIALECTS: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any], bool], object]]] = {
    "/v1/chat/completions": (CHAT, openai_chat.parse),
    "/v1/completions": (COMPLETION, openai_completions.parse),
    "/v1/messages": (MESSAGES, anthropic.parse),
    "/v1/responses": (RESPONSE, lambda body, strict: responses.parse(body, "resp_a", strict)),
}
ODD_VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63 - 1, -(2**63), 1e308, -0.5, "", "a", "\x00",
    "🦈" * 300,
    "x" * 70_000, [], [[]], [None], {}, {"": None}, {"a": {"b": [1]}}, [{"type": "text"}],
    {"type": "text", "text": 1}, {"type": "object"}, "data:image/png;base64,%%%", "http://[::1",
    [["deep"] * 3] * 3, [0] * 5000,
]  # fmt: skip


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of everything inside `value`."""
    found = [prefix] if prefix else []
    entries = value.items() if isinstance(value, dict) else []
    entries = enumerate(value) if isinstance(value, list) else entries
    for key, entry in entries:
        found += paths(entry, (*prefix, key))
    return found


def mutated(body: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """With one to three places changed, lost, doubled or swapped."""
    body = copy.deepcopy(body)
    for _ in range(rng.randint(1, 3)):
        found = paths(body)
        if not found:
            break
        *way, last = rng.choice(found)
        parent: Any = body
        for key in way:
            parent = parent[key]
        change = rng.randrange(5)
        if change == 0:
            del parent[last]
        elif change == 1 and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[last]))
        elif change == 2 and isinstance(parent, dict):
            parent[rng.choice(["type", "role", "content", "extra", ""])] = parent.pop(last)
        elif change == 3:
            parent[last] = copy.deepcopy(parent[rng.choice(list(keys(parent)))])
        else:
            parent[last] = copy.deepcopy(rng.choice(ODD_VALUES))
    return body


def keys(parent: Any) -> list[Any]:
    return list(parent) if isinstance(parent, dict) else list(range(len(parent)))


def text_only(body: dict[str, Any]) -> dict[str, Any]:
    """Without its images, which the fleet's model would refuse."""

    def is_text(entry: Any) -> bool:
        return "image" not in json.dumps(entry)

    lists = {name: value for name, value in body.items() if isinstance(value, list)}
    return body | {name: list(filter(is_text, value)) for name, value in lists.items()}


def broken_bytes(body: dict[str, Any], rng: random.Random) -> bytes:
    """The body's JSON with bytes cut, flipped or put in."""
    raw = bytearray(json.dumps(body).encode())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(raw))
        raw[at : at + rng.randint(0, 8)] = rng.randbytes(rng.randint(0, 4))
    return bytes(raw)


@pytest.mark.parametrize("path", DIALECTS)
def test_a_dialect_raises_nothing_but_refusals(path: str) -> None:
    """All bodies, a quarter for each dialect; every other one strictly."""
    valid, parse = DIALECTS[path]
    parse(copy.deepcopy(valid), False)
    rng = random.Random(SEED)
    outcomes: Counter[str] = Counter()
    for index in range(BODY_COUNT // len(DIALECTS)):
        body = mutated(valid, rng)
        try:
            parse(copy.deepcopy(body), index % 2 == 1)
        except InvalidRequest:
            outcomes["refused"] += 1
        # Whatever it is, the body that does it must be seen.
        except Exception as err:
            raise AssertionError(f"seed {SEED}, body {index}: {json.dumps(body)[:2000]}") from err
        else:
            outcomes["taken"] += 1
    print(f"{path}: {dict(outcomes)}")
    assert outcomes["refused"] > 100
    assert outcomes["taken"] > 100


async def test_malformed_bodies_over_http_are_never_a_server_error(fleet: Any) -> None:
    fleet.says("ok")
    fleet.router.context_length = 8192
    rng = random.Random(SEED)
    statuses: Counter[int] = Counter()
    async with aiohttp.ClientSession(headers={"x-api-key": KEY}) as session:
        for index in range(HTTP_COUNT):
            path = rng.choice(list(DIALECTS))
            body = mutated(text_only(DIALECTS[path][0]), rng)
            raw = broken_bytes(body, rng) if index % 3 == 0 else orjson.dumps(body)
            async with session.post(fleet.url + path, data=raw) as response:
                text = await response.text()
            statuses[response.status] += 1
            if response.status == 503:
                # Nothing is stored without a Redis.
                assert json.loads(text)["error"]["code"] == "response_store_unreachable", text
                continue
            assert response.status < 500, f"seed {SEED}, body {index}: {path} {raw[:2000]!r} {text}"
            if response.status >= 400:
                assert json.loads(text)["error"]["message"], text
    print(f"over HTTP: {dict(statuses)}")
    assert statuses[200]
    assert statuses[400] > HTTP_COUNT / 4
    assert fleet.router.closed_count == len(fleet.router.opened)
