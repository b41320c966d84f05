"""What happens to whatever travels between simulated hosts: time, silence, resets.

Owns delays and blocked ways. Does not know what travels. Names of processes are "host/process";
processes of one host reach each other at once, whatever the weather.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

KEEPALIVE_S = 15.0
"""A connection on which nothing gets through for so long is given up by both ends."""
CONNECT_TIMEOUT_S = 20.0
_LOCAL_S = 0.00005
# What was sent later on one way arrives later.
_APART_S = 1e-6

Deliver = Callable[[], None]


@dataclass
class Lane:
    """One direction of one stream: what was sent first arrives first."""

    arrived_at_s: float = 0.0


def host_of(process: str) -> str:
    """The host that a process runs on."""
    return process.partition("/")[0]


class Weather:
    """The ways between hosts. Without bad weather everything takes `latency_s`, give or take.

    on_silence: told the two hosts between which nothing got through for KEEPALIVE_S.
    """

    def __init__(self, random: random.Random, latency_s: float = 0.0005) -> None:
        self.on_silence: Callable[[str, str], None] = lambda source, target: None
        self._random = random
        self._latency_s = latency_s
        self._slow: dict[tuple[str, str], float] = {}
        self._held: dict[tuple[str, str], deque[tuple[Deliver, Lane]]] = {}
        self._silences: dict[tuple[str, str], asyncio.TimerHandle] = {}

    def slow(self, source: str, target: str, latency_s: float) -> None:
        """Messages from `source` to `target` take so long; 0 ends it."""
        if latency_s:
            self._slow[source, target] = latency_s
        else:
            self._slow.pop((source, target), None)

    def block(self, source: str, target: str) -> None:
        """Nothing gets from `source` to `target` until `unblock`. Idempotent."""
        way = (source, target)
        if way in self._held:
            return
        self._held[way] = deque()
        loop = asyncio.get_running_loop()
        # Made outside of any process: a frozen one must not keep the network from noticing.
        self._silences[way] = loop.call_later(
            KEEPALIVE_S, self._silent, way, context=contextvars.Context()
        )

    def unblock(self, source: str, target: str) -> None:
        """What was sent meanwhile, on connections that still stand, arrives now. Idempotent."""
        held = self._held.pop((source, target), None)
        if held is None:
            return
        self._silences.pop((source, target)).cancel()
        for deliver, lane in held:
            self.carry(source, target, deliver, lane)

    def is_blocked(self, source: str, target: str) -> bool:
        """Whether anything sent now stays on the way, here or in the answer."""
        source, target = host_of(source), host_of(target)
        return (source, target) in self._held or (target, source) in self._held

    def clear(self) -> None:
        """Good weather everywhere."""
        self._slow.clear()
        for source, target in list(self._held):
            self.unblock(source, target)

    def carry(self, source: str, target: str, deliver: Deliver, lane: Lane) -> None:
        """Call `deliver` when what is sent now arrives, behind what was sent on the lane before."""
        source, target = host_of(source), host_of(target)
        loop = asyncio.get_running_loop()
        held = self._held.get((source, target))
        if held is not None and source != target:
            held.append((deliver, lane))
            return
        arrives_at = loop.time() + self._delay_s(source, target)
        lane.arrived_at_s = max(arrives_at, lane.arrived_at_s + _APART_S)
        loop.call_at(lane.arrived_at_s, deliver, context=contextvars.Context())

    def _delay_s(self, source: str, target: str) -> float:
        if source == target:
            return _LOCAL_S
        base_s = self._slow.get((source, target), self._latency_s)
        return base_s * (0.5 + self._random.random())

    def _silent(self, way: tuple[str, str]) -> None:
        self._held[way].clear()
        self.on_silence(*way)
