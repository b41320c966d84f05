"""Blocks are counted, shared and returned."""

import random

import pytest

from shoal_engine.blocks import BlockPool, CacheFull, SequenceKv


def test_allocation_takes_the_lowest_free_blocks() -> None:
    pool = BlockPool(8, 16)
    assert pool.allocate(3) == [0, 1, 2]
    assert (pool.free_count, pool.used_count) == (5, 3)
    pool.release([1])
    assert pool.allocate(2) == [1, 3]


def test_full_pool_refuses_and_stays_untouched() -> None:
    pool = BlockPool(4, 16)
    pool.allocate(3)
    with pytest.raises(CacheFull, match="2 blocks asked, 1 of 4 free") as caught:
        pool.allocate(2)
    assert (caught.value.blocks_asked, caught.value.blocks_free) == (2, 1)
    assert caught.value.retryable
    assert (pool.free_count, pool.used_count) == (1, 3)
    assert pool.allocate(1) == [3]


def test_shared_block_is_free_after_its_last_holder() -> None:
    pool = BlockPool(4, 16)
    blocks = pool.allocate(2)
    pool.retain(blocks)
    pool.release(blocks)
    assert pool.used_count == 2
    pool.release(blocks)
    assert pool.used_count == 0


def test_releasing_or_retaining_a_free_block_is_a_programmer_error() -> None:
    pool = BlockPool(4, 16)
    with pytest.raises(AssertionError, match="block 2 is free"):
        pool.release([2])
    with pytest.raises(AssertionError, match="block 2 is free"):
        pool.retain([2])


def test_sequence_gets_room_in_whole_blocks() -> None:
    pool = BlockPool(4, 16)
    kv = pool.sequence(17)
    assert (kv.blocks, kv.length, kv.capacity) == ([0, 1], 0, 32)
    with pytest.raises(CacheFull):
        pool.sequence(33)
    assert pool.used_count == 2
    assert SequenceKv(blocks=[3]).capacity == 16


def test_random_use_conserves_blocks() -> None:
    seed = 7
    rng = random.Random(seed)
    pool = BlockPool(20, 4)
    held: list[list[int]] = []
    for _ in range(2000):
        action = rng.random()
        if action < 0.4:
            count = rng.randint(0, 6)
            if count <= pool.free_count:
                held.append(pool.allocate(count))
            else:
                with pytest.raises(CacheFull):
                    pool.allocate(count)
        elif held and action < 0.6:
            shared = rng.choice(held)
            pool.retain(shared)
            held.append(list(shared))
        elif held:
            pool.release(held.pop(rng.randrange(len(held))))
        in_use = {block for blocks in held for block in blocks}
        assert pool.used_count == len(in_use), f"seed {seed}"
    for blocks in held:
        pool.release(blocks)
    assert sorted(pool.allocate(20)) == list(range(20))
