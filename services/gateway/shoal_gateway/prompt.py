"""From a ChatTask to token ids: the model's template, its tokeniser, the token budget.

Owns what is known of a request before it is planned. Does not run it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from shoal.common.v1 import chat_pb2
from shoal.router.v1 import router_pb2
from shoal_common.errors import InvalidRequest, PromptTooLong
from shoal_common.tokens import ModelTokens, TemplateFailed, TemplateRenderer
from shoal_gateway.errors import ModelNotReady, VisionEncoderUnavailable
from shoal_gateway.models import ModelDirectory, ModelLibrary
from shoal_gateway.sampling import SamplingDefaults, grammar_of, resolve
from shoal_gateway.task import ChatTask, Message, RawPrompt, Tool
from shoal_gateway.traits import TraitsLibrary

# Shorter prompts are tokenised in less time than a thread takes to answer.
INLINE_PROMPT_CHARS_MAX = 4096
# Fields of the dialects that only their own providers understand.
UNSUPPORTED_FIELDS = frozenset({"audio", "function_call", "functions", "web_search_options"})


@dataclass(frozen=True)
class Prepared:
    """A request that is ready to be planned."""

    request_id: str
    task: ChatTask
    model: str
    revision: str
    tokens: ModelTokens
    template: str = field(repr=False)
    prompt_ids: tuple[int, ...] = field(repr=False)
    sampling: chat_pb2.SamplingSpec = field(repr=False)
    grammar: chat_pb2.GrammarSpec | None = field(repr=False)
    max_tokens: int


class Prompts:
    """Prepares tasks for the fleet's own models."""

    def __init__(
        self,
        directory: ModelDirectory,
        library: ModelLibrary,
        traits: TraitsLibrary,
        renderer: TemplateRenderer,
        defaults: SamplingDefaults,
    ) -> None:
        self._directory = directory
        self._library = library
        self._traits = traits
        self._renderer = renderer
        self._defaults = defaults

    async def prepare(self, request_id: str, task: ChatTask) -> Prepared:
        """Raises InvalidRequest for what the caller must change."""
        state = await self._directory.find(task.model)
        tokens, template, prompt_ids = await self._prompt(task, state)
        return Prepared(
            request_id=request_id,
            task=task,
            model=state.model,
            revision=state.revision,
            tokens=tokens,
            template=template,
            prompt_ids=prompt_ids,
            sampling=resolve(task, self._defaults, tokens.generation_config),
            grammar=grammar_of(task),
            max_tokens=self._token_budget(task, len(prompt_ids), state.context_length),
        )

    async def count_tokens(self, task: ChatTask) -> int:
        """Tokens of the prompt, whether or not it fits."""
        state = await self._directory.find(task.model)
        _, _, prompt_ids = await self._prompt(task, state)
        return len(prompt_ids)

    async def _prompt(
        self, task: ChatTask, state: router_pb2.ModelState
    ) -> tuple[ModelTokens, str, tuple[int, ...]]:
        await self._refuse_images(task, state)
        _refuse_unsupported(task)
        tokens = await self._library.tokens(state.model, state.revision)
        if task.raw_prompt is not None:
            return tokens, "", await _raw_ids(task.raw_prompt, tokens)
        source = tokens.template(has_tools=bool(task.tools))
        if source is None:
            raise TemplateFailed("the model has none, so it cannot chat")
        prompt = await self._renderer.render(source, _template_variables(task, tokens))
        if len(prompt) <= INLINE_PROMPT_CHARS_MAX:
            return tokens, source, tuple(tokens.encode(prompt))
        return tokens, source, tuple(await asyncio.to_thread(tokens.encode, prompt))

    async def _refuse_images(self, task: ChatTask, state: router_pb2.ModelState) -> None:
        for index, message in enumerate(task.messages):
            if not message.images:
                continue
            if (await self._traits.of(state)).needs_vision_encoder:
                raise VisionEncoderUnavailable(state.model)
            raise InvalidRequest(
                f"model '{state.model}' takes text only; leave the images out or ask another model",
                param=f"messages[{index}].content",
            )

    def _token_budget(self, task: ChatTask, prompt_tokens: int, context_length: int) -> int:
        """An explicit max_tokens must fit the context; a default takes the room that is left."""
        if context_length == 0:
            raise ModelNotReady(task.model)
        room = context_length - prompt_tokens
        if room < max(1, task.max_tokens or 0):
            error = PromptTooLong(prompt_tokens, context_length, task.max_tokens or 0)
            error.param = "messages" if task.raw_prompt is None else "prompt"
            raise error
        return task.max_tokens or min(self._defaults.max_tokens, room)


async def _raw_ids(prompt: RawPrompt, tokens: ModelTokens) -> tuple[int, ...]:
    """A text gets the special tokens that the model expects in front; ids are taken as they are."""
    if prompt.token_ids:
        vocabulary_size = tokens.tokenizer.get_vocab_size()
        if max(prompt.token_ids) >= vocabulary_size:
            raise InvalidRequest(
                f"'prompt' has the token id {max(prompt.token_ids)}; the model's end at "
                f"{vocabulary_size - 1}",
                param="prompt",
            )
        return prompt.token_ids
    if len(prompt.text) <= INLINE_PROMPT_CHARS_MAX:
        return tuple(tokens.tokenizer.encode(prompt.text).ids)
    encoding = await asyncio.to_thread(tokens.tokenizer.encode, prompt.text)
    return tuple(encoding.ids)


def _refuse_unsupported(task: ChatTask) -> None:
    """What would change an answer is never left out in silence."""
    for name in UNSUPPORTED_FIELDS & task.extras.keys():
        raise InvalidRequest(f"'{name}' is not supported by this fleet's models", param=name)


def _template_tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "description": tool.description}
    function["parameters"] = dict(tool.parameters)
    return {"type": "function", "function": function}


def _template_variables(task: ChatTask, tokens: ModelTokens) -> dict[str, Any]:
    shown = () if task.tool_choice.mode == "none" else task.tools
    variables = {
        **tokens.special_tokens,
        "messages": [_template_message(message) for message in task.messages],
        "tools": [_template_tool(tool) for tool in shown] or None,
        "documents": None,
        "add_generation_prompt": True,
    }
    if task.thinking.level:
        variables["enable_thinking"] = task.thinking.level != "off"
        if task.thinking.level not in ("off", "on"):
            variables["reasoning_effort"] = task.thinking.level
    return variables


def _template_message(message: Message) -> dict[str, Any]:
    """The shape that published templates read."""
    fields: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    if message.name:
        fields["name"] = message.name
    if message.reasoning:
        fields["reasoning_content"] = message.reasoning
    return fields
