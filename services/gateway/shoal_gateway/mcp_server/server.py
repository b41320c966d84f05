"""Tools and resources as the MCP SDK serves them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListResourcesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    TextContent,
    TextResourceContents,
)

from shoal_common.errors import Cancelled, ShoalError
from shoal_gateway.mcp_server.asking import INTERNAL_ERROR_TEXT
from shoal_gateway.mcp_server.node import NAME, Node, installed_version
from shoal_gateway.mcp_server.tools import Claim, Result, Toolbox

log = logging.getLogger(__name__)

T = TypeVar("T")
Context = ServerRequestContext[Any, Any]

STATUS_URI = "shoal://status"
# What clients of the reference read.
STATUS_URI_ALIAS = "swarmllm://status"
# The lists never change while a gateway runs.
_LISTS = CacheHint(ttl_ms=300_000, scope="private")
_INSTRUCTIONS = (
    "Ask language models of this fleet and of the providers it knows. chat talks to one model, "
    "compare and research ask several, batch_prompts runs many prompts, delegate picks the model."
)


@dataclass(frozen=True)
class HttpCall:
    """What the transport knows of the HTTP request that carries a call; it is put into the ASGI
    scope under `SCOPE_KEY`. `is_over` is set when nobody listens to its response any more: a
    session outlives its requests, what they asked for must not. `claim` puts a task into the name
    of whoever showed the key."""

    request_id: str
    is_over: asyncio.Event
    claim: Claim


SCOPE_KEY = "shoal.call"


def make_server(toolbox: Toolbox, node: Node) -> Server[Any]:
    """A server for any number of sessions and of requests without one."""
    handlers = _Handlers(toolbox, node)
    return Server(
        NAME,
        version=installed_version(),
        title="Shoal",
        instructions=_INSTRUCTIONS,
        cache_hints={"tools/list": _LISTS, "resources/list": _LISTS},
        get_tool_input_schema=handlers.input_schema,
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
        on_list_resources=handlers.list_resources,
        on_read_resource=handlers.read_resource,
    )


@dataclass(frozen=True)
class _Handlers:
    toolbox: Toolbox
    node: Node

    def input_schema(self, name: str) -> dict[str, Any] | None:
        tool = self.toolbox.find(name)
        return None if tool is None else tool.input_schema

    async def list_tools(
        self, ctx: Context, params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return ListToolsResult(tools=self.toolbox.tools)

    async def call_tool(self, ctx: Context, params: CallToolRequestParams) -> CallToolResult:
        """What goes wrong in a tool is a result, so that the calling model can read it."""
        if self.toolbox.find(params.name) is None:
            known = ", ".join(tool.name for tool in self.toolbox.tools)
            message = f"there is no tool '{params.name[:80]}'; there are: {known}"
            raise MCPError(code=INVALID_PARAMS, message=message)
        call = _http_call(ctx)

        async def progress(done: float, total: float | None, message: str) -> None:
            await ctx.session.report_progress(done, total, message)

        given = params.arguments or {}
        work = self.toolbox.run(params.name, call.request_id, given, call.claim, progress)
        try:
            return _result(await while_wanted(work, call.is_over))
        except ShoalError as err:
            log.info("tool refused", extra={"tool": params.name, "reason": err.reason})
            return _failure(str(err))
        # The outermost loop of a tool's call.
        except Exception:
            log.exception("tool failed", extra={"tool": params.name})
            return _failure(INTERNAL_ERROR_TEXT)

    async def list_resources(
        self, ctx: Context, params: PaginatedRequestParams | None
    ) -> ListResourcesResult:
        status = Resource(
            uri=STATUS_URI,
            name="status",
            title="Status",
            description="Version, models and whether the server can answer now.",
            mime_type="application/json",
        )
        return ListResourcesResult(resources=[status])

    async def read_resource(
        self, ctx: Context, params: ReadResourceRequestParams
    ) -> ReadResourceResult:
        if params.uri not in (STATUS_URI, STATUS_URI_ALIAS):
            message = f"there is no resource '{params.uri[:200]}'; there is: {STATUS_URI}"
            raise MCPError(code=INVALID_PARAMS, message=message, data={"uri": params.uri[:200]})
        text = json.dumps(await self.node.status())
        contents = TextResourceContents(uri=params.uri, mime_type="application/json", text=text)
        return ReadResourceResult(contents=[contents])


async def while_wanted(work: Coroutine[Any, Any, T], is_over: asyncio.Event) -> T:
    """`work` to its end, in a task of its own; leaving early ends it, and waits until it has.

    The SDK cancels by scopes that strike again at every await, under which no generation could
    close what it holds. Raises Cancelled when `is_over` comes first.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(is_over.wait())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Cancelled("the client has gone")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.gather(working, leaving, return_exceptions=True)


def _http_call(ctx: Context) -> HttpCall:
    assert ctx.request is not None, "the transport hands on its request"
    call = ctx.request.scope[SCOPE_KEY]
    assert isinstance(call, HttpCall)
    return call


def _result(result: Result) -> CallToolResult:
    return CallToolResult(
        content=[TextContent(text=result.text)],
        structured_content=result.structured,
        is_error=result.is_error,
    )


def _failure(message: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=message)], is_error=True)
