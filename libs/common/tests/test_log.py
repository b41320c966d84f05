"""What a log line holds, and what it never holds."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from shoal_common import trace
from shoal_common.log import bind, bound, redact, setup

log = logging.getLogger("shoal_test")
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture
def lines() -> Lines:
    stream = io.StringIO()
    setup("router", "info", "json", secrets=["fleet-hunter2"], stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_line_holds_event_fields_and_context(lines: Lines) -> None:
    with bind(request_id="req-1", node_id="node-1"), bind(node_id=None):
        log.info("worker joined", extra={"layer_count": 3})
    line = lines()[0]
    assert (line["event"], line["level"], line["service"]) == ("worker joined", "info", "router")
    assert (line["request_id"], line["layer_count"]) == ("req-1", 3)
    assert "node_id" not in line
    assert line["time"].endswith("+00:00")


def test_context_ends_with_its_block_and_follows_tasks(lines: Lines) -> None:
    async def task() -> None:
        log.info("inside")

    async def main() -> None:
        with bind(request_id="req-1"):
            running = asyncio.create_task(task())
        await running
        log.info("outside")

    asyncio.run(main())
    inside, outside = lines()
    assert inside["request_id"] == "req-1"
    assert "request_id" not in outside
    assert bound() == {}


def test_a_line_inside_a_span_names_its_trace(lines: Lines) -> None:
    trace.setup("router")
    with trace.span("Plan"):
        log.info("planned")
        expected = trace.trace_id()
    assert lines()[0]["trace_id"] == expected


@pytest.mark.parametrize(
    "secret_text",
    [
        "Authorization: Bearer hunter2hunter2",
        "{'authorization': 'bearer hunter2.hunter2'}",
        "x-api-key: hunter2",
        '{"api_key": "hunter2"}',
        "SHOAL_GATEWAY_API_KEY=hunter2",
        "('x-shoal-token', 'hunter2')",
        "SHOAL_FLEET_TOKEN=hunter2",
        "using sk-hunter2hunter2 today",
        "sk-proj-hunter2_hunter2-x",
        "nvapi-hunter2hunter2",
        "https://example.org/v1?key=hunter2&x=1",
        "nats://shoal:hunter2@127.0.0.1:4222",
        "the token is fleet-hunter2.",
        "password: hunter2",
        'password="ab hunter2"',
        'password="ab hunter2',
        '"secret": "ab\\"hunter2"',
        "Authorization: Token hunter2",
        "(b'authorization', b'Basic hunter2')",
        "Cookie: session=hunter2",
        "token=hunter2",
        "http://user:p@hunter2@host/x",
        "hf_hunter2hunter2",
    ],
)
def test_secrets_are_taken_out_wherever_they_stand(lines: Lines, secret_text: str) -> None:
    log.warning(secret_text)
    log.warning("%s", secret_text)
    log.warning("event", extra={"detail": secret_text, "deep": {"list": [secret_text]}})
    try:
        raise ValueError(secret_text)
    except ValueError as err:
        log.exception("failed", extra={"error": err})
    text = json.dumps(lines())
    assert len(lines()) == 4
    assert "hunter2" not in text
    assert "[redacted]" in text


def test_the_rest_of_a_redacted_text_stays() -> None:
    assert redact("GET /v1?key=abc&x=1 took 3 s") == "GET /v1?key=[redacted]&x=1 took 3 s"
    harmless = "task-force-1 of disk-abcdefghijk at grpc:127.0.0.1:7002: tokens: 3, secret sauce"
    assert redact(harmless) == harmless


@pytest.mark.parametrize(
    "piece", ["a", "a-", "x-api-key", "sk-", "a://", "token ", "Bearer ", "secret=", "?key=", '"\\']
)
def test_redaction_takes_linear_time(piece: str) -> None:
    """A text that a stranger chose must not stop the process; the test's time limit notices."""
    redact(piece * (400_000 // len(piece)))


def test_the_quick_look_overlooks_nothing() -> None:
    pieces = (
        "Authorization", "cookie", "Bearer", "sk-", "sk_", "nvapi-", "hf_", "ghp_", "gho_", "xoxb-",
        "gsk_", "api", "_", "-", "key", "token", "SECRET", "password", "passwd", "?", "&", "auth",
        "http", "://", "@", "user", "abcdefgh", "0123456789", ":", "=", "'", '"', " ", ",", "{",
        "(", "b", "\n", "monkey", "sketch",
    )  # fmt: skip
    for seed in range(5000):
        text = "".join(random.Random(seed).choices(pieces, k=7))
        # A letter beyond ASCII turns the quick look off.
        assert redact("é\n" + text) == "é\n" + redact(text), f"seed {seed}: {text!r}"


def test_redacting_twice_changes_nothing_more() -> None:
    once = redact("Authorization: Bearer abcdef, api_key=abc token: 'x' nats://u:p@h ?key=v")
    assert redact(once) == once


@pytest.mark.parametrize("name", ["api_key", "fleet_token", "authorization", "password", "prompt"])
def test_fields_that_hold_secrets_or_text_are_hidden_by_name(lines: Lines, name: str) -> None:
    log.info("event", extra={name: "hunter2", "nested": {name: "hunter2"}})
    assert "hunter2" not in json.dumps(lines())


def test_counts_of_tokens_are_not_secrets(lines: Lines) -> None:
    log.info("done", extra={"prompt_tokens": 12, "tokens_free": 3})
    assert (lines()[0]["prompt_tokens"], lines()[0]["tokens_free"]) == (12, 3)


def test_secret_types_stay_hidden(lines: Lines) -> None:
    log.info("event", extra={"value": SecretStr("hunter2"), "all": [SecretStr("hunter2")]})
    assert "hunter2" not in json.dumps(lines())


def test_a_field_cannot_replace_the_event(lines: Lines) -> None:
    log.info("event", extra={"service": "other", "level": 3})
    line = lines()[0]
    assert (line["service"], line["level"]) == ("router", "info")
    assert (line["field_service"], line["field_level"]) == ("other", 3)


def test_text_is_one_line_whatever_it_holds() -> None:
    stream = io.StringIO()
    setup("router", "info", "text", secrets=["fleet-hunter2"], stream=stream)
    log.info("two\nlines", extra={"model": "a b", "count": 3, "why": "x\ny fleet-hunter2"})
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert 'model="a b" count=3' in text
    assert "hunter2" not in text


def test_auto_is_json_away_from_a_terminal() -> None:
    stream = io.StringIO()
    setup("router", stream=stream)
    log.info("event")
    assert json.loads(stream.getvalue())["event"] == "event"


def test_auto_is_text_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    setup("router", stream=stream)
    log.info("event")
    assert "info     router event" in stream.getvalue()


def test_levels_of_the_settings_all_work() -> None:
    written = {}
    for level in ("silent", "error", "warn", "warning", "info", "debug", "trace"):
        stream = io.StringIO()
        setup("router", level, "json", stream=stream)
        for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            log.log(number, "event")
        written[level] = len(stream.getvalue().splitlines())
    assert written == {
        "silent": 0, "error": 1, "warn": 2, "warning": 2, "info": 3, "debug": 4, "trace": 4,
    }  # fmt: skip
