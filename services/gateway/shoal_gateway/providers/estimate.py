"""Token counts where the provider gives none: four characters make one, rounded up. Pure."""

from __future__ import annotations

import json

from shoal_gateway.task import ChatTask

CHARS_PER_TOKEN = 4


def tokens_of_chars(char_count: int) -> int:
    return -(-char_count // CHARS_PER_TOKEN)


def prompt_tokens(task: ChatTask) -> int:
    """Of messages, calls and tools. Images count nothing: their price differs by provider."""
    char_count = 0
    for message in task.messages:
        char_count += len(message.text) + len(message.reasoning)
        char_count += sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
    for tool in task.tools:
        char_count += len(tool.name) + len(tool.description)
        char_count += len(json.dumps(tool.parameters, ensure_ascii=False))
    return tokens_of_chars(char_count)
