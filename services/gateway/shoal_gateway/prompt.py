"""From a ChatTask to token ids: the model's template, its tokeniser, the token budget.

Owns what is known of a request before it is planned. Does not run it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace

from shoal.common.v1 import chat_pb2
from shoal.router.v1 import router_pb2
from shoal_common.errors import InvalidRequest, PromptTooLong
from shoal_common.tokens import ModelTokens, TemplateFailed, TemplateRenderer
from shoal_gateway.conversation import (
    HistoryStyle,
    alternatives,
    needs_style,
    probe_conversations,
    style_of,
    template_variables,
)
from shoal_gateway.errors import ModelNotReady, VisionEncoderUnavailable
from shoal_gateway.models import ModelDirectory, ModelLibrary
from shoal_gateway.sampling import SamplingDefaults, resolve
from shoal_gateway.shape import PLAIN, Reading, ReadingRules, reading_of
from shoal_gateway.task import ChatTask, RawPrompt
from shoal_gateway.tools.grammar import grammar_of
from shoal_gateway.traits import TraitsLibrary

# Shorter prompts are tokenised in less time than a thread takes to answer.
INLINE_PROMPT_CHARS_MAX = 4096
STYLES_MAX = 32
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
    reading: Reading
    prompt_ids: tuple[int, ...] = field(repr=False)
    sampling: chat_pb2.SamplingSpec = field(repr=False)
    grammar: chat_pb2.GrammarSpec | None = field(repr=False)
    max_tokens: int
    # Of the model, as the router told it last.
    state: router_pb2.ModelState | None = field(default=None, repr=False)


class Prompts:
    """Prepares tasks for the fleet's own models."""

    def __init__(
        self,
        directory: ModelDirectory,
        library: ModelLibrary,
        traits: TraitsLibrary,
        renderer: TemplateRenderer,
        defaults: SamplingDefaults,
        rules: ReadingRules = ReadingRules(),  # noqa: B008 (frozen)
    ) -> None:
        self._directory = directory
        self._library = library
        self._traits = traits
        self._renderer = renderer
        self.defaults = defaults
        self._rules = rules
        # By template, the oldest dropped beyond a bound.
        self._styles: dict[str, HistoryStyle] = {}

    async def prepare(self, request_id: str, task: ChatTask) -> Prepared:
        """Raises InvalidRequest for what the caller must change."""
        state = await self._directory.await_model(task.model)
        tokens, reading, prompt_ids = await self._prompt(task, state)
        max_tokens = self._token_budget(task, len(prompt_ids), state.context_length)
        return Prepared(
            request_id=request_id,
            task=task,
            model=state.model,
            revision=state.revision,
            tokens=tokens,
            reading=reading,
            prompt_ids=prompt_ids,
            sampling=resolve(task, self.defaults, tokens.generation_config),
            grammar=grammar_of(task, reading, max_tokens),
            max_tokens=max_tokens,
            state=state,
        )

    async def count_tokens(self, task: ChatTask) -> int:
        """Tokens of the prompt, whether or not it fits."""
        state = await self._directory.find(task.model)
        _, _, prompt_ids = await self._prompt(task, state)
        return len(prompt_ids)

    async def require_images(self, task: ChatTask) -> None:
        """Raises InvalidRequest, VisionEncoderUnavailable where the model reads none."""
        await self._refuse_images(task, await self._directory.find(task.model))

    async def _prompt(
        self, task: ChatTask, state: router_pb2.ModelState
    ) -> tuple[ModelTokens, Reading, tuple[int, ...]]:
        await self._refuse_images(task, state)
        _refuse_unsupported(task)
        task = await self._with_level(task, state)
        tokens = await self._library.tokens(state.model, state.revision)
        if task.raw_prompt is not None:
            # What goes on from a raw prompt is text, whatever it looks like.
            return tokens, PLAIN, await _raw_ids(task.raw_prompt, tokens)
        source = tokens.template(has_tools=bool(task.tools))
        if source is None:
            raise TemplateFailed("the model has none, so it cannot chat")
        begun = ""
        if task.continues_last:
            begun = task.messages[-1].text
            task = replace(task, messages=task.messages[:-1])
        style = await self._style(source, tokens) if needs_style(task) else HistoryStyle()
        prompt = await self._rendered(source, task, tokens, style)
        # Before what is begun: it is the template that opens thoughts.
        reading = reading_of(task, source, prompt, tokens, self._rules)
        prompt += begun
        if len(prompt) <= INLINE_PROMPT_CHARS_MAX:
            return tokens, reading, tuple(tokens.encode(prompt))
        return tokens, reading, tuple(await asyncio.to_thread(tokens.encode, prompt))

    async def _rendered(
        self, source: str, task: ChatTask, tokens: ModelTokens, style: HistoryStyle
    ) -> str:
        """The prompt. A template that refuses the turns as they are gets them merged, since
        clients send what their users wrote and know nothing of templates."""
        variables = template_variables(task, tokens.special_tokens, style)
        try:
            return await self._renderer.render(source, variables)
        except TemplateFailed:
            for messages in alternatives(task.messages):
                other = replace(task, messages=messages)
                variables = template_variables(other, tokens.special_tokens, style)
                with suppress(TemplateFailed):
                    return await self._renderer.render(source, variables)
            raise

    async def _style(self, source: str, tokens: ModelTokens) -> HistoryStyle:
        """What the template wants of earlier calls; asked once."""
        if source not in self._styles:
            texts = []
            for variables in probe_conversations(tokens.special_tokens):
                try:
                    texts.append(await self._renderer.render(source, variables))
                except TemplateFailed:
                    texts.append("")
            as_text, as_object, two = texts
            while len(self._styles) >= STYLES_MAX:
                del self._styles[next(iter(self._styles))]
            self._styles[source] = style_of((as_text, as_object, two), source)
        return self._styles[source]

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

    async def _with_level(self, task: ChatTask, state: router_pb2.ModelState) -> ChatTask:
        """The task with the level that its model has."""
        level = task.thinking.level
        if not level:
            return task
        nearest = (await self._traits.of(state)).nearest_level(level)
        return replace(task, thinking=replace(task.thinking, level=nearest))

    def _token_budget(self, task: ChatTask, prompt_tokens: int, context_length: int) -> int:
        """An explicit max_tokens must fit the context; a default takes the room that is left."""
        if context_length == 0:
            raise ModelNotReady(task.model)
        room = context_length - prompt_tokens
        least = 1 if task.may_fill_context else max(1, task.max_tokens or 0)
        if room < least:
            error = PromptTooLong(prompt_tokens, context_length, task.max_tokens or 0)
            error.param = "messages" if task.raw_prompt is None else "prompt"
            raise error
        return min(task.max_tokens or self.defaults.max_tokens, room)


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
