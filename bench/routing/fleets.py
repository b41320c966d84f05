"""Random fleets: machines as people have them, in one to three places, for models that they hold.

Owns the ways between machines and what a path costs. A path is a tuple of placed ranges that meet
end to end. Seeded; equal seeds give equal fleets.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from shoal_router.placement import Links, Machine, ModelShape, PlacedRange

Path = tuple[PlacedRange, ...]

GIB = 1 << 30
# What batching multiplies every machine's rate by.
BATCHING = 8.0
FLEET_COUNT = 200


@dataclass(frozen=True)
class Kind:
    """A machine: what its memory holds, and how fast it is read, which is what decoding takes."""

    name: str
    memory_gib: float
    read_gb_per_s: float


KINDS = (
    Kind("old laptop", 6, 25),
    Kind("laptop", 12, 50),
    Kind("desktop", 24, 70),
    Kind("mac mini", 16, 120),
    Kind("gpu 8", 7, 250),
    Kind("gpu 12", 11, 360),
    Kind("gpu 16", 15, 500),
    Kind("gpu 24", 23, 930),
    Kind("mac studio", 72, 700),
    Kind("gpu 48", 46, 770),
    Kind("gpu 80", 78, 1900),
)
# Name, layers, GiB of a layer, GiB of embedding and of head, width.
MODELS = (
    ("8b", 32, 0.40, 0.98, 4096),
    ("14b", 48, 0.53, 1.45, 5120),
    ("32b", 64, 0.93, 1.45, 5120),
    ("70b", 80, 1.59, 1.96, 8192),
)


@dataclass(frozen=True)
class RandomFleet:
    """A model, machines and the ways between them. Times in microseconds."""

    seed: int
    shape: ModelShape
    machines: tuple[Machine, ...]
    links: Links

    @cached_property
    def by_id(self) -> dict[str, Machine]:
        return {machine.node_id: machine for machine in self.machines}

    def layers_held_max(self, machine: Machine) -> int:
        """Layers of the model that find room, an embedding and a head beside them."""
        ends = self.shape.embed_bytes + self.shape.head_bytes
        free = machine.free_bytes - ends - self.shape.overhead_bytes
        per_layer = self.shape.layer_bytes + self.shape.kv_layer_bytes
        return max(0, min(self.shape.layer_count, free // per_layer))

    def work_us(self, placed: PlacedRange) -> float:
        """Time of a machine that one token's step through a range takes, its hops included."""
        is_whole = placed.layer_stop - placed.layer_start == self.shape.layer_count
        work = self.shape.work(placed.layer_start, placed.layer_stop)
        visit_us = 0.0 if is_whole else self.links.visit_us
        return self.by_id[placed.node_id].layer_us * work + visit_us

    def hop_us(self, source: str, target: str) -> float:
        return self.links.hop_us(self.by_id[source], self.by_id[target], self.shape.token_bytes)

    def step_us(self, path: Path) -> float:
        """One token through an idle path and back to its head."""
        first, last = self.by_id[path[0].node_id], self.by_id[path[-1].node_id]
        hops = pairwise(path)
        total = sum(self.work_us(placed) for placed in path)
        total += sum(self.hop_us(a.node_id, b.node_id) for a, b in hops)
        # Ids come back, which are small.
        return total + self.links.hop_us(last, first, 0)

    def best_single_rate(self) -> float:
        """Tokens per second of the fastest machine that could hold the whole model; 0 if none."""
        whole = [m for m in self.machines if self.layers_held_max(m) >= self.shape.layer_count]
        return max((self.rate_alone(m) for m in whole), default=0.0)

    def best_single_us(self) -> float:
        """Step time on that machine; infinite if none."""
        rate = self.best_single_rate()
        return BATCHING * 1e6 / rate if rate else float("inf")

    def rate_alone(self, machine: Machine) -> float:
        whole = PlacedRange(machine.node_id, 0, self.shape.layer_count)
        return BATCHING * 1e6 / self.work_us(whole)


def random_fleet(seed: int) -> RandomFleet:
    """4 to 24 machines that hold the model at least once and a third of it again."""
    rng = random.Random(seed)
    while True:
        name, layer_count, layer_gib, end_gib, width = rng.choice(MODELS)
        shape = ModelShape(
            model=name,
            layer_count=layer_count,
            layer_bytes=int(layer_gib * GIB),
            embed_bytes=int(end_gib * GIB),
            head_bytes=int(end_gib * GIB),
            kv_layer_bytes=int(layer_gib * GIB * 0.08),
            overhead_bytes=GIB // 4,
            token_bytes=2 * width,
        )
        fleet = RandomFleet(seed, shape, *_machines(rng, shape))
        held = sum(map(fleet.layers_held_max, fleet.machines))
        if held >= layer_count * 4 / 3:
            return fleet


def _machines(rng: random.Random, shape: ModelShape) -> tuple[tuple[Machine, ...], Links]:
    count = rng.randint(4, 24)
    regions = rng.choice((("home",), ("home", "office"), ("home", "office", "cloud")))
    kinds = rng.sample(KINDS, rng.randint(2, 6))
    machines = []
    for number in range(count):
        kind = rng.choice(kinds)
        # Nothing runs as the sheet says.
        rate = kind.read_gb_per_s * rng.uniform(0.5, 0.9) * 1e9
        node_id = f"n{number:02d}"
        machines.append(
            Machine(
                node_id,
                locator=f"grpc:{node_id}:1",
                region=rng.choice(regions),
                host_id=node_id,
                free_bytes=int(kind.memory_gib * GIB * rng.uniform(0.8, 1.0)),
                layer_us=shape.layer_bytes / rate * 1e6,
                is_measured=True,
            )
        )
    rtt_us: dict[tuple[str, str], float] = {}
    far_ms = rng.uniform(10, 80)
    for i, a in enumerate(machines):
        for b in machines[i + 1 :]:
            ms = rng.uniform(0.2, 2.0) if a.region == b.region else far_ms * rng.uniform(0.8, 1.2)
            rtt_us[a.node_id, b.node_id] = ms * 1000
    return tuple(machines), Links(rtt_us=rtt_us, visit_us=rng.choice((50.0, 200.0, 500.0)))
