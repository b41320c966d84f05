"""The MCP endpoint as the official client sees it, in every revision."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from shoal_common.errors import PlanUnavailable
from shoal_gateway.providers.testing import fake_provider, openai_stream

KEY = "k" * 64
HELLO: Any = [{"role": "user", "content": "hi"}]
MODES = ("legacy", "2026-07-28")
TOOL_NAMES = ["chat", "models", "compare", "research", "batch_prompts", "delegate", "node_info"]

Connect = Callable[[str], AbstractAsyncContextManager[Client]]


@asynccontextmanager
async def client_of(url: str, mode: str) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


@pytest.fixture
def connect(fleet: Any) -> Connect:
    return lambda mode: client_of(fleet.url, mode)


def text_of(result: Any) -> str:
    (block,) = result.content
    assert block.type == "text"
    return str(block.text)


@pytest.mark.parametrize("mode", MODES)
async def test_the_tools_are_listed(connect: Connect, mode: str) -> None:
    async with connect(mode) as client:
        tools = (await client.list_tools()).tools
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else mode)
    assert [tool.name for tool in tools] == TOOL_NAMES
    for tool in tools:
        assert tool.description
        assert tool.input_schema["type"] == "object"
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is not None
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is True
        assert tool.annotations.destructive_hint is False
    pure = {tool.name for tool in tools if tool.annotations and tool.annotations.idempotent_hint}
    assert pure == {"models", "node_info"}
    fields = {tool.name: sorted(tool.input_schema["properties"]) for tool in tools}
    assert fields == {
        "chat": ["max_tokens", "messages", "model", "temperature"],
        "models": [],
        "compare": ["max_tokens", "models", "prompt", "system"],
        "research": ["max_tokens", "models", "question", "system"],
        "batch_prompts": ["tasks"],
        "delegate": ["max_tokens", "prompt", "system", "tier"],
        "node_info": [],
    }


async def test_auto_takes_the_newest_revision(connect: Connect) -> None:
    async with connect("auto") as client:
        assert client.protocol_version == "2026-07-28"
        assert client.server_info.name == "shoal"


@pytest.mark.parametrize("mode", MODES)
async def test_chat(fleet: Any, connect: Connect, mode: str) -> None:
    fleet.says("one two three")
    given = {"model": "heavyweight", "messages": HELLO, "temperature": 0.5, "max_tokens": 64}
    async with connect(mode) as client:
        result = await client.call_tool("chat", given)
    assert not result.is_error
    assert text_of(result) == "one two three"
    said = result.structured_content
    assert said["model"] == "heavyweight"
    assert said["content"] == "one two three"
    assert said["finish_reason"] == "stop"
    assert said["output_tokens"] == len(fleet.stage.reply_ids) + 1
    request = fleet.stage.requests[0]
    assert said["input_tokens"] == len(request.token_ids.ids)
    assert request.max_tokens == 64
    assert request.sampling.temperature == pytest.approx(0.5)


@pytest.mark.parametrize("mode", MODES)
async def test_chat_tells_its_progress(fleet: Any, connect: Connect, mode: str) -> None:
    fleet.says("a b c d e f g h i j k l m n o p q r s t u v w x y z " * 4)
    told: list[tuple[float, float | None]] = []

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        told.append((done, total))

    async with connect(mode) as client:
        result = await client.call_tool(
            "chat", {"messages": HELLO, "max_tokens": 300}, progress_callback=on_progress
        )
    assert not result.is_error
    assert len(told) >= 3
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert {total for _, total in told} == {300}


async def test_models(connect: Connect) -> None:
    async with connect("2026-07-28") as client:
        result = await client.call_tool("models", {})
    assert result.structured_content["count"] == 1
    (model,) = result.structured_content["models"]
    assert model["id"] == "heavyweight"
    assert model["provider"] == "local"
    assert model["is_ready"] is True
    assert model["context_length"] == 512
    assert json.loads(text_of(result)) == result.structured_content


@pytest.mark.parametrize("mode", MODES)
async def test_compare_keeps_an_unknown_model_to_its_own_row(
    fleet: Any, connect: Connect, mode: str
) -> None:
    fleet.says("hello")
    told: list[float] = []

    async def on_progress(done: float, total: float | None, message: str | None) -> None:
        assert total == 3
        told.append(done)

    given = {"prompt": "hi", "models": ["heavyweight", "nobody", "heavyweight"], "system": "short"}
    async with connect(mode) as client:
        result = await client.call_tool("compare", given, progress_callback=on_progress)
    assert not result.is_error
    body = result.structured_content
    assert body["prompt"] == "hi"
    assert body["models_compared"] == 3
    assert body["successful_responses"] == 2
    assert [row["status"] for row in body["results"]] == ["ok", "error", "ok"]
    assert [row["model"] for row in body["results"]] == ["heavyweight", "nobody", "heavyweight"]
    assert [row["response"] for row in body["results"]] == ["hello", "", "hello"]
    assert "'nobody' does not exist" in body["results"][1]["error"]
    assert told == [1, 2, 3]


async def test_compare_is_an_error_when_nobody_answers(fleet: Any, connect: Connect) -> None:
    fleet.router.error = PlanUnavailable("no worker holds layers 2 to 4")
    async with connect("2026-07-28") as client:
        result = await client.call_tool(
            "compare", {"prompt": "hi", "models": ["heavyweight", "heavyweight"]}
        )
    assert result.is_error
    assert result.structured_content["successful_responses"] == 0
    assert "layers 2 to 4" in result.structured_content["results"][0]["error"]


async def test_research(fleet: Any, connect: Connect) -> None:
    fleet.says("because")
    async with connect("2026-07-28") as client:
        for models in (["heavyweight"], None):
            given: dict[str, Any] = {"question": "why?"} | ({"models": models} if models else {})
            body = (await client.call_tool("research", given)).structured_content
            assert body["question"] == "why?"
            assert body["models_queried"] == body["successful_responses"] == 1
            (row,) = body["results"]
            assert row["response"] == "because"
            assert row["status"] == "ok"
            assert body["total_tokens_used"] == row["input_tokens"] + row["output_tokens"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_failing_task_leaves_the_batch_alone(
    fleet: Any, connect: Connect, mode: str
) -> None:
    tasks = [
        {"id": "summary", "model": "heavyweight", "prompt": "sum", "max_tokens": 8},
        {"id": "broken", "model": "nobody", "prompt": "x"},
        {"prompt": "three", "system": "be brief"},
    ]
    async with connect(mode) as client:
        result = await client.call_tool("batch_prompts", {"tasks": tasks})
    assert not result.is_error
    body = result.structured_content
    assert (body["tasks_submitted"], body["tasks_completed"]) == (3, 2)
    assert [row["task_id"] for row in body["results"]] == ["summary", "broken", "3"]
    assert [row["status"] for row in body["results"]] == ["ok", "error", "ok"]
    assert body["results"][0]["content"] == "hello"
    assert body["results"][1]["content"] == ""


async def test_delegate_says_whom_it_took_and_why(connect: Connect) -> None:
    async with connect("2026-07-28") as client:
        for tier in ("fast", "cheap", "smart", None):
            given = {"prompt": "sum up"} | ({"tier": tier} if tier else {})
            result = await client.call_tool("delegate", given)
            assert text_of(result) == "hello"
            assert result.structured_content["model"] == "heavyweight"
            assert result.structured_content["tier"] == (tier or "fast")
            assert "6 layers" in result.structured_content["why"]


async def test_delegate_without_a_model_says_so(fleet: Any, connect: Connect) -> None:
    fleet.router.is_ready = False
    async with connect("2026-07-28") as client:
        result = await client.call_tool("delegate", {"prompt": "sum up"})
    assert result.is_error
    assert "no model is ready" in text_of(result)


@pytest.mark.parametrize("mode", MODES)
async def test_node_info_and_the_status_resource(connect: Connect, mode: str) -> None:
    async with connect(mode) as client:
        told = (await client.call_tool("node_info", {})).structured_content
        (resource,) = (await client.list_resources()).resources
        assert resource.mime_type == "application/json"
        for uri in (resource.uri, "swarmllm://status"):
            (contents,) = (await client.read_resource(uri)).contents
            assert contents.uri == uri
            status = json.loads(contents.text)  # type: ignore[union-attr]
            assert status | {"uptime_s": 0} == told | {"uptime_s": 0}
        with pytest.raises(MCPError, match="there is no resource"):
            await client.read_resource("shoal://secrets")
    assert told["status"] == "ready"
    assert told["models_ready"] == ["heavyweight"]
    assert told["model_loaded"] == "heavyweight"


async def test_a_router_that_is_away_is_a_status(fleet: Any, connect: Connect) -> None:
    await fleet.router_server.stop()
    async with connect("2026-07-28") as client:
        told = await client.call_tool("node_info", {})
        models = await client.call_tool("models", {})
    assert not told.is_error
    assert told.structured_content["status"] == "router_unreachable"
    assert models.is_error
    assert "router cannot be reached" in text_of(models)


BAD_ARGUMENTS = [
    ("chat", {}, "'messages' is required"),
    ("chat", {"messages": []}, "'messages' must hold"),
    ("chat", {"messages": [{"role": "boss", "content": "x"}]}, "'messages[0].role'"),
    ("chat", {"messages": HELLO, "temperature": 3}, "'temperature' must be between"),
    ("chat", {"messages": HELLO, "max_tokens": 0}, "'max_tokens' must be between"),
    ("chat", {"messages": HELLO, "model": 7}, "'model' must be a string"),
    ("chat", {"messages": HELLO, "model": "nobody"}, "'nobody' does not exist"),
    ("chat", {"messages": HELLO, "top_p": 1}, "unknown field 'top_p'"),
    ("models", {"all": True}, "unknown field 'all'"),
    ("compare", {"models": ["a", "b"]}, "'prompt' is required"),
    ("compare", {"prompt": "x"}, "'models' is required"),
    ("compare", {"prompt": "x", "models": ["a"]}, "'models' has 1 entries"),
    ("compare", {"prompt": "x", "models": ["a"] * 11}, "'models' has 11 entries"),
    ("compare", {"prompt": "x", "models": ["a", 2]}, "'models[1]' must be a string"),
    ("compare", {"prompt": "x", "models": ["a", ""]}, "'models[1]' has 0 characters"),
    ("research", {}, "'question' is required"),
    ("research", {"question": "x", "models": ["a"] * 6}, "'models' has 6 entries"),
    ("research", {"question": ""}, "'question' must not be empty"),
    ("batch_prompts", {}, "'tasks' is required"),
    ("batch_prompts", {"tasks": []}, "'tasks' must hold"),
    ("batch_prompts", {"tasks": [{"prompt": "x"}] * 51}, "'tasks' has 51 entries"),
    ("batch_prompts", {"tasks": [{"prompt": "x"}, {}]}, "'tasks[1].prompt' is required"),
    ("batch_prompts", {"tasks": [{"prompt": "x", "top": 1}]}, "unknown field 'tasks[0].top'"),
    (
        "batch_prompts",
        {"tasks": [{"prompt": "x", "id": "a"}, {"prompt": "y", "id": "a"}]},
        "'tasks[1].id' is the id of an earlier task",
    ),
    ("batch_prompts", {"tasks": [{"prompt": "x", "max_tokens": "9"}]}, "'tasks[0].max_tokens'"),
    ("delegate", {}, "'prompt' is required"),
    ("delegate", {"prompt": "x", "tier": "best"}, "'tier' must be one of fast, cheap, smart"),
    ("delegate", {"prompt": "x", "system": 1}, "'system' must be a string"),
]


async def test_bad_arguments_name_the_field(fleet: Any, connect: Connect) -> None:
    async with connect("2026-07-28") as client:
        for tool, given, message in BAD_ARGUMENTS:
            result = await client.call_tool(tool, given)
            assert result.is_error, (tool, given)
            assert message in text_of(result), (tool, given)
    assert not fleet.stage.requests


@pytest.mark.parametrize("mode", MODES)
async def test_an_unknown_tool_is_a_protocol_error(connect: Connect, mode: str) -> None:
    async with connect(mode) as client:
        with pytest.raises(MCPError, match="there is no tool 'destroy'; there are: chat"):
            await client.session.call_tool("destroy", {})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tool", ["chat", "compare"])
async def test_cancelling_a_call_frees_the_stage(
    fleet: Any, connect: Connect, mode: str, tool: str
) -> None:
    fleet.stage.hold = 0
    given: dict[str, Any] = {"messages": HELLO}
    if tool == "compare":
        given = {"prompt": "hi", "models": ["heavyweight", "heavyweight"]}
    async with connect(mode) as client:
        call = asyncio.create_task(client.call_tool(tool, given))
        await fleet.stage.is_holding.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(fleet.stage.is_cancelled.wait(), 10)
        await asyncio.wait_for(fleet.router.is_closed.wait(), 10)
        fleet.stage.hold = None
        assert text_of(await client.call_tool("chat", {"messages": HELLO})) == "hello"


async def test_a_call_asks_a_bounded_number_of_models_at_once(start_fleet: Any) -> None:
    async with (
        start_fleet(mcp_concurrency=2) as fleet,
        client_of(fleet.url, "2026-07-28") as client,
    ):
        fleet.stage.hold = 0
        tasks = [{"prompt": "x"}] * 5
        call = asyncio.create_task(client.call_tool("batch_prompts", {"tasks": tasks}))
        await fleet.stage.is_holding.wait()
        while len(fleet.stage.requests) < 2:
            await asyncio.wait_for(client.call_tool("models", {}), 10)
        for _ in range(3):
            await client.call_tool("models", {})
        assert len(fleet.stage.requests) == 2
        call.cancel()
        await asyncio.wait((call,))


async def test_models_of_providers_are_listed_compared_and_chosen(start_fleet: Any) -> None:
    async with fake_provider() as provider:
        provider.says(openai_stream("from ", "afar"))
        named = {"their/model": {"base_url": provider.url, "ctx_size": 4096}}
        async with (
            start_fleet(cloud_models=named) as fleet,
            client_of(fleet.url, "2026-07-28") as client,
        ):
            listed = (await client.call_tool("models", {})).structured_content["models"]
            assert [model["id"] for model in listed] == ["heavyweight", "their/model"]
            assert listed[1]["provider"] != "local"
            assert listed[1]["context_length"] == 4096
            given = {"prompt": "hi", "models": ["heavyweight", "their/model"]}
            rows = (await client.call_tool("compare", given)).structured_content["results"]
            assert [row["response"] for row in rows] == ["hello", "from afar"]
            smart = await client.call_tool("delegate", {"prompt": "hi", "tier": "smart"})
            assert smart.structured_content["model"] == "their/model"
            fast = await client.call_tool("delegate", {"prompt": "hi"})
            assert fast.structured_content["model"] == "heavyweight"
