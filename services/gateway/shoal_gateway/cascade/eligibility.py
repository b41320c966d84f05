"""Which requests are worth a draft, and what the cache may have of them. Pure."""

from __future__ import annotations

from shoal.drafter.v1 import drafter_pb2
from shoal_gateway.task import ChatTask, Thinking

HERE = ("127.", "localhost:", "[::1]:", "unix:")
_WIRE_FORMATS = ("json_object", "json_schema")


def is_here(address: str) -> bool:
    """Whether a service of that address runs on this machine, as far as the address tells."""
    return address.removeprefix("grpc:").startswith(HERE)


def why_no_draft(task: ChatTask, kind: drafter_pb2.DrafterKind, is_drafter_here: bool) -> str:
    """Why the heavyweight answers at once, of a closed set; "" where a draft makes sense.

    What neither the wire nor every drafter can say would be left out of the draft in silence.
    """
    if any(message.images for message in task.messages):
        return "images"
    if task.raw_prompt is not None:
        return "raw_prompt"
    if task.logprobs:
        return "logprobs"
    if task.adapter_id:
        return "adapter"
    # Ids of the heavyweight's vocabulary.
    if task.sampling.logit_bias:
        return "logit_bias"
    if task.continues_last:
        return "continuation"
    # What the drafter is sent, a machine beyond the bound could read.
    is_bounded_here = task.privacy.label == "local" or task.privacy.is_boomerang
    if is_bounded_here and not is_drafter_here:
        return "privacy"
    return _why_not_upstream(task) if kind == drafter_pb2.DRAFTER_KIND_UPSTREAM else ""


def _why_not_upstream(task: ChatTask) -> str:
    """An upstream sees the text, and gets what an OpenAI-compatible body of ours says."""
    if not task.privacy.is_open:
        return "privacy"
    if task.tools or any(m.role == "tool" or m.tool_calls for m in task.messages):
        return "tools"
    if task.reply_format is not None and task.reply_format.kind not in _WIRE_FORMATS:
        return "format"
    return "thinking" if task.thinking != Thinking() else ""


def cache_use_of(task: ChatTask) -> drafter_pb2.CacheUse:
    """What is not told to the drafter cannot keep two questions apart there, so it rules the cache
    out altogether."""
    reply_format = task.reply_format
    is_untold = (
        (reply_format is not None and reply_format.kind not in _WIRE_FORMATS)
        or task.thinking != Thinking()
        or bool(task.extras)
        or task.choice_count > 1
    )
    is_private = not task.privacy.is_open or task.cache_control == "no-store"
    if is_private or is_untold or task.tools:
        return drafter_pb2.CACHE_USE_NONE
    if task.cache_control == "no-cache":
        return drafter_pb2.CACHE_USE_REFRESH
    return drafter_pb2.CACHE_USE_UNSPECIFIED
