"""Replies held to a grammar, with real gRPC between stages and a real model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from shoal.common.v1 import chat_pb2
from shoal.worker.v1 import stage_pb2
from shoal_common.errors import InvalidGrammar
from shoal_engine.grammar import GrammarSpec
from shoal_engine.loading import StageOptions, load_stage
from shoal_engine.sampling import NO_TOKEN, Sampled
from shoal_engine.shape import LayerRange
from shoal_worker_gpu.backends.torch_shard import TorchShard
from shoal_worker_gpu.grammars import Grammars
from shoal_worker_gpu.settings import Settings
from shoal_worker_gpu.testing import HashBackend, expected_tokens

from .conftest import LAYER_COUNT, Node, Pipeline, running

DRAFTER = Path(__file__).parents[3] / "models" / "drafter"
SPLITS = [pytest.param((0, 3), id="1"), pytest.param((0, 2, 3), id="2")]
EOS_IDS = {0, 2}
MAX_TOKENS = 200
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
IMPOSSIBLE = {"type": "integer", "minimum": 5, "maximum": 1}
# Nothing is wrong with it until one looks for a first token.
ENDLESS = {"$ref": "#"}
# Judging it takes minutes.
HOSTILE = {"allOf": [{"type": "string", "pattern": f"[a-z]{{{n},}}.*x{n}"} for n in range(2, 32)]}

Reply = tuple[list[int], stage_pb2.FinishReason]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DRAFTER / "tokenizer.json"))


def nodes_of(
    cuts: Sequence[int], kv_blocks: int = 64, settings: Settings | None = None
) -> list[Node[TorchShard]]:
    # Padding keeps a reply from depending on how many rows its neighbours add.
    options = StageOptions(kv_blocks=kv_blocks, strict_exact=True, threads=1)
    chosen = settings or Settings(strict_exact=True)
    return [
        Node(
            TorchShard(load_stage(DRAFTER, LayerRange(start, stop), options), DRAFTER),
            chosen,
            f"worker-{index}",
        )
        for index, (start, stop) in enumerate(pairwise(cuts))
    ]


def json_schema(schema: Any) -> chat_pb2.GrammarSpec:
    return chat_pb2.GrammarSpec(json_schema=json.dumps(schema))


def asking(
    pipeline: Pipeline[Any],
    prompt: Sequence[int],
    grammar: chat_pb2.GrammarSpec | None,
    seed: int = 0,
    generated: Sequence[int] = (),
) -> stage_pb2.GenerateRequest:
    """Drawn with a high temperature, so that a small model writes something new each time."""
    request: stage_pb2.GenerateRequest = pipeline.request(prompt, MAX_TOKENS)
    request.sampling.CopyFrom(chat_pb2.SamplingSpec(temperature=1.5, seed=seed))
    request.generated.ids.extend(generated)
    if grammar is not None:
        request.grammar.CopyFrom(grammar)
    return request


async def reply_to(pipeline: Pipeline[Any], request: stage_pb2.GenerateRequest) -> Reply:
    ids = list(request.generated.ids)
    reason = stage_pb2.FINISH_REASON_UNSPECIFIED
    async for event in pipeline.events(request):
        ids += [token.token_id for token in event.tokens.tokens]
        if event.HasField("finished"):
            reason = event.finished.reason
    return ids, reason


def check_person(tokenizer: Tokenizer, reply: Reply) -> None:
    ids, reason = reply
    assert reason == stage_pb2.FINISH_REASON_STOP
    assert ids[-1] in EOS_IDS
    assert EOS_IDS.isdisjoint(ids[:-1])
    value = json.loads(tokenizer.decode(ids))
    assert list(value) == ["name", "age", "tags"]
    assert len(value["name"]) <= 6
    assert 0 <= value["age"] <= 150
    assert len(value["tags"]) <= 2
    assert set(value["tags"]) <= {"red", "blue"}


@pytest.mark.parametrize("cuts", SPLITS)
async def test_every_reply_fits_its_schema(tokenizer: Tokenizer, cuts: tuple[int, ...]) -> None:
    prompt = tokenizer.encode("Describe a person.").ids
    async with running(nodes_of(cuts)) as pipeline:
        replies = await asyncio.gather(
            *(
                reply_to(pipeline, asking(pipeline, prompt, json_schema(PERSON), seed))
                for seed in range(3)
            )
        )
        await pipeline.until_free()
    for reply in replies:
        check_person(tokenizer, reply)
    assert len({tuple(ids) for ids, _ in replies}) > 1


@pytest.mark.parametrize(
    ("grammar", "allowed"),
    [
        (chat_pb2.GrammarSpec(choice=chat_pb2.Choices(texts=["yes", "no"])), {"yes", "no"}),
        (chat_pb2.GrammarSpec(regex="[ab]"), {"a", "b"}),
        (chat_pb2.GrammarSpec(lark='start: "<" /[ab]/ ">"'), {"<a>", "<b>"}),
    ],
)
async def test_other_kinds_travel_to_the_last_stage(
    tokenizer: Tokenizer, grammar: chat_pb2.GrammarSpec, allowed: set[str]
) -> None:
    async with running(nodes_of((0, 2, 3))) as pipeline:
        for seed in range(3):
            ids, reason = await reply_to(pipeline, asking(pipeline, [5, 6, 7], grammar, seed))
            assert tokenizer.decode(ids) in allowed
            assert reason == stage_pb2.FINISH_REASON_STOP


async def test_json_mode_cut_off_by_the_token_limit_says_so() -> None:
    grammar = chat_pb2.GrammarSpec(json_object=True)
    async with running(nodes_of((0, 3))) as pipeline:
        request = asking(pipeline, [5, 6, 7], grammar)
        request.max_tokens = 1
        _, reason = await reply_to(pipeline, request)
    assert reason == stage_pb2.FINISH_REASON_LENGTH


@pytest.mark.parametrize("cuts", SPLITS)
async def test_a_replay_goes_on_where_the_reply_stood(
    tokenizer: Tokenizer, cuts: tuple[int, ...]
) -> None:
    prompt = tokenizer.encode("Describe a person.").ids
    async with running(nodes_of(cuts)) as pipeline:
        whole, _ = await reply_to(pipeline, asking(pipeline, prompt, json_schema(PERSON), 3))
        for count in (len(whole) // 2, len(whole) - 1):
            request = asking(pipeline, prompt, json_schema(PERSON), 3, whole[:count])
            request.attempt = 2
            assert (await reply_to(pipeline, request))[0] == whole


async def test_a_replay_of_what_does_not_fit_is_refused() -> None:
    async with running(nodes_of((0, 2, 3))) as pipeline:
        request = asking(pipeline, [5, 6, 7], json_schema(PERSON), generated=[7, 7])
        with pytest.raises(InvalidGrammar, match="so far do not match it"):
            await reply_to(pipeline, request)
        await pipeline.until_free()


async def test_preemption_changes_no_reply(tokenizer: Tokenizer) -> None:
    """Little KV: the youngest is put back and its grammar is rebuilt from what it has written."""
    prompts = [tokenizer.encode(f"Describe person {number}.").ids for number in range(2)]
    grammar = json_schema(PERSON)

    async def replies(kv_blocks: int) -> tuple[list[Reply], float]:
        settings = Settings(strict_exact=True, grow_blocks=1, prefix_cache=False)
        nodes = nodes_of((0, 3), kv_blocks, settings)
        async with running(nodes) as pipeline:
            found = await asyncio.gather(
                *(reply_to(pipeline, asking(pipeline, prompt, grammar, 9)) for prompt in prompts)
            )
        preempted = nodes[0].metrics.preemptions._value.get()
        return found, preempted

    calm, none = await replies(64)
    longest = max(len(prompt) + len(ids) for prompt, (ids, _) in zip(prompts, calm, strict=True))
    pressed, some = await replies(longest // 16 + 2)
    assert none == 0
    assert some > 0
    assert pressed == calm
    for reply in calm:
        check_person(tokenizer, reply)


async def test_a_neighbour_without_a_grammar_says_what_it_says_alone(tokenizer: Tokenizer) -> None:
    async with running(nodes_of((0, 3))) as pipeline:
        alone = await reply_to(pipeline, asking(pipeline, [9, 8, 7], None, 5))
        beside, held = await asyncio.gather(
            reply_to(pipeline, asking(pipeline, [9, 8, 7], None, 5)),
            reply_to(pipeline, asking(pipeline, [5, 6, 7], json_schema(PERSON), 5)),
        )
    assert beside == alone
    check_person(tokenizer, held)


@pytest.mark.parametrize("cuts", SPLITS)
@pytest.mark.parametrize(
    ("schema", "problem"),
    [(IMPOSSIBLE, r"minimum \(5\) is greater"), (ENDLESS, "no text matches it")],
)
async def test_an_impossible_schema_is_refused_before_the_first_token(
    cuts: tuple[int, ...], schema: Any, problem: str
) -> None:
    async with running(nodes_of(cuts)) as pipeline:
        events: list[stage_pb2.GenerateResponse] = []
        request = asking(pipeline, [5, 6, 7], json_schema(schema))
        with pytest.raises(InvalidGrammar, match=problem) as caught:
            events += [event async for event in pipeline.events(request)]
        assert events == []
        assert caught.value.param == "response_format"
        await pipeline.until_free()
        # The engine goes on, for those who ask for something that exists.
        grammar = chat_pb2.GrammarSpec(regex="[ab]")
        assert len((await reply_to(pipeline, asking(pipeline, [5], grammar)))[0]) == 2


async def test_a_backend_without_a_vocabulary_refuses_grammars(
    make_pipeline: Callable[..., Awaitable[Pipeline[HashBackend]]],
) -> None:
    pipeline = await make_pipeline((2,))
    with pytest.raises(InvalidGrammar, match="vocabulary"):
        await reply_to(pipeline, asking(pipeline, [1], chat_pb2.GrammarSpec(regex="a")))
    await pipeline.until_free()


async def test_an_empty_grammar_is_refused(
    make_pipeline: Callable[..., Awaitable[Pipeline[HashBackend]]],
) -> None:
    pipeline = await make_pipeline()
    with pytest.raises(InvalidGrammar, match="empty"):
        await reply_to(pipeline, asking(pipeline, [1], chat_pb2.GrammarSpec(json_object=False)))


class GivesUpBackend(HashBackend):
    """Its rows of 6 tokens that begin with 1 are held to something too complex."""

    def _draw(self, ids: Sequence[int]) -> Sampled:
        if ids[0] == 1 and len(ids) == 6:
            return Sampled(NO_TOKEN, failure=InvalidGrammar("it is too complex to follow"))
        return super()._draw(ids)


@pytest.mark.parametrize("cut", [None, 2])
async def test_a_constraint_that_gives_up_ends_its_own_reply_only(cut: int | None) -> None:
    bounds = [0, LAYER_COUNT] if cut is None else [0, cut, LAYER_COUNT]
    nodes = [
        Node(
            GivesUpBackend(start, stop, LAYER_COUNT),
            Settings(block_size_tokens=4),
            f"worker-{start}",
        )
        for start, stop in pairwise(bounds)
    ]
    async with running(nodes) as pipeline:
        kept = asyncio.create_task(pipeline.tokens([2, 2, 3], 20))
        with pytest.raises(InvalidGrammar, match="too complex to follow"):
            await pipeline.tokens([1, 2, 3], 20)
        assert await kept == expected_tokens([2, 2, 3], 20)
        await pipeline.until_free()


async def test_what_takes_too_long_to_judge_is_refused_and_the_next_is_served() -> None:
    backend = nodes_of((0, 3))[0].backend
    grammars = Grammars(backend, check_timeout_s=0.3)
    hostile = GrammarSpec("json_schema", json.dumps(HOSTILE))
    try:
        for _ in range(2):
            with pytest.raises(InvalidGrammar, match=r"longer than 0\.3 s"):
                await grammars.compiled(hostile)
        good = GrammarSpec("json_schema", json.dumps(PERSON))
        assert await grammars.compiled(good) is await grammars.compiled(good)
    finally:
        await grammars.close()


async def test_what_is_kept_is_bounded_and_compiled_again_when_asked_again() -> None:
    backend = nodes_of((0, 3))[0].backend
    grammars = Grammars(backend)
    try:
        first = await grammars.compiled(GrammarSpec("regex", "a{0}"))
        for number in range(1, 65):
            await grammars.compiled(GrammarSpec("regex", f"b{{{number}}}"))
        again = await grammars.compiled(GrammarSpec("regex", "a{0}"))
        assert again is not first
        again.is_worn = True
        assert await grammars.compiled(GrammarSpec("regex", "a{0}")) is not again
    finally:
        await grammars.close()
