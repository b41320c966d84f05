from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from shoal.worker.v1 import kv_pb2
from shoal_router.pipeline import Pipeline
from shoal_router.prefix_index import PrefixIndex
from shoal_router.testing import engine

FRONT, BACK = engine("a", "0:3"), engine("b", "3:6")
CHAIN = Pipeline((FRONT, BACK), 1)
PROMPT = [b"one", b"two", b"three", b"four"]


def told(
    of: object = FRONT,
    stored: Sequence[bytes] = (),
    forgotten: Sequence[bytes] = (),
    *,
    sequence: int = 1,
    is_snapshot: bool = False,
) -> kv_pb2.KvChanges:
    assert isinstance(of, type(FRONT))
    return kv_pb2.KvChanges(
        node_id=of.node_id,
        incarnation=of.incarnation,
        layer_start=of.layer_start,
        layer_stop=of.layer_stop,
        sequence=sequence,
        is_snapshot=is_snapshot,
        stored=stored,
        forgotten=forgotten,
    )


@pytest.mark.parametrize(
    ("front", "back", "count"),
    [
        (PROMPT, PROMPT, 4),
        (PROMPT, PROMPT[:2], 2),
        (PROMPT, [], 0),
        (PROMPT, [PROMPT[0], PROMPT[2]], 1),
        (PROMPT[1:], PROMPT, 0),
    ],
)
def test_blocks_count_from_the_first_while_every_stage_holds_them(
    front: list[bytes], back: list[bytes], count: int
) -> None:
    index = PrefixIndex(100)
    assert index.hear(told(FRONT, front))
    assert index.hear(told(BACK, back))
    assert index.held_count(CHAIN, PROMPT) == count


def test_kv_of_a_part_of_an_engines_layers_is_found_by_that_part_alone() -> None:
    index = PrefixIndex(100)
    index.hear(told(FRONT.part(0, 2), PROMPT))
    assert index.held_count(Pipeline((FRONT.part(0, 2),), 1), PROMPT) == 4
    assert index.held_count(Pipeline((FRONT,), 1), PROMPT) == 0


def test_what_is_forgotten_is_not_held() -> None:
    index = PrefixIndex(100)
    index.hear(told(stored=PROMPT))
    index.hear(told(forgotten=PROMPT[2:3], sequence=2))
    assert index.held_count(Pipeline((FRONT,), 1), PROMPT) == 2
    assert index.block_count == 3


def test_a_gap_calls_for_a_snapshot_until_one_comes() -> None:
    index = PrefixIndex(100)
    assert index.hear(told(stored=PROMPT[:1]))
    assert not index.hear(told(stored=PROMPT[1:2], sequence=3))
    assert not index.hear(told(stored=PROMPT[2:3], sequence=4))
    assert index.hear(told(stored=PROMPT, sequence=4, is_snapshot=True))
    assert index.hear(told(forgotten=PROMPT[3:], sequence=5))
    assert index.held_count(Pipeline((FRONT,), 1), PROMPT) == 3


def test_an_engine_that_was_full_before_this_router_came_calls_for_a_snapshot() -> None:
    assert not PrefixIndex(100).hear(told(stored=PROMPT, sequence=7))


def test_late_and_repeated_messages_change_nothing() -> None:
    index = PrefixIndex(100)
    index.hear(told(stored=PROMPT))
    index.hear(told(forgotten=PROMPT, sequence=2))
    assert index.hear(told(stored=PROMPT, sequence=1))
    assert index.held_count(Pipeline((FRONT,), 1), PROMPT) == 0


def test_a_snapshot_of_a_node_replaces_all_that_was_known_of_it() -> None:
    index = PrefixIndex(100)
    index.hear(told(FRONT, PROMPT))
    index.hear(told(BACK, PROMPT))
    restarted = engine("a", "0:3", incarnation="a-restarted")
    index.replace("a", [told(restarted, PROMPT[:1], sequence=9, is_snapshot=True)])
    assert index.held_count(Pipeline((FRONT,), 1), PROMPT) == 0
    assert index.held_count(Pipeline((restarted,), 1), PROMPT) == 1
    assert index.held_count(Pipeline((BACK,), 1), PROMPT) == 4


def test_engines_that_are_gone_are_forgotten() -> None:
    index = PrefixIndex(100)
    index.hear(told(FRONT, PROMPT))
    index.hear(told(BACK, PROMPT))
    index.keep({BACK.incarnation})
    assert index.held_count(Pipeline((FRONT,), 1), PROMPT) == 0
    assert index.block_count == 4


def test_beyond_the_bound_the_longest_unused_blocks_go_and_a_prompts_first_ones_last() -> None:
    index = PrefixIndex(6)
    index.hear(told(FRONT, PROMPT))
    index.use(Pipeline((FRONT,), 1), PROMPT)
    index.hear(told(BACK, [b"w", b"x", b"y", b"z"]))
    assert index.block_count == 6
    assert index.held_count(Pipeline((FRONT,), 1), PROMPT) == 2
    assert index.held_count(Pipeline((BACK,), 1), [b"w", b"x", b"y", b"z"]) == 4


@pytest.mark.parametrize("seed", range(20))
def test_the_index_holds_what_engines_hold_whatever_they_tell(seed: int) -> None:
    """Against plain sets, while the bound is never met."""
    rng = random.Random(seed)
    index, engines = PrefixIndex(10_000), [FRONT, BACK]
    held: dict[str, set[bytes]] = {e.incarnation: set() for e in engines}
    sequence = dict.fromkeys(held, 0)
    names = [bytes([n]) for n in range(12)]
    for _ in range(200):
        each = rng.choice(engines)
        mine = held[each.incarnation]
        sequence[each.incarnation] += 1
        stored = rng.sample(names, rng.randint(0, 4))
        forgotten = rng.sample(sorted(mine - set(stored)), min(2, len(mine - set(stored))))
        mine |= set(stored)
        mine -= set(forgotten)
        index.hear(told(each, stored, forgotten, sequence=sequence[each.incarnation]))
        prompt = rng.sample(names, 6)
        both = held[FRONT.incarnation] & held[BACK.incarnation]
        expected = next((i for i, name in enumerate(prompt) if name not in both), 6)
        assert index.held_count(CHAIN, prompt) == expected
        assert index.block_count == sum(map(len, held.values()))
