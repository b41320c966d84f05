"""Conversations with the shape of Mooncake's published trace, replayed on fleets with caches.

12,035 tokens in and 343 out on average, 36.6 % of them seen before (kvcache-ai/Mooncake,
conversation trace); lengths are divided by SCALE. A fifth of the conversations share a system
prompt. Stages keep blocks as engines do: the longest unused leave. A prompt is computed first come
first served at the head of its pipeline, by what no stage holds of it; decoding slows with how many
decode there.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.conditions import Conditions
from bench.figures import Figure, Report, at_least
from bench.routing.fleets import BATCHING, random_fleet
from bench.routing.ours import MODEL, LoadPolicy, Ours
from shoal.worker.v1 import kv_pb2
from shoal_router.pipeline import Pipeline
from shoal_router.request import Request

SCALE = 16
BLOCK = 16
TOKENS_IN, TOKENS_OUT = 12_035 // SCALE, 343 // SCALE
# Turns of a conversation and the share of a prompt that is new in each make 36.6 % in all.
TURNS_MEAN = 1.55
FRESH_SHARE = 0.62
SHARED_PROMPTS = 12
SHARED_SHARE = 0.2
# Tokens of KV that a stage keeps, in mean prompts.
PROMPTS_HELD = 128
WAITING_MAX = 512
# A first token is good within so many times what an idle fleet takes.
PATIENCE = 8.0
FLEETS, REQUESTS = 20, 1500
LOAD = 0.7


@dataclass(frozen=True)
class Turn:
    """One request. blocks: names of its prompt's blocks, first block first."""

    at_s: float
    session_id: str
    blocks: tuple[bytes, ...]


@dataclass
class Tally:
    """Prompt blocks in all, those that an oracle finds in as much memory, and those found."""

    asked: int = 0
    known: int = 0
    found: int = 0
    good: int = 0
    refused: int = 0
    offered: int = 0


def conversations(seed: int, count: int, per_s: float) -> list[Turn]:
    """`count` turns, coming by chance."""
    rng = random.Random(seed)
    open_ones: list[tuple[str, list[bytes]]] = []
    turns, at_s = [], 0.0
    for number in range(count):
        at_s += rng.expovariate(per_s)
        if open_ones and rng.random() < 1 - 1 / TURNS_MEAN:
            session_id, blocks = rng.choice(open_ones)
        else:
            session_id, blocks = f"s{number}", _opening(rng)
            open_ones.append((session_id, blocks))
        fresh = max(1, round(rng.expovariate(1 / (TOKENS_IN / BLOCK * FRESH_SHARE))))
        blocks += [rng.randbytes(16) for _ in range(fresh)]
        turns.append(Turn(at_s, session_id, tuple(blocks)))
        if rng.random() < 1 / TURNS_MEAN or len(blocks) * BLOCK > 4 * TOKENS_IN:
            open_ones = [entry for entry in open_ones if entry[0] != session_id]
    return turns


def _opening(rng: random.Random) -> list[bytes]:
    if rng.random() > SHARED_SHARE:
        return []
    prompt = rng.randrange(SHARED_PROMPTS)
    length = 4 + prompt
    return [bytes([prompt, i]) * 8 for i in range(length)]


@dataclass
class _Cache:
    """Blocks of one stage, the longest unused first."""

    limit: int
    blocks: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    sequence: int = 0

    def leading(self, blocks: Sequence[bytes]) -> int:
        count = 0
        for block in blocks:
            if block not in self.blocks:
                break
            count += 1
        return count

    def keep(self, blocks: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        """What is new, and what had to leave for it."""
        fresh = [block for block in blocks if block not in self.blocks]
        for block in reversed(blocks):
            self.blocks[block] = None
            self.blocks.move_to_end(block)
        gone = []
        while len(self.blocks) > self.limit:
            gone.append(self.blocks.popitem(last=False)[0])
        return fresh, gone


class Replay:
    """One fleet, one trace."""

    def __init__(self, ours: Ours) -> None:
        self._ours = ours
        self._load = LoadPolicy(ours)
        limit = PROMPTS_HELD * TOKENS_IN // BLOCK
        self._caches = {part: _Cache(limit) for p in ours.pipelines for part in p.parts}
        self._free_at: dict[str, float] = defaultdict(float)
        self._running: Counter[str] = Counter()
        self._ends: list[tuple[float, int, Pipeline]] = []
        # As much memory as all heads have, and every request finds all of it.
        heads = {p.parts[0] for p in ours.pipelines}
        self._oracle = _Cache(limit * len(heads))
        self.tally = Tally()

    def run(self, turns: Sequence[Turn]) -> Tally:
        for number, turn in enumerate(turns):
            while self._ends and self._ends[0][0] <= turn.at_s:
                _, _, pipeline = heapq.heappop(self._ends)
                self._running.subtract(pipeline.incarnations)
            self._take(number, turn)
        return self.tally

    def _take(self, number: int, turn: Turn) -> None:
        tally = self.tally
        tally.offered += 1
        if len(self._ends) >= WAITING_MAX:
            tally.refused += 1
            return
        request = Request(
            str(number),
            MODEL,
            prompt_token_count=len(turn.blocks) * BLOCK,
            max_tokens=TOKENS_OUT,
            session_id=turn.session_id,
            prefix_block_hashes=turn.blocks,
        )
        choice = self._load.decide(request, self._running)
        pipeline = choice.pipeline
        held = min(self._caches[part].leading(turn.blocks) for part in pipeline.parts)
        tally.asked += len(turn.blocks)
        tally.found += held
        tally.known += self._oracle.leading(turn.blocks)
        self._oracle.keep(turn.blocks)
        self._compute(number, turn, pipeline, (len(turn.blocks) - held) * BLOCK)
        self._tell(pipeline, turn.blocks)

    def _compute(self, number: int, turn: Turn, pipeline: Pipeline, token_count: int) -> None:
        """Prompts queue at the head; what they take there is what its slowest stage takes."""
        times = self._ours.times
        per_stage = [s.size * times.prefill_ns(s) * 1e-9 for s in pipeline.stages]
        head = pipeline.stages[0].incarnation
        begins_s = max(turn.at_s, self._free_at[head])
        self._free_at[head] = begins_s + token_count * max(per_stage)
        first_s = begins_s + token_count * max(per_stage) + pipeline.time_us * 1e-6 - turn.at_s
        idle_s = len(turn.blocks) * BLOCK * max(per_stage) + pipeline.time_us * 1e-6
        self.tally.good += first_s <= PATIENCE * idle_s
        crowd = max(self._running[i] for i in pipeline.incarnations)
        slow = max(1.0, (1 + crowd) / BATCHING)
        self._running.update(pipeline.incarnations)
        ends_s = turn.at_s + first_s + TOKENS_OUT * pipeline.time_us * 1e-6 * slow
        heapq.heappush(self._ends, (ends_s, number, pipeline))

    def _tell(self, pipeline: Pipeline, blocks: Sequence[bytes]) -> None:
        """Engines tell the router what they hold from now on."""
        for stage, part in zip(pipeline.stages, pipeline.parts, strict=True):
            cache = self._caches[part]
            stored, forgotten = cache.keep(blocks)
            cache.sequence += 1
            self._load.index.hear(
                kv_pb2.KvChanges(
                    node_id=stage.node_id,
                    incarnation=part[0],
                    layer_start=part[1],
                    layer_stop=part[2],
                    sequence=cache.sequence,
                    stored=stored,
                    forgotten=forgotten,
                )
            )


async def measure(report: Report, conditions: Conditions) -> None:
    """Sums over the fleets."""
    fleets = 3 if conditions.is_quick else FLEETS
    total = Tally()
    for seed in range(fleets):
        ours = Ours.placed(random_fleet(seed))
        per_s = LOAD * _prompts_per_s(ours)
        found = Replay(ours).run(conversations(seed, REQUESTS, per_s))
        for name, value in vars(found).items():
            setattr(total, name, getattr(total, name) + value)
    report.add(
        Figure(
            "prefix blocks found to those an oracle finds",
            total.found / total.known,
            "x",
            at_least(0.95),
        ),
        Figure(
            "prompt blocks seen before (36.6 % in the trace)", 100 * total.known / total.asked, "%"
        ),
        Figure("requests whose first token came in time", 100 * total.good / total.offered, "%"),
        Figure("requests refused", 100 * total.refused / total.offered, "%"),
    )
    report.notes.append(
        f"{fleets} fleets, {REQUESTS} requests each at {LOAD:.0%} of what they carry"
    )


def _prompts_per_s(ours: Ours) -> float:
    """What the pipelines carry together, prompts and answers, without any reuse."""
    times = ours.times
    rate = 0.0
    for pipeline in ours.pipelines:
        prefill_s = max(s.size * times.prefill_ns(s) * 1e-9 for s in pipeline.stages) * TOKENS_IN
        decode_s = max(s.size * times.layer_us(s) for s in pipeline.stages) * 1e-6 * TOKENS_OUT
        share = pipeline.steps_per_s / max(
            1e-9, 1e6 / max(s.size * times.layer_us(s) for s in pipeline.stages)
        )
        rate += min(1.0, share) / (prefill_s + decode_s / BATCHING)
    return rate
