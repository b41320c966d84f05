"""A task in the drafter's words. Pure."""

from __future__ import annotations

import json

from shoal.common.v1 import chat_pb2
from shoal.drafter.v1 import drafter_pb2
from shoal.worker.v1 import pipeline_pb2, stage_pb2
from shoal_gateway.opening import plan_open
from shoal_gateway.prompt import Prepared
from shoal_gateway.task import ChatTask, Message, ReplyFormat, Role, ToolChoice, ToolMode

_ROLES: dict[Role, chat_pb2.Role] = {
    "system": chat_pb2.ROLE_SYSTEM,
    "user": chat_pb2.ROLE_USER,
    "assistant": chat_pb2.ROLE_ASSISTANT,
    "tool": chat_pb2.ROLE_TOOL,
}
_TOOL_MODES: dict[ToolMode, chat_pb2.ToolMode] = {
    "auto": chat_pb2.TOOL_MODE_AUTO,
    "none": chat_pb2.TOOL_MODE_NONE,
    "required": chat_pb2.TOOL_MODE_REQUIRED,
    "named": chat_pb2.TOOL_MODE_NAMED,
}


def task_of(task: ChatTask, sampling: chat_pb2.SamplingSpec, max_tokens: int) -> chat_pb2.ChatTask:
    """`sampling` as it was resolved; a seed stands in it only where the client asked for one."""
    spec = chat_pb2.SamplingSpec()
    spec.CopyFrom(sampling)
    spec.seed = task.sampling.seed or 0
    tools = [
        chat_pb2.Tool(
            name=tool.name,
            description=tool.description,
            parameters_json=json.dumps(dict(tool.parameters)),
        )
        for tool in task.tools
    ]
    return chat_pb2.ChatTask(
        model=task.model,
        messages=[_message(message) for message in task.messages],
        tools=tools,
        tool_choice=_tool_choice(task.tool_choice) if tools else None,
        sampling=spec,
        max_tokens=max_tokens,
        stop=task.stop,
        response_format=_format(task.reply_format),
        session_id=task.session_id,
        adapter_id=task.adapter_id,
        tenant=task.tenant,
        privacy=task.privacy.wire_label,
    )


def fleet_draft_of(prepared: Prepared, host_id: str, wait_s: float) -> drafter_pb2.FleetDraft:
    """Ready to be planned and run; host_id and wait_s as for the gateway's own plans.

    Of the pipeline only the revision stands: ids of another one's tokeniser must not be run.
    """
    generate = stage_pb2.GenerateRequest(
        request_id=prepared.request_id,
        pipeline=pipeline_pb2.Pipeline(model_revision=prepared.revision),
        token_ids=stage_pb2.TokenIds(ids=prepared.prompt_ids),
        sampling=prepared.sampling,
        max_tokens=prepared.max_tokens,
        stop_token_ids=prepared.tokens.stop_token_ids,
        tenant=prepared.task.tenant,
        adapter_id=prepared.task.adapter_id,
        grammar=prepared.grammar,
    )
    return drafter_pb2.FleetDraft(
        plan=plan_open(prepared, host_id, wait_s),
        generate=generate,
        vocabulary_size=prepared.tokens.tokenizer.get_vocab_size(),
    )


def _message(message: Message) -> chat_pb2.ChatMessage:
    content = []
    if message.reasoning:
        content.append(chat_pb2.ContentPart(thinking=message.reasoning))
    if message.told:
        content.append(chat_pb2.ContentPart(text=message.told))
    calls = [
        chat_pb2.ToolCall(call_id=call.call_id, name=call.name, arguments_json=call.arguments)
        for call in message.tool_calls
    ]
    return chat_pb2.ChatMessage(
        role=_ROLES[message.role],
        content=content,
        tool_calls=calls,
        tool_call_id=message.tool_call_id,
        name=message.name,
    )


def _tool_choice(choice: ToolChoice) -> chat_pb2.ToolChoice:
    return chat_pb2.ToolChoice(mode=_TOOL_MODES[choice.mode], name=choice.name)


def _format(reply_format: ReplyFormat | None) -> chat_pb2.ResponseFormat | None:
    if reply_format is None:
        return None
    if reply_format.kind == "json_object":
        return chat_pb2.ResponseFormat(json_object=True)
    if reply_format.kind == "json_schema":
        return chat_pb2.ResponseFormat(json_schema=reply_format.text)
    return None
