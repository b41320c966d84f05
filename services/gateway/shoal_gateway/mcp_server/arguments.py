"""A tool's arguments to tasks. Pure; every refusal names the field."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from shoal_common.errors import InvalidRequest
from shoal_gateway import limits
from shoal_gateway.dialects import fields
from shoal_gateway.dialects.openai_messages import messages_of
from shoal_gateway.mcp_server.choosing import TIERS, Tier
from shoal_gateway.task import ChatTask, Message, Sampling

COMPARE_MODELS_MIN = 2
COMPARE_MODELS_MAX = 10
BATCH_TASKS_MAX = 50


@dataclass(frozen=True)
class BatchTask:
    """`task_id` is unique in its batch."""

    task_id: str
    task: ChatTask


def known_only(arguments: dict[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Without nulls. Raises InvalidRequest for a name that is not in `known`."""
    given = fields.present(arguments)
    fields.unknown(given, known, is_strict=True)
    return given


def chat_task(given: dict[str, Any]) -> ChatTask:
    """Of the chat tool."""
    return ChatTask(
        model=fields.model_name(given),
        messages=messages_of(given),
        sampling=Sampling(temperature=fields.number(given, "temperature", 0.0, 2.0)),
        max_tokens=max_tokens_of(given),
    )


def prompt_task(given: dict[str, Any], model: str, prompt_param: str, where: str = "") -> ChatTask:
    """One prompt to one model. `where` is what the fields' names begin with in messages."""
    messages = [Message("user", required_text(given, prompt_param, where))]
    system = limits.as_text(given.get("system", ""), f"{where}system")
    if system:
        messages.insert(0, Message("system", system))
    return ChatTask(model, tuple(messages), max_tokens=max_tokens_of(given, where))


def required_text(given: dict[str, Any], param: str, where: str = "") -> str:
    """A text that is not empty."""
    name = f"{where}{param}"
    if param not in given:
        raise InvalidRequest(f"'{name}' is required", param=name)
    if not (text := limits.as_text(given[param], name)):
        raise InvalidRequest(f"'{name}' must not be empty", param=name)
    return text


def max_tokens_of(given: dict[str, Any], where: str = "") -> int | None:
    if "max_tokens" not in given:
        return None
    return limits.as_integer(given["max_tokens"], f"{where}max_tokens", 1, limits.TOKENS_MAX)


def model_names(given: dict[str, Any], least: int, most: int) -> list[str]:
    """`models`, between `least` and `most` of them."""
    if "models" not in given:
        raise InvalidRequest("'models' is required", param="models")
    entries = limits.as_list(given["models"], "models", most)
    if len(entries) < least:
        raise InvalidRequest(
            f"'models' has {len(entries)} entries; it must have {least} to {most}", param="models"
        )
    return [_model(entry, f"models[{index}]") for index, entry in enumerate(entries)]


def batch_tasks(given: dict[str, Any], known: Iterable[str]) -> list[BatchTask]:
    """`tasks`, each with an id of its own; the place in the list where none is given."""
    if "tasks" not in given:
        raise InvalidRequest("'tasks' is required", param="tasks")
    entries = limits.as_list(given["tasks"], "tasks", BATCH_TASKS_MAX)
    if not entries:
        raise InvalidRequest("'tasks' must hold at least one task", param="tasks")
    tasks: list[BatchTask] = []
    taken: set[str] = set()
    for index, entry in enumerate(entries):
        task = _batch_task(entry, index, frozenset(known))
        if task.task_id in taken:
            param = f"tasks[{index}].id"
            raise InvalidRequest(f"'{param}' is the id of an earlier task", param=param)
        taken.add(task.task_id)
        tasks.append(task)
    return tasks


def tier_of(given: dict[str, Any]) -> Tier:
    """fast where none is named."""
    asked = given.get("tier", "fast")
    for tier in TIERS:
        if asked == tier:
            return tier
    raise InvalidRequest(f"'tier' must be one of {', '.join(TIERS)}", param="tier")


def _batch_task(entry: Any, index: int, known: frozenset[str]) -> BatchTask:
    where = f"tasks[{index}]"
    given = fields.present(limits.as_object(entry, where))
    strange = min(given.keys() - known, default=None)
    if strange is not None:
        param = f"{where}.{strange[:80]}"
        raise InvalidRequest(f"unknown field '{param}'", param=param)
    task_id = limits.as_text(given.get("id", str(index + 1)), f"{where}.id")
    limits.check_length(task_id, f"{where}.id", 1, limits.MODEL_NAME_CHARS_MAX)
    model = _model(given.get("model", "auto"), f"{where}.model")
    return BatchTask(task_id, prompt_task(given, model, "prompt", f"{where}."))


def _model(value: Any, param: str) -> str:
    model = limits.as_text(value, param)
    limits.check_length(model, param, 1, limits.MODEL_NAME_CHARS_MAX)
    return "" if model == "auto" else model
