"""Our fleet and llama.cpp in turns: one thread each, the same shape, over HTTP.

Ours is the whole way: gateway, router, one worker with int8 weights. Theirs is one process with
Q8_0 or Q4_0 weights. Prompts have the same number of tokens, ours with its chat template; no answer
ends early and no prompt is in a cache. Tokens per CPU second count the prompts' work too, on both
sides; ours counts every process of the fleet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import psutil

from bench.conditions import Conditions, Model
from bench.figures import Figure, Report, Skipped, Target, at_least, ratio_figure
from bench.fleets import BenchFleet, fleets
from bench.rounds import Meter, Round, Sample, as_json, interleaved, median, per_cpu_second, ratio
from bench.spelling import Spelling
from bench.streams import HttpClient, Timed, decode_rate, random_ids, vocab_size

STREAMS = (1, 4, 8)
PREFILL_TOKENS = 512
_CONTEXT = 1024
_PROMPT_TOKENS = 17
_TARGETS: dict[tuple[str, str], Target] = {
    ("Q8_0", "8 streams"): at_least(2.0),
    ("Q4_0", "8 streams"): at_least(1.9),
    ("Q4_0", "4 streams"): at_least(1.3),
    ("Q4_0", "prefill"): at_least(1.35),
}


@dataclass(frozen=True)
class Contender:
    """A server to ask. ask: streams an answer of so many tokens behind a prompt of such a size."""

    ask: Callable[[int, int], Awaitable[Timed]]
    processes: Callable[[], Iterable[psutil.Process]]


async def measure(report: Report, conditions: Conditions) -> None:
    """Decode at 1, 4 and 8 streams and a 512-token prompt, ours to theirs."""
    try:
        from bench.peers.gguf_files import KINDS, ensure
        from bench.peers.llama_server import LlamaServer
    except ImportError as err:
        raise Skipped(f"{err}; pip install gguf xllamacpp") from err
    model = conditions.large()
    files = {kind: ensure(model.folder, kind, conditions.folder) for kind in KINDS}
    async with AsyncExitStack() as stack:
        up = stack.enter_context(fleets({"ours": model.plan(PREFIX_CACHE="false")}))
        contenders = {"ours": await _ours(stack, up["ours"])}
        for kind, path in files.items():
            server = LlamaServer(path, streams=max(STREAMS), context=_CONTEXT)
            theirs = stack.enter_context(server)
            contenders[kind] = await _theirs(stack, theirs.url, theirs.processes, model)
        await _compare(report, model, contenders, conditions)


async def _ours(stack: AsyncExitStack, fleet: BenchFleet) -> Contender:
    client = await stack.enter_async_context(HttpClient(fleet.url, fleet.key))
    spelling = Spelling(fleet.plan.model)

    async def chat(word_count: int, count: int) -> Timed:
        body = spelling.chat(fleet.model, spelling.words(word_count), count)
        return await client.stream("/v1/chat/completions", body)

    template_tokens = (await chat(1, 1)).prompt_count - 1

    async def ask(prompt_tokens: int, count: int) -> Timed:
        return await chat(prompt_tokens - template_tokens, count)

    return Contender(ask, fleet.processes)


async def _theirs(
    stack: AsyncExitStack,
    url: str,
    processes: Callable[[], Iterable[psutil.Process]],
    model: Model,
) -> Contender:
    client = await stack.enter_async_context(HttpClient(url))
    size = vocab_size(model.folder)

    async def ask(prompt_tokens: int, count: int) -> Timed:
        body = {
            "prompt": random_ids(prompt_tokens, size),
            "max_tokens": count,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        return await client.stream("/v1/completions", body)

    return Contender(ask, processes)


async def _compare(
    report: Report, model: Model, contenders: dict[str, Contender], conditions: Conditions
) -> None:
    tokens = 24 if model.is_large else 64
    for streams in STREAMS:
        what = "1 stream" if streams == 1 else f"{streams} streams"
        variants = {
            name: decoding(contender, streams, tokens) for name, contender in contenders.items()
        }
        samples = await interleaved(variants, conditions.large_rounds, warm_ups=streams == 1)
        _add(report, model, what, samples)
    variants = {name: prefill(contender) for name, contender in contenders.items()}
    _add(report, model, "prefill", await interleaved(variants, conditions.large_rounds, 0))


def _add(report: Report, model: Model, what: str, samples: dict[str, list[Sample]]) -> None:
    ours = samples["ours"]
    for name, taken in samples.items():
        label = f"{model.label} {what}, {name}"
        if name != "ours":
            target = _TARGETS.get((name, what)) if model.is_large else None
            report.add(ratio_figure(f"{label}: ours to it", ratio(ours, taken), target))
        report.add(
            Figure(label, median(taken), "tok/s"),
            Figure(label, per_cpu_second(taken), "tok/CPU-s"),
        )
    report.details[f"{model.label} {what}"] = as_json(samples)


def decoding(contender: Contender, streams: int, tokens: int) -> Round:
    """Tokens per second of `streams` answers at once, behind their first tokens."""

    async def round_of() -> Sample:
        with Meter(contender.processes) as meter:
            streamed = await asyncio.gather(
                *(contender.ask(_PROMPT_TOKENS, tokens) for _ in range(streams))
            )
        made = _counted(streamed, tokens)
        return Sample(decode_rate(streamed), meter.wall_s, meter.cpu_s, {"tokens": made})

    return round_of


def prefill(contender: Contender) -> Round:
    """Prompt tokens per second until the first token is there."""

    async def round_of() -> Sample:
        with Meter(contender.processes) as meter:
            timed = await contender.ask(PREFILL_TOKENS, 1)
        count = timed.prompt_count
        assert count == PREFILL_TOKENS, f"a prompt of {count} tokens"
        return Sample(count / meter.wall_s, meter.wall_s, meter.cpu_s, {"tokens": count})

    return round_of


def _counted(streamed: Sequence[Timed], tokens: int) -> int:
    """All tokens made; an answer that was cut short would make the comparison false."""
    for timed in streamed:
        assert timed.token_count == tokens, f"{timed.token_count} tokens instead of {tokens}"
    return len(streamed) * tokens
