"""What one seed means: a fleet, requests and faults, drawn before anything runs. Plain data."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

LAYER_COUNT = 6
CONTEXT_LENGTH = 256
START_S = 4.0
"""Workers are heard of and engines are ready by then."""


class Kind(Enum):
    """How much goes wrong. The less, the more must hold."""

    CALM = "calm"
    """Nothing: every request finishes."""
    SINGLE = "single"
    """One worker fails once, while another could take its place: every request finishes."""
    STORM = "storm"
    """Anything, several times: what does not finish ends with a clear error."""


class What(Enum):
    """Faults. Those of a worker name it as `target`."""

    KILL_ENGINE = "kill-engine"
    KILL_HOST = "kill-host"
    VANISH = "vanish"
    HANG_ENGINE = "hang-engine"
    HANG_HOST = "hang-host"
    STALL = "stall"
    SLOW_STEPS = "slow-steps"
    SLOW_LINK = "slow-link"
    CUT = "cut"
    CUT_ONE_WAY = "cut-one-way"
    BUS_CUT = "bus-cut"
    FLAP = "flap"
    RESTART_ROUTER = "restart-router"
    HANG_ROUTER = "hang-router"
    RESTART_GATEWAY = "restart-gateway"


@dataclass(frozen=True)
class Fault:
    """From `at_s` for `for_s` seconds; what was killed is started again then."""

    what: What
    at_s: float
    for_s: float
    target: str = ""
    other: str = ""

    @property
    def ends_at_s(self) -> float:
        return self.at_s + self.for_s

    def __str__(self) -> str:
        where = "-".join(filter(None, (self.target, self.other)))
        return f"{self.what.value} {where} at {self.at_s:.3f} s for {self.for_s:.3f} s"


@dataclass(frozen=True)
class Worker:
    """One machine with one engine."""

    name: str
    layer_start: int
    layer_stop: int
    step_s: float
    block_count: int


@dataclass(frozen=True)
class Request:
    """One client's wish. cancel_after: tokens after which it goes away, None to stay."""

    name: str
    at_s: float
    prompt: tuple[int, ...]
    max_tokens: int
    gateway: int
    session_id: str = ""
    tenant: str = ""
    cancel_after: int | None = None


@dataclass(frozen=True)
class Scenario:
    """Everything that a seed decides beforehand; `random` goes on from there while it runs.

    tile_tokens: positions of KV that sequences share instead of copying them.
    """

    seed: int
    kind: Kind
    workers: tuple[Worker, ...]
    requests: tuple[Request, ...]
    faults: tuple[Fault, ...]
    block_size_tokens: int
    in_flight_max: int
    latency_s: float
    late_share: float
    twice_share: float
    late_s_max: float
    prefill_chunk_tokens: int
    grow_blocks: int
    tile_tokens: int
    running_max: int
    gateway_count: int
    is_short_of_kv: bool
    random: random.Random = field(repr=False, compare=False)

    @property
    def heals_at_s(self) -> float:
        """Nothing goes wrong any more from then on."""
        return max((fault.ends_at_s for fault in self.faults), default=0.0)


def scenario_of(seed: int, kind: Kind | None = None) -> Scenario:
    """The scenario of a seed."""
    dice = random.Random(seed)
    drawn = dice.choices((Kind.CALM, Kind.SINGLE, Kind.STORM), (1, 3, 4))[0]
    kind = kind or drawn
    is_short_of_kv = dice.random() < 0.25
    block_size_tokens = dice.choice((4, 8, 16))
    workers = _workers(dice, kind, is_short_of_kv, block_size_tokens)
    gateway_count = dice.choice((1, 1, 2))
    requests = _requests(dice, kind, gateway_count)
    span_s = max(request.at_s for request in requests) + 2.0
    is_windy = kind is Kind.STORM and dice.random() < 0.5
    return Scenario(
        seed=seed,
        kind=kind,
        workers=workers,
        requests=requests,
        faults=_faults(dice, kind, workers, span_s, gateway_count),
        block_size_tokens=block_size_tokens,
        in_flight_max=dice.choice((2, 4, 32)),
        latency_s=dice.choice((0.0002, 0.001, 0.01)),
        late_share=0.1 if is_windy else 0.0,
        twice_share=0.2 if is_windy else 0.0,
        late_s_max=4.0,
        prefill_chunk_tokens=dice.choice((8, 16, 128)),
        grow_blocks=dice.choice((1, 2, 4)),
        tile_tokens=dice.choice((block_size_tokens, 4 * block_size_tokens, 512)),
        running_max=dice.choice((2, 4, 32)),
        gateway_count=gateway_count,
        is_short_of_kv=is_short_of_kv,
        random=dice,
    )


def _workers(
    dice: random.Random, kind: Kind, is_short_of_kv: bool, block_size_tokens: int
) -> tuple[Worker, ...]:
    """Two or three pipelines over the same layers, cut alike or not, so that stages are spared."""
    row_count = 2 if kind is Kind.CALM else dice.choice((2, 2, 3))
    cuts = _cuts(dice)
    workers: list[Worker] = []
    # The longest sequence must fit; short of KV, hardly more than that.
    fitting = -(-160 // block_size_tokens)
    for _ in range(row_count):
        if dice.random() < 0.3:
            cuts = _cuts(dice)
        for start, stop in pairwise(cuts):
            blocks = dice.randint(fitting, 2 * fitting) if is_short_of_kv else 12 * fitting
            step_s = dice.choice((0.002, 0.005, 0.02)) * (1 + dice.random())
            workers.append(Worker(f"w{len(workers)}", start, stop, step_s, blocks))
    return tuple(workers)


def _cuts(dice: random.Random) -> list[int]:
    inner = sorted(dice.sample(range(1, LAYER_COUNT), dice.choice((0, 1, 1, 2, 2, 3))))
    return [0, *inner, LAYER_COUNT]


def _requests(dice: random.Random, kind: Kind, gateway_count: int) -> tuple[Request, ...]:
    shared = [tuple(dice.randrange(12, 900) for _ in range(60)) for _ in range(3)]
    leaving_share = 0.0 if kind is Kind.CALM else dice.choice((0.0, 0.1, 0.4))
    requests = []
    at_s = START_S
    for number in range(dice.choice((4, 8, 16))):
        at_s += dice.choice((0.0, 0.0, 0.05, 0.3, 1.0)) * dice.random()
        prompt = tuple(dice.randrange(12, 900) for _ in range(dice.randint(1, 60)))
        if dice.random() < 0.4:
            prompt = dice.choice(shared)[: dice.randint(8, 60)] + prompt[: dice.randint(1, 8)]
        leaves = dice.random() < leaving_share
        requests.append(
            Request(
                name=f"r{number}",
                at_s=at_s,
                prompt=prompt,
                max_tokens=dice.choice((1, 5, 20, 60)),
                gateway=dice.randrange(gateway_count),
                session_id=dice.choice(("", "", "s1", "s2")),
                tenant=dice.choice(("", "a")),
                cancel_after=dice.randint(0, 10) if leaves else None,
            )
        )
    return tuple(requests)


def _faults(
    dice: random.Random,
    kind: Kind,
    workers: tuple[Worker, ...],
    span_s: float,
    gateway_count: int,
) -> tuple[Fault, ...]:
    if kind is Kind.CALM:
        return ()
    names = [worker.name for worker in workers]
    if kind is Kind.SINGLE:
        return (_worker_fault(dice, dice.choice(_SURVIVABLE), names, span_s),)
    faults = []
    kinds = list(What) if dice.random() < 0.6 else dice.sample(list(What), 2)
    for _ in range(dice.choice((1, 2, 3, 5, 8))):
        what = dice.choice(kinds)
        if what in (What.RESTART_ROUTER, What.HANG_ROUTER):
            faults.append(Fault(what, _moment(dice, span_s), dice.uniform(0.2, 6.0), "router"))
        elif what is What.RESTART_GATEWAY:
            name = f"gateway{dice.randrange(gateway_count)}"
            faults.append(Fault(what, _moment(dice, span_s), dice.uniform(0.2, 3.0), name))
        else:
            faults.append(_worker_fault(dice, what, names, span_s))
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


_SURVIVABLE = (
    What.KILL_ENGINE,
    What.KILL_HOST,
    What.VANISH,
    What.HANG_ENGINE,
    What.HANG_HOST,
    What.STALL,
    What.SLOW_STEPS,
    What.BUS_CUT,
    What.CUT,
    What.CUT_ONE_WAY,
    What.FLAP,
)


def _worker_fault(dice: random.Random, what: What, names: list[str], span_s: float) -> Fault:
    target = dice.choice(names)
    others = [name for name in (*names, "gateway0", "router") if name != target]
    other = dice.choice(others) if what in _BETWEEN else ""
    for_s = dice.choice((0.3, 2.0, 5.0, 12.0, 20.0)) * (0.5 + dice.random())
    return Fault(what, _moment(dice, span_s), for_s, target, other)


_BETWEEN = (What.SLOW_LINK, What.CUT, What.CUT_ONE_WAY, What.FLAP)


def _moment(dice: random.Random, span_s: float) -> float:
    return dice.uniform(START_S, span_s)
