"""The seven tools: arguments in, a result for programs and for people out."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mcp_types import Tool

from shoal_gateway.errors import NoModelReady
from shoal_gateway.mcp_server import arguments, choosing, schemas
from shoal_gateway.mcp_server.asking import Asker, Outcome
from shoal_gateway.mcp_server.catalogue import ModelCatalogue
from shoal_gateway.mcp_server.node import Node
from shoal_gateway.task import ChatTask

# Progress so far, the total where it is known, and a line for people.
Progress = Callable[[float, float | None, str], Awaitable[None]]
# The same task in its caller's name.
Claim = Callable[[ChatTask], ChatTask]


@dataclass(frozen=True)
class Call:
    """`arguments` holds only names that the tool knows, and no nulls."""

    request_id: str
    arguments: dict[str, Any]
    claim: Claim
    progress: Progress


@dataclass(frozen=True)
class Result:
    """`structured` fits the tool's output schema; `text` says the same to people."""

    structured: dict[str, Any]
    text: str
    is_error: bool = False


Handler = Callable[[Call], Awaitable[Result]]


class Toolbox:
    """Every tool with what it needs. Calls raise ShoalError for what the caller is told."""

    def __init__(self, asker: Asker, catalogue: ModelCatalogue, node: Node) -> None:
        self._asker = asker
        self._catalogue = catalogue
        self._node = node
        self._handlers: dict[str, tuple[Tool, Handler]] = {
            tool.name: (tool, handler)
            for tool, handler in (
                (schemas.CHAT, self._chat),
                (schemas.MODELS, self._models),
                (schemas.COMPARE, self._compare),
                (schemas.RESEARCH, self._research),
                (schemas.BATCH_PROMPTS, self._batch_prompts),
                (schemas.DELEGATE, self._delegate),
                (schemas.NODE_INFO, self._node_info),
            )
        }

    @property
    def tools(self) -> list[Tool]:
        return [tool for tool, _ in self._handlers.values()]

    def find(self, name: str) -> Tool | None:
        entry = self._handlers.get(name)
        return None if entry is None else entry[0]

    async def run(
        self,
        name: str,
        request_id: str,
        given: dict[str, Any],
        claim: Claim,
        progress: Progress,
    ) -> Result:
        """One call of a tool that `find` knows. Raises InvalidRequest naming a bad argument."""
        tool, handler = self._handlers[name]
        checked = arguments.known_only(given, tool.input_schema["properties"])
        return await handler(Call(request_id, checked, claim, progress))

    async def _chat(self, call: Call) -> Result:
        outcome = await self._answer(call, arguments.chat_task(call.arguments))
        return Result(_said(outcome), outcome.text)

    async def _models(self, call: Call) -> Result:
        entries = [
            {
                "id": model.name,
                "provider": model.provider or "local",
                "is_ready": model.is_ready,
                "is_loadable": model.is_loadable,
                "context_length": model.context_length,
                "layer_count": model.layer_count,
                "worker_count": model.worker_count,
            }
            for model in await self._catalogue.models()
        ]
        return _as_json({"count": len(entries), "models": entries})

    async def _compare(self, call: Call) -> Result:
        names = arguments.model_names(
            call.arguments, arguments.COMPARE_MODELS_MIN, arguments.COMPARE_MODELS_MAX
        )
        outcomes = await self._ask_same(call, names, "prompt")
        head = {"prompt": call.arguments["prompt"], "models_compared": len(names)}
        return _answers(head, outcomes)

    async def _research(self, call: Call) -> Result:
        if "models" in call.arguments:
            names = arguments.model_names(call.arguments, 1, choosing.RESEARCH_MODELS_MAX)
        else:
            arguments.required_text(call.arguments, "question")
            names = list(choosing.for_research(await self._catalogue.models()))
        if not names:
            raise NoModelReady
        outcomes = await self._ask_same(call, names, "question")
        head = {
            "question": call.arguments["question"],
            "models_queried": len(names),
            "total_tokens_used": sum(_tokens(outcome) for outcome in outcomes),
        }
        return _answers(head, outcomes)

    async def _batch_prompts(self, call: Call) -> Result:
        batch = arguments.batch_tasks(call.arguments, schemas.BATCH_FIELDS)
        outcomes = await self._ask_all(call, [one.task for one in batch])
        results = [
            {"task_id": one.task_id, "content": outcome.text} | _row(outcome)
            for one, outcome in zip(batch, outcomes, strict=True)
        ]
        completed = sum(outcome.is_ok for outcome in outcomes)
        body = {"tasks_submitted": len(batch), "tasks_completed": completed, "results": results}
        return _as_json(body, is_error=not completed)

    async def _delegate(self, call: Call) -> Result:
        tier = arguments.tier_of(call.arguments)
        # The prompt is checked before a model is sought for it.
        arguments.required_text(call.arguments, "prompt")
        choice = choosing.for_tier(tier, await self._catalogue.models())
        if choice is None:
            raise NoModelReady
        task = arguments.prompt_task(call.arguments, choice.model, "prompt")
        outcome = await self._answer(call, task)
        chosen = {"tier": tier, "why": choice.why}
        return Result(_said(outcome) | chosen, outcome.text)

    async def _node_info(self, call: Call) -> Result:
        return _as_json(await self._node.status())

    async def _answer(self, call: Call, task: ChatTask) -> Outcome:
        async def report(count: int) -> None:
            await call.progress(count, task.max_tokens, f"{count} tokens")

        return await self._asker.ask(call.request_id, call.claim(task), report)

    async def _ask_same(self, call: Call, names: Sequence[str], param: str) -> list[Outcome]:
        tasks = [arguments.prompt_task(call.arguments, name, param) for name in names]
        return await self._ask_all(call, tasks)

    async def _ask_all(self, call: Call, tasks: Sequence[ChatTask]) -> list[Outcome]:
        async def report(count: int) -> None:
            await call.progress(count, len(tasks), f"{count} of {len(tasks)} answered")

        claimed = [call.claim(task) for task in tasks]
        return await self._asker.ask_all(call.request_id, claimed, report)


def _tokens(outcome: Outcome) -> int:
    return outcome.usage.prompt_tokens + outcome.usage.completion_tokens


def _spent(outcome: Outcome) -> dict[str, Any]:
    return {
        "input_tokens": outcome.usage.prompt_tokens,
        "output_tokens": outcome.usage.completion_tokens,
        "latency_ms": outcome.latency_ms,
    }


def _said(outcome: Outcome) -> dict[str, Any]:
    assert outcome.said is not None
    said: dict[str, Any] = {
        "model": outcome.model,
        "content": outcome.text,
        "finish_reason": outcome.said.finished.reason,
    }
    if outcome.said.reasoning:
        said["reasoning"] = outcome.said.reasoning
    return said | _spent(outcome)


def _row(outcome: Outcome) -> dict[str, Any]:
    row: dict[str, Any] = {"model": outcome.model or "auto"} | _spent(outcome)
    if outcome.said is None:
        return row | {"status": "error", "error": outcome.error}
    return row | {"status": "ok", "finish_reason": outcome.said.finished.reason}


def _answers(head: dict[str, Any], outcomes: Sequence[Outcome]) -> Result:
    """An error only if nobody answered."""
    successful = sum(outcome.is_ok for outcome in outcomes)
    results = [{"response": outcome.text} | _row(outcome) for outcome in outcomes]
    body = head | {"successful_responses": successful, "results": results}
    return _as_json(body, is_error=not successful)


def _as_json(body: dict[str, Any], is_error: bool = False) -> Result:
    return Result(body, json.dumps(body, ensure_ascii=False), is_error)
