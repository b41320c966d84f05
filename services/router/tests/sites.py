"""Models and machines for tests of placement, in numbers that are easy to add."""

from __future__ import annotations

import random
from collections import Counter

from shoal_router.placement import Fit, Held, Machine, ModelShape, PlacedRange

GIB = 1 << 30
MIB = 1 << 20


def shape(layer_count: int = 12, **more: int) -> ModelShape:
    """Layers of 100 bytes, and nothing besides."""
    values = {"model": "m", "layer_count": layer_count, "layer_bytes": 100}
    return ModelShape(**(values | more))  # type: ignore[arg-type]


def machine(
    node_id: str, layers: float = 12, layer_us: float = 1000.0, region: str = "", **more: object
) -> Machine:
    """With room for so many layers of `shape()`."""
    values: dict[str, object] = {
        "node_id": node_id,
        "locator": f"grpc:{node_id}:2",
        "region": region,
        "free_bytes": round(layers * 100),
        "layer_us": layer_us,
    }
    return Machine(**(values | more))  # type: ignore[arg-type]


def held(layers: str, *, is_pinned: bool = False, is_ready: bool = True) -> tuple[Held, ...]:
    """One range as in "0:3", with the memory that its layers take."""
    start, stop = map(int, layers.split(":"))
    return (Held(start, stop, 100 * (stop - start), is_pinned, is_ready),)


def placed(text: str) -> set[PlacedRange]:
    """ "a@0:3 b@3:6" """
    found = set()
    for part in text.split():
        node_id, layers = part.split("@")
        start, stop = map(int, layers.split(":"))
        found.add(PlacedRange(node_id, start, stop))
    return found


def real_shape(layer_count: int = 32) -> ModelShape:
    """A model of about 7 billion parameters in 16 bits."""
    return ModelShape(
        "m",
        layer_count,
        layer_bytes=400 * MIB,
        embed_bytes=250 * MIB,
        head_bytes=250 * MIB,
        least_bytes=(layer_count * 400 + 500) * MIB // 2,
        kv_layer_bytes=16 * MIB,
        overhead_bytes=256 * MIB,
        token_bytes=16_384,
    )


def fleet(seed: int, count: int, regions: int = 1, layer_count: int = 32) -> list[Machine]:
    """Machines of unequal memory and speed; some hold ranges, some are pinned or locked."""
    rng = random.Random(seed)
    whole_bytes = real_shape(layer_count).memory_bytes(0, layer_count)
    found = []
    for index in range(count):
        region = f"r{rng.randrange(regions)}"
        share = rng.uniform(1, 2) if rng.random() < 0.2 else rng.uniform(0, 0.7)
        found.append(
            machine(
                f"n{index:04d}",
                region=region,
                host_id=rng.choice(["", "", f"host {rng.randrange(count)} in {region}"]),
                layer_us=round(rng.choice([300, 600, 1200, 2500, 6000]) * rng.uniform(0.8, 1.2)),
                free_bytes=int(share * whole_bytes),
                idle_bytes=int(rng.choice([0, 0, 0.2]) * whole_bytes),
                is_locked=rng.random() < 0.05,
                held=_some_held(rng, layer_count) if rng.random() < 0.25 else (),
            )
        )
    return found


def _some_held(rng: random.Random, layer_count: int) -> tuple[Held, ...]:
    start = rng.randrange(layer_count)
    stop = rng.randrange(start + 1, layer_count + 1)
    size_bytes = real_shape(layer_count).memory_bytes(start, stop)
    return (Held(start, stop, size_bytes, is_pinned=rng.random() < 0.3),)


def memory_overdrawn(
    model: ModelShape,
    machines: list[Machine],
    ranges: tuple[PlacedRange, ...],
    fit: Fit,
    *,
    reuses_held: bool,
) -> dict[str, int]:
    """Bytes that a placement would take beyond what a machine or host has, by name."""
    by_id = {m.node_id: m for m in machines}
    held_now = {
        PlacedRange(m.node_id, h.layer_start, h.layer_stop): h for m in machines for h in m.held
    }
    taken: Counter[str] = Counter()
    has: Counter[str] = Counter()
    free_on: dict[str, int] = {}
    for each in machines:
        free_bytes = each.free_bytes if fit is Fit.BESIDE else each.room_bytes
        mine, host = f"node {each.node_id}", f"host {each.host_id or each.node_id}"
        has[mine] += free_bytes
        free_on[host] = max(free_on.get(host, 0), free_bytes)
        if reuses_held and not each.is_fixed:
            own_bytes = sum(h.memory_bytes for h in each.held)
            has[mine] += own_bytes
            has[host] += own_bytes
    has.update(free_on)
    needs = model.least_memory_bytes if fit is Fit.LEAST else model.memory_bytes
    for placed_range in ranges:
        owner = by_id[placed_range.node_id]
        stays = placed_range in held_now and (owner.is_fixed or not reuses_held)
        if not stays:
            size_bytes = needs(placed_range.layer_start, placed_range.layer_stop)
            taken[f"node {owner.node_id}"] += size_bytes
            taken[f"host {owner.host_id or owner.node_id}"] += size_bytes
    return {name: size - has[name] for name, size in taken.items() if size > has[name]}
