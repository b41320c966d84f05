"""What clients are told of each tool: words, JSON schemas, hints. Data only."""

from __future__ import annotations

from typing import Any

from mcp_types import Tool, ToolAnnotations

from shoal_gateway import limits
from shoal_gateway.mcp_server.arguments import (
    BATCH_TASKS_MAX,
    COMPARE_MODELS_MAX,
    COMPARE_MODELS_MIN,
)
from shoal_gateway.mcp_server.choosing import RESEARCH_MODELS_MAX, TIERS

Schema = dict[str, Any]


def _object(properties: dict[str, Schema], *required: str) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description} | more


def _count(description: str, **more: Any) -> Schema:
    return {"type": "integer", "minimum": 0, "description": description} | more


def _list(items: Schema, description: str, **more: Any) -> Schema:
    return {"type": "array", "items": items, "description": description} | more


_MODEL_NAME = {"type": "string", "minLength": 1, "maxLength": limits.MODEL_NAME_CHARS_MAX}
_MODEL = _MODEL_NAME | {"description": "Name of a model, see the tool models; auto takes a default"}
_SYSTEM = _text("System prompt")
_MAX_TOKENS = _count("Most tokens of an answer", minimum=1, maximum=limits.TOKENS_MAX)
_STATUS = _text("Whether there is an answer", enum=["ok", "error"])
_ERROR = _text("What went wrong, with status error")
_FINISH = _text("stop, length (cut off), tool_calls or content_filter")
_SPENT = {
    "input_tokens": _count("Tokens of the prompt"),
    "output_tokens": _count("Tokens of the answer"),
    "latency_ms": _count("Milliseconds until the answer was whole"),
}
_ANSWERED = _text("Name of the model that answered")
_ROW = {"model": _ANSWERED, "status": _STATUS, "error": _ERROR, "finish_reason": _FINISH} | _SPENT
_ROW_KEYS = ("model", "status", *_SPENT)
_SAID = {"model": _ANSWERED, "content": _text("The answer"), "finish_reason": _FINISH} | _SPENT
_SAID |= {"reasoning": _text("What the model thought before it answered")}
_RESULTS = "One entry for each model, in the order of the question"
_PROMPT = _text("What the model is asked", minLength=1)


def _hints(title: str, *, is_pure: bool) -> ToolAnnotations:
    """Nothing here changes or destroys anything; asking a model costs, and may leave the fleet."""
    return ToolAnnotations(
        title=title,
        read_only_hint=True,
        destructive_hint=False,
        idempotent_hint=is_pure,
        open_world_hint=not is_pure,
    )


def _message() -> Schema:
    roles = ["system", "user", "assistant"]
    parts = {"type": "array", "items": {"type": "object"}}
    content = {"anyOf": [{"type": "string"}, parts], "description": "Text, or parts as in OpenAI's"}
    role = _text("Who speaks", enum=roles)
    return {"type": "object", "properties": {"role": role, "content": content}} | {
        "required": ["role", "content"]
    }


CHAT = Tool(
    name="chat",
    title="Chat with a model",
    description="Send a conversation to one model and get its next message.",
    input_schema=_object(
        {
            "model": _MODEL,
            "messages": _list(
                _message(), "The conversation", minItems=1, maxItems=limits.MESSAGE_COUNT_MAX
            ),
            "temperature": {"type": "number", "minimum": 0, "maximum": 2},
            "max_tokens": _MAX_TOKENS,
        },
        "messages",
    ),
    output_schema=_object(_SAID, "model", "content", "finish_reason", *_SPENT),
    annotations=_hints("Chat with a model", is_pure=False),
)

_MODEL_ENTRY = _object(
    {
        "id": _text("Name of the model"),
        "provider": _text("local for this fleet, else who answers"),
        "is_ready": {"type": "boolean", "description": "It can answer now"},
        "is_loadable": {"type": "boolean", "description": "It is loaded when it is asked"},
        "context_length": _count("Tokens of prompt and answer; 0: unknown"),
        "layer_count": _count("Its layers; 0: unknown"),
        "worker_count": _count("Machines that hold parts of it"),
    },
    "id",
    "provider",
    "is_ready",
)

MODELS = Tool(
    name="models",
    title="List models",
    description="List every model that can be asked here, local and of providers.",
    input_schema=_object({}),
    output_schema=_object(
        {"count": _count("How many"), "models": _list(_MODEL_ENTRY, "The models")},
        "count",
        "models",
    ),
    annotations=_hints("List models", is_pure=True),
)

COMPARE = Tool(
    name="compare",
    title="Compare models",
    description="Ask 2 to 10 models the same and get their answers side by side.",
    input_schema=_object(
        {
            "prompt": _PROMPT,
            "models": _list(
                _MODEL_NAME,
                "Whom to ask",
                minItems=COMPARE_MODELS_MIN,
                maxItems=COMPARE_MODELS_MAX,
            ),
            "system": _SYSTEM,
            "max_tokens": _MAX_TOKENS,
        },
        "prompt",
        "models",
    ),
    output_schema=_object(
        {
            "prompt": _text("What was asked"),
            "models_compared": _count("Models that were asked"),
            "successful_responses": _count("Models that answered"),
            "results": _list(
                _object(_ROW | {"response": _text("The answer")}, "response", *_ROW_KEYS), _RESULTS
            ),
        },
        "prompt",
        "models_compared",
        "successful_responses",
        "results",
    ),
    annotations=_hints("Compare models", is_pure=False),
)

RESEARCH = Tool(
    name="research",
    title="Research a question",
    description=(
        "Ask several models one question at once for different views on it. Without `models`, "
        "ready local models are asked first, then providers', five at most."
    ),
    input_schema=_object(
        {
            "question": _text("What to find out", minLength=1),
            "models": _list(_MODEL_NAME, "Whom to ask", minItems=1, maxItems=RESEARCH_MODELS_MAX),
            "system": _SYSTEM,
            "max_tokens": _MAX_TOKENS,
        },
        "question",
    ),
    output_schema=_object(
        {
            "question": _text("What was asked"),
            "models_queried": _count("Models that were asked"),
            "successful_responses": _count("Models that answered"),
            "total_tokens_used": _count("Tokens of all prompts and answers"),
            "results": _list(
                _object(_ROW | {"response": _text("The answer")}, "response", *_ROW_KEYS), _RESULTS
            ),
        },
        "question",
        "models_queried",
        "successful_responses",
        "total_tokens_used",
        "results",
    ),
    annotations=_hints("Research a question", is_pure=False),
)

BATCH_FIELDS = {
    "id": _text("Your name for the task", minLength=1, maxLength=limits.MODEL_NAME_CHARS_MAX),
    "model": _MODEL,
    "prompt": _PROMPT,
    "system": _SYSTEM,
    "max_tokens": _MAX_TOKENS,
}

BATCH_PROMPTS = Tool(
    name="batch_prompts",
    title="Run a batch of prompts",
    description=(
        "Run up to 50 prompts that do not depend on each other, each on a model of its own. "
        "A task that fails says so in its result and leaves the others alone."
    ),
    input_schema=_object(
        {
            "tasks": _list(
                _object(BATCH_FIELDS, "prompt"), "The tasks", minItems=1, maxItems=BATCH_TASKS_MAX
            )
        },
        "tasks",
    ),
    output_schema=_object(
        {
            "tasks_submitted": _count("Tasks that were given"),
            "tasks_completed": _count("Tasks that have an answer"),
            "results": _list(
                _object(
                    _ROW | {"task_id": _text("The task's id"), "content": _text("The answer")},
                    "task_id",
                    "content",
                    *_ROW_KEYS,
                ),
                "One entry for each task, in their order",
            ),
        },
        "tasks_submitted",
        "tasks_completed",
        "results",
    ),
    annotations=_hints("Run a batch of prompts", is_pure=False),
)

DELEGATE = Tool(
    name="delegate",
    title="Delegate a task",
    description=(
        "Hand one prompt to the model that fits: fast takes the quickest local model, cheap the "
        "smallest, smart the most capable, which may be a provider's."
    ),
    input_schema=_object(
        {
            "prompt": _PROMPT,
            "tier": _text("What matters most", enum=list(TIERS), default="fast"),
            "system": _SYSTEM,
            "max_tokens": _MAX_TOKENS,
        },
        "prompt",
    ),
    output_schema=_object(
        _SAID
        | {"tier": _text("What was asked for", enum=list(TIERS)), "why": _text("Why this model")},
        "model",
        "tier",
        "why",
        "content",
        "finish_reason",
        *_SPENT,
    ),
    annotations=_hints("Delegate a task", is_pure=False),
)

STATUS_SCHEMA = _object(
    {
        "name": _text("Always shoal"),
        "version": _text("Version of the gateway"),
        "uptime_s": _count("Seconds since it started"),
        "status": _text("Whether it can answer", enum=["ready", "no_model", "router_unreachable"]),
        "model_loaded": {"type": ["string", "null"], "description": "The first ready model"},
        "models_ready": _list({"type": "string"}, "Models that can answer now"),
        "models_loadable": _list({"type": "string"}, "Models that are loaded when they are asked"),
        "providers": _list({"type": "string"}, "Cloud providers with models here"),
        "worker_count": _count("Machines behind the model that has most"),
    },
    "name",
    "version",
    "uptime_s",
    "status",
    "model_loaded",
    "models_ready",
    "models_loadable",
    "providers",
    "worker_count",
)

NODE_INFO = Tool(
    name="node_info",
    title="Describe this server",
    description="Tell the server's version, its models and whether it can answer now.",
    input_schema=_object({}),
    output_schema=STATUS_SCHEMA,
    annotations=_hints("Describe this server", is_pure=True),
)
