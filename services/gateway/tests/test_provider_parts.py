"""The parts of the providers' room that need no network: names, wires, guards."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from shoal_common.errors import InvalidRequest
from shoal_common.metrics import new_registry
from shoal_common.testing.clock import FakeClock
from shoal_gateway.metrics import Metrics, ProviderMetrics
from shoal_gateway.providers import wire_anthropic, wire_openai
from shoal_gateway.providers.client import retry_after_s
from shoal_gateway.providers.errors import (
    ProviderCrowded,
    ProviderFailed,
    ProviderFault,
    ProviderRateLimited,
    ProviderUnreachable,
)
from shoal_gateway.providers.event_lines import EventLines, ServerEvent, TooLarge
from shoal_gateway.providers.guard import COOLDOWN_S, FAILURE_WINDOW_S, Gate
from shoal_gateway.providers.read_anthropic import AnthropicAnswer
from shoal_gateway.providers.read_openai import OpenAiAnswer, usage_of
from shoal_gateway.providers.table import (
    BY_NAME,
    PROVIDERS,
    Endpoint,
    open_provider,
    provider_of,
    public_name,
    upstream_name,
)
from shoal_gateway.task import (
    Admitted,
    ChatTask,
    Finished,
    Image,
    Message,
    ReasoningDelta,
    ReplyFormat,
    Sampling,
    TextDelta,
    Thinking,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolCallStarted,
    ToolChoice,
    Usage,
)

HI = (Message("user", "hi"),)
TASK = ChatTask("m", HI)


def endpoint(provider: str, model: str = "m") -> Endpoint:
    return Endpoint(BY_NAME[provider], "http://x/v1", model, "k")


@pytest.mark.parametrize(
    ("model", "provider", "upstream"),
    [
        ("claude-sonnet-4-6", "anthropic", "claude-sonnet-4-6"),
        ("gpt-4o", "openai", "gpt-4o"),
        ("o1", "openai", "o1"),
        ("o4-mini", "openai", "o4-mini"),
        ("deepseek-chat", "deepseek", "deepseek-chat"),
        ("codestral-latest", "mistral", "codestral-latest"),
        ("pixtral-12b", "mistral", "pixtral-12b"),
        ("llama-3.3-70b-versatile", "groq", "llama-3.3-70b-versatile"),
        ("groq-qwen/qwen3-32b", "groq", "qwen/qwen3-32b"),
        ("nim-meta/llama-3.1-8b-instruct", "nvidia", "meta/llama-3.1-8b-instruct"),
        ("cerebras-llama3.1-8b", "cerebras", "llama3.1-8b"),
        ("samba-DeepSeek-R1", "sambanova", "DeepSeek-R1"),
        ("fireworks-qwen3-8b", "fireworks", "accounts/fireworks/models/qwen3-8b"),
        ("accounts/fireworks/models/x", "fireworks", "accounts/fireworks/models/x"),
        ("together-meta-llama/Llama-3", "together", "meta-llama/Llama-3"),
        ("deepinfra-Qwen/Qwen3", "deepinfra", "Qwen/Qwen3"),
        ("moonshot-v1-8k", "moonshot", "moonshot-v1-8k"),
        ("kimi-k2", "moonshot", "kimi-k2"),
    ],
)
def test_names_lead_to_providers_and_back(model: str, provider: str, upstream: str) -> None:
    found = provider_of(model)
    assert found is not None
    assert (found.name, upstream_name(found, model)) == (provider, upstream)
    again = public_name(found, upstream)
    assert again is not None
    assert upstream_name(found, again) == upstream


def test_other_names_are_nobodys() -> None:
    for model in ("", "o10", "gpt-", "qwen2.5-coder-7b", "heavyweight", "o1mini"):
        assert provider_of(model) is None, model
    assert public_name(BY_NAME["openai"], "whisper-1") is None


def test_there_are_twelve_providers_each_with_a_key_variable() -> None:
    assert len(PROVIDERS) == 12
    assert all(p.key_variables and p.base_url.startswith("https://") for p in PROVIDERS)
    assert BY_NAME["nvidia"].key_variables == ("NVIDIA_API_KEY", "NVIDIA_NIM_API_KEY")


def gate_of(clock: FakeClock, in_flight_max: int) -> Gate:
    return Gate("p", in_flight_max, clock, ProviderMetrics(Metrics(new_registry()), "p"))


async def test_a_breaker_opens_lets_one_try_and_closes() -> None:
    clock = FakeClock()
    gate = gate_of(clock, 10)

    async def ask(error: Exception | None = None) -> None:
        async with gate.request("m"):
            if error is not None:
                raise error

    for _ in range(3):
        with pytest.raises(ProviderFault):
            await ask(ProviderFault("p", 500))
    with pytest.raises(ProviderUnreachable, match="next try in 120 s"):
        await ask()
    await clock.advance(COOLDOWN_S)
    probe = gate.request("m")
    await probe.__aenter__()
    with pytest.raises(ProviderUnreachable):
        await ask()
    # The one that tried was abandoned: another may.
    await probe.__aexit__(GeneratorExit, GeneratorExit(), None)
    with pytest.raises(ProviderFault):
        await ask(ProviderFault("p", 500))
    with pytest.raises(ProviderUnreachable):
        await ask()
    await clock.advance(COOLDOWN_S)
    await ask()
    await ask()
    assert gate.in_flight == 0


async def test_failures_far_apart_open_nothing() -> None:
    clock = FakeClock()
    gate = gate_of(clock, 10)
    for _ in range(5):
        with pytest.raises(ProviderFault):
            async with gate.request("m"):
                raise ProviderFault("p", 500)
        await clock.advance(FAILURE_WINDOW_S / 2 + 1)


async def test_retries_stop_with_the_budget() -> None:
    gate = gate_of(FakeClock(), 10)
    error = ProviderRateLimited("p", 0.0)
    retry_count = 0
    for _ in range(30):
        async with gate.request("m") as request:
            try:
                while True:
                    await request.pause_before_retry(error)
                    retry_count += 1
            except ProviderFailed:
                continue
    # Ten to begin with, and one for every ten requests.
    assert retry_count == 10 + 2


async def test_no_retry_when_asked_to_wait_long() -> None:
    async with gate_of(FakeClock(), 10).request("m") as request:
        with pytest.raises(ProviderRateLimited):
            await request.pause_before_retry(ProviderRateLimited("p", 60.0))


async def test_too_many_at_once_are_refused() -> None:
    gate = gate_of(FakeClock(), 1)
    async with gate.request("m"):
        with pytest.raises(ProviderCrowded):
            await gate.request("m").__aenter__()
    assert gate.in_flight == 0


def test_events_come_in_any_pieces() -> None:
    data = b": hi\r\nevent: a\r\ndata: 1\r\ndata: 2\r\n\r\ndata:3\n\ndata: 4"
    for size_bytes in range(1, len(data)):
        lines = EventLines(100)
        events = []
        for start in range(0, len(data), size_bytes):
            events += lines.feed(data[start : start + size_bytes])
        events += lines.flush()
        assert events == [
            ServerEvent("a", b"1\n2"),
            ServerEvent("", b"3"),
            ServerEvent("", b"4"),
        ]
    with pytest.raises(TooLarge):
        EventLines(10).feed(b"data: 12345678")


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s("7", 0.0) == 7.0
    assert retry_after_s("Thu, 01 Jan 1970 00:01:00 GMT", 50.0) == 10.0
    assert retry_after_s("soon", 0.0) is None


def feed(answer: OpenAiAnswer | AnthropicAnswer, *chunks: dict[str, Any]) -> list[Any]:
    events: list[Any] = []
    for chunk in chunks:
        events += answer.feed(ServerEvent("", json.dumps(chunk).encode()))
    return [*events, *answer.finish()]


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields}]}


STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def test_thoughts_come_under_three_names() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "c"}]},
        {"type": "text", "text": "d"},
    ]
    events = feed(
        OpenAiAnswer("p", TASK),
        delta(reasoning_content="a"),
        delta(reasoning="b"),
        delta(content=parts),
        STOP,
    )
    assert events[:5] == [
        Admitted(),
        ReasoningDelta("a"),
        ReasoningDelta("b"),
        ReasoningDelta("c"),
        TextDelta("d"),
    ]


def test_calls_with_arguments_as_an_object_and_without_an_id() -> None:
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    events = feed(OpenAiAnswer("p", TASK), delta(tool_calls=[call]), STOP)
    started = events[1]
    assert isinstance(started, ToolCallStarted)
    assert started.call_id.startswith("call_")
    assert events[2] == ToolCallDelta(0, '{"a": 1}')
    assert events[-1].reason == "tool_calls"


def test_a_call_that_never_gets_a_name_stays_text() -> None:
    call = {"index": 0, "function": {"arguments": "{}"}}
    events = feed(OpenAiAnswer("p", TASK), delta(tool_calls=[call]), STOP)
    assert TextDelta("{}") in events


def test_usage_stands_in_different_places() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_cache_hit_tokens": 1}
    places: list[dict[str, Any]] = [
        STOP | {"usage": usage},
        STOP | {"x_groq": {"usage": usage}},
        {"choices": [STOP["choices"][0] | {"usage": usage}]},
    ]
    for chunk in places:
        events = feed(OpenAiAnswer("p", TASK), delta(content="x"), chunk)
        assert events[-1] == Finished("stop", Usage(3, 2, cached_tokens=1))
    assert usage_of({"prompt_tokens": -1, "completion_tokens": "x"}) == Usage(0, 0)


def test_logprobs_only_where_asked() -> None:
    entry = {"token": "é", "logprob": -0.5, "bytes": [195, 169], "top_logprobs": []}
    chunk = delta(content="é")
    chunk["choices"][0]["logprobs"] = {"content": [entry]}
    asked = replace(TASK, logprobs=True)
    assert feed(OpenAiAnswer("p", asked), chunk, STOP)[1] == TextDelta(
        "é", (TokenLogprob("é", b"\xc3\xa9", -0.5),)
    )
    assert feed(OpenAiAnswer("p", TASK), chunk, STOP)[1] == TextDelta("é")


def test_nonsense_of_the_right_form_is_survived() -> None:
    for chunk in ({}, {"choices": 1}, {"choices": [1]}, {"choices": [{"delta": []}]}, delta(a=1)):
        assert feed(OpenAiAnswer("p", TASK), chunk, STOP)[-1].reason == "stop"


def test_a_whole_message_of_anthropics() -> None:
    message = {
        "type": "message",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "text", "text": "hi"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
        ],
        "stop_reason": "stop_sequence",
        "stop_sequence": "END",
        "usage": {"input_tokens": 4, "cache_read_input_tokens": 6, "output_tokens": 3},
    }
    answer = AnthropicAnswer("p")
    assert [*answer.object(message), *answer.finish()] == [
        Admitted(10, 6),
        ReasoningDelta("hm"),
        ReasoningDelta("", "s"),
        TextDelta("hi"),
        ToolCallStarted(0, "t", "f"),
        ToolCallDelta(0, '{"a": 1}'),
        Finished("stop", Usage(10, 3, cached_tokens=6), "END"),
    ]


def test_knobs_go_only_where_they_are_known() -> None:
    sampling = Sampling(temperature=0.5, top_k=3, min_p=0.1, seed=2**64 - 1, logit_bias={7: -1.0})
    task = replace(TASK, sampling=sampling, max_tokens=9, extras={"model": "evil", "foo": 1})
    body = wire_openai.body_of(task, endpoint("openai"))
    assert body["model"] == "m"
    assert body["foo"] == 1
    assert body["max_completion_tokens"] == 9
    assert body["seed"] == -1
    assert body["logit_bias"] == {"7": -1.0}
    assert not {"top_k", "min_p", "max_tokens"} & body.keys()
    assert wire_openai.body_of(task, endpoint("together"))["top_k"] == 3
    mistral = wire_openai.body_of(task, endpoint("mistral"))
    assert mistral["random_seed"] == -1
    assert not {"seed", "logit_bias", "stream_options"} & mistral.keys()


def test_images_stand_where_they_stood() -> None:
    images = (Image("image/png", b"1", offset=1), Image("", b"", offset=3, url="https://x/y"))
    task = replace(TASK, messages=(Message("user", "abcd", images=images),))
    (message,) = wire_openai.body_of(task, endpoint("openai"))["messages"]
    assert [part["type"] for part in message["content"]] == [
        "text", "image_url", "text", "image_url", "text",
    ]  # fmt: skip
    assert message["content"][1]["image_url"]["url"] == "data:image/png;base64,MQ=="
    (message,) = wire_anthropic.body_of(task, endpoint("anthropic"), 5)["messages"]
    assert message["content"][1]["source"]["data"] == "MQ=="
    assert message["content"][3]["source"] == {"type": "url", "url": "https://x/y"}


def test_images_of_tool_results_follow_them() -> None:
    result = Message("tool", "see", tool_call_id="c", images=(Image("image/png", b"1"),))
    messages = wire_openai.body_of(replace(TASK, messages=(result, *HI)), endpoint("groq"))[
        "messages"
    ]
    assert [message["role"] for message in messages] == ["tool", "user", "user"]


def test_formats_that_cannot_be_held_are_refused() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    asked = ReplyFormat("json_schema", "response_format", json.dumps(schema), name="n")
    body = wire_openai.body_of(replace(TASK, reply_format=asked), endpoint("openai"))
    described = body["response_format"]["json_schema"]
    assert (described["name"], described["strict"]) == ("n", True)
    loose = ReplyFormat("json_schema", "response_format", '{"type": "object"}')
    body = wire_openai.body_of(replace(TASK, reply_format=loose), endpoint("openai"))
    assert "strict" not in body["response_format"]["json_schema"]
    regex = replace(TASK, reply_format=ReplyFormat("regex", "guided_regex", "a+"))
    for refuse in (
        lambda: wire_openai.body_of(regex, endpoint("openai")),
        lambda: wire_anthropic.body_of(regex, endpoint("anthropic"), 5),
        lambda: wire_openai.body_of(replace(TASK, adapter_id="a"), endpoint("openai")),
    ):
        with pytest.raises(InvalidRequest):
            refuse()
    mine = Endpoint(open_provider("mine"), "http://x", "m")
    assert wire_openai.body_of(regex, mine)["guided_regex"] == "a+"


def test_thinking_in_each_wire() -> None:
    def effort(level: str, model: str, budget: int | None = None) -> Any:
        task = replace(TASK, thinking=Thinking(level, budget))
        return wire_openai.body_of(task, endpoint("openai", model)).get("reasoning_effort")

    assert effort("high", "o3") == "high"
    assert effort("on", "o3", 20_000) == "high"
    assert effort("on", "gpt-4o", 20_000) is None
    assert effort("off", "gpt-4o") is None
    task = replace(TASK, max_tokens=10, thinking=Thinking("low"), sampling=Sampling(temperature=0))
    body = wire_anthropic.body_of(task, endpoint("anthropic"), 5)
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    assert body["max_tokens"] == 2058
    assert "temperature" not in body
    within = replace(task, max_tokens=5000, thinking=Thinking("on", 2000))
    assert wire_anthropic.body_of(within, endpoint("anthropic"), 5)["max_tokens"] == 5000
    # A turn that began without thoughts goes on without.
    called = Message("assistant", "", tool_calls=(ToolCall("c", "f", "broken"),))
    body = wire_anthropic.body_of(replace(task, messages=(*HI, called)), endpoint("anthropic"), 5)
    assert "thinking" not in body
    assert body["messages"][1]["content"][0]["input"] == {"arguments": "broken"}


def test_tool_choices_in_anthropics_words() -> None:
    tools = (Tool("f", "does f", {"properties": {}}),)
    for choice, parallel, written in (
        (ToolChoice("auto"), True, None),
        (ToolChoice("required"), True, {"type": "any"}),
        (ToolChoice("none"), False, {"type": "none"}),
        (ToolChoice("named", "f"), False, {
            "type": "tool", "name": "f", "disable_parallel_tool_use": True,
        }),
    ):  # fmt: skip
        task = replace(TASK, tools=tools, tool_choice=choice, allows_parallel_calls=parallel)
        body = wire_anthropic.body_of(task, endpoint("anthropic"), 5)
        assert body.get("tool_choice") == written
        assert body["tools"][0]["input_schema"] == {"type": "object", "properties": {}}


def test_signed_thoughts_go_back_to_who_signed_them() -> None:
    thought = Message("assistant", "so", reasoning="hm", signature="s")
    unsigned = Message("assistant", "so", reasoning="hm")
    for message, count in ((thought, 2), (unsigned, 1)):
        body = wire_anthropic.body_of(
            replace(TASK, messages=(*HI, message)), endpoint("anthropic"), 5
        )
        assert len(body["messages"][1]["content"]) == count
