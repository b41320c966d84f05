"""What a generation must satisfy before it holds anything, and how it is to be sampled."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.common.v1 import chat_pb2
from shoal.worker.v1 import stage_pb2
from shoal_common.errors import InvalidRequest, PromptTooLong
from shoal_engine.grammar import CompiledGrammar
from shoal_engine.sampling import SamplingSpec, SamplingState, needs_prompt_ids
from shoal_worker_gpu.backends.base import Backend
from shoal_worker_gpu.errors import WrongEngine
from shoal_worker_gpu.generation import Generation
from shoal_worker_gpu.pipeline_name import stage_name


def check_request(request: stage_pb2.GenerateRequest, backend: Backend, incarnation: str) -> None:
    """Raises WrongEngine, PromptTooLong or InvalidRequest."""
    _check_pipeline(request, backend, incarnation)
    if request.WhichOneof("input") != "token_ids":
        raise InvalidRequest("this backend takes token ids only", param="input")
    prompt = request.token_ids.ids
    if not prompt:
        raise InvalidRequest("the prompt has no tokens", param="messages")
    if request.max_tokens < 1:
        raise InvalidRequest("max_tokens must be 1 or more", param="max_tokens")
    if len(prompt) >= backend.context_length:
        raise PromptTooLong(len(prompt), backend.context_length)
    if len(prompt) + request.max_tokens > backend.context_length:
        raise PromptTooLong(len(prompt), backend.context_length, request.max_tokens)
    if len(request.generated.ids) > request.max_tokens:
        raise InvalidRequest("more than max_tokens is generated already", param="generated")
    if max(*prompt, *request.generated.ids, 0) >= backend.vocab_size:
        raise InvalidRequest(
            f"a token id is beyond the model's vocabulary of {backend.vocab_size}", param="input"
        )


def _check_pipeline(request: stage_pb2.GenerateRequest, backend: Backend, incarnation: str) -> None:
    stages = request.pipeline.stages
    if not stages:
        raise InvalidRequest("the plan names no stages", param="pipeline")
    first = stages[0]
    if first.incarnation != incarnation:
        raise WrongEngine("the plan was made for an earlier process of this engine")
    if backend.layer_start or first.layer_stop > backend.layer_stop:
        raise WrongEngine(
            f"this engine holds layers {backend.layer_start}:{backend.layer_stop}, the plan's "
            f"first stage is {first.layer_start}:{first.layer_stop}"
        )
    if len({stage_name(stage) for stage in stages}) != len(stages):
        raise InvalidRequest("the plan names an engine twice", param="pipeline")
    covered = 0
    for stage in stages:
        if stage.layer_start != covered or stage.layer_stop <= covered:
            raise InvalidRequest("the plan's stages do not follow one another", param="pipeline")
        covered = stage.layer_stop
    if covered != backend.layer_count:
        raise InvalidRequest(
            f"the plan covers {covered} of {backend.layer_count} layers", param="pipeline"
        )


@dataclass(frozen=True)
class SamplingPlan:
    """How a generation's tokens are drawn, in both forms.

    grammar: compiled where this process samples.
    """

    spec: SamplingSpec
    wire: chat_pb2.SamplingSpec
    wire_grammar: chat_pb2.GrammarSpec | None = None
    grammar: CompiledGrammar | None = None

    def state(self, generation: Generation) -> SamplingState:
        """For a last stage in this process."""
        prompt, generated = _split(generation)
        constraint = self.grammar.state() if self.grammar is not None else None
        return SamplingState(self.spec, prompt, generated, constraint)

    def message(self, generation: Generation) -> stage_pb2.SamplingState:
        """For a last stage elsewhere; the prompt's ids go along only where penalties need them."""
        prompt, generated = _split(generation)
        return stage_pb2.SamplingState(
            spec=self.wire,
            generated_ids=generated,
            prompt_ids=prompt if needs_prompt_ids(self.spec) else (),
            grammar=self.wire_grammar,
        )


def _split(generation: Generation) -> tuple[list[int], list[int]]:
    count = generation.prompt_count
    return generation.ids[:count], generation.ids[count:]


def read_sampling(
    request: stage_pb2.GenerateRequest, grammar: CompiledGrammar | None = None
) -> SamplingPlan:
    """The request's spec. Raises InvalidSampling for values out of range."""
    wire_grammar = request.grammar if request.HasField("grammar") else None
    return SamplingPlan(spec_from_wire(request.sampling), request.sampling, wire_grammar, grammar)


def spec_from_wire(wire: chat_pb2.SamplingSpec) -> SamplingSpec:
    """Absent top_p and repetition_penalty (0 on the wire) mean 1: no effect."""
    return SamplingSpec(
        temperature=wire.temperature,
        top_p=wire.top_p or 1.0,
        top_k=wire.top_k,
        min_p=wire.min_p,
        repetition_penalty=wire.repetition_penalty or 1.0,
        presence_penalty=wire.presence_penalty,
        frequency_penalty=wire.frequency_penalty,
        logit_bias=dict(wire.logit_bias),
        seed=wire.seed,
        logprobs=wire.logprob_count if wire.logprobs else -1,
    )
