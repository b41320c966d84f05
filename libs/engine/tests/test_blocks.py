"""Blocks are counted, shared and returned."""

import random

import pytest

from shoal_engine.blocks import TILE_TOKENS, BlockPool, CacheFull, SequenceKv


def test_a_sequence_grows_into_the_blocks_right_behind_it() -> None:
    pool = BlockPool(64, 16)
    first, second = pool.sequence(3 * 16), pool.sequence(3 * 16)
    for _ in range(4):
        pool.grow(first, 4)
        pool.grow(second, 4)
    for kv in (first, second):
        assert kv.blocks == list(range(kv.blocks[0], kv.blocks[0] + 19))


def test_without_room_behind_it_a_sequence_grows_elsewhere() -> None:
    pool = BlockPool(8, 16)
    blocks = pool.allocate(8)
    pool.release([blocks[0], blocks[6]])
    kv = SequenceKv(blocks=[5])
    pool.grow(kv, 2)
    assert kv.blocks == [5, 6, 0]


def test_full_pool_refuses_and_stays_untouched() -> None:
    pool = BlockPool(4, 16)
    pool.allocate(3)
    with pytest.raises(CacheFull, match="2 blocks asked, 1 of 4 free") as caught:
        pool.allocate(2)
    assert (caught.value.blocks_asked, caught.value.blocks_free) == (2, 1)
    assert caught.value.retryable
    assert (pool.free_count, pool.used_count) == (1, 3)
    assert len(pool.allocate(1)) == 1


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


def keys_of(count: int, prefix: str = "") -> list[bytes]:
    return [f"{prefix}{n}".encode() for n in range(count)]


def filled(pool: BlockPool, count: int, keys: list[bytes]) -> SequenceKv:
    """A sequence of `count` complete blocks that went through the pool and left."""
    kv = pool.attach(count)
    kv.length = count * pool.block_size_tokens
    pool.detach(kv, keys)
    return kv


def test_a_prefix_is_found_after_its_sequence_has_left() -> None:
    pool = BlockPool(16, 4)
    filled(pool, 3, keys_of(3))
    assert (pool.free_count, pool.remembered_count) == (16, 3)
    kv = pool.attach(5, [*keys_of(2), b"other"], position_max=100)
    assert (kv.length, len(kv.blocks), len(kv.copies)) == (8, 5, 2)
    assert [source for source, _ in kv.copies] == pool.match(keys_of(2))
    assert [target for _, target in kv.copies] == kv.blocks[:2]
    pool.copied(kv)
    pool.detach(kv)
    assert pool.free_count == 16


def test_a_full_hit_leaves_one_token_to_compute() -> None:
    pool = BlockPool(16, 4)
    filled(pool, 3, keys_of(3))
    kv = pool.attach(4, keys_of(3), position_max=11)
    assert (kv.length, len(kv.copies)) == (11, 3)


def test_whole_tiles_are_shared_and_the_rest_is_copied() -> None:
    pool = BlockPool(256, 16)
    tile_blocks = TILE_TOKENS // 16
    filled(pool, 2 * tile_blocks + 3, keys_of(2 * tile_blocks + 3))
    kvs = [pool.attach(80, keys_of(80), position_max=10_000) for _ in range(2)]
    assert kvs[0].blocks[: 2 * tile_blocks] == kvs[1].blocks[: 2 * tile_blocks]
    assert not set(kvs[0].blocks[2 * tile_blocks :]) & set(kvs[1].blocks)
    assert [kv.shared_count for kv in kvs] == [2 * tile_blocks] * 2
    assert len(kvs[0].copies) == 3
    assert pool.used_count == 2 * tile_blocks + 3 + 2 * (80 - 2 * tile_blocks)


def test_a_prefix_gives_way_to_the_sequence_that_cannot_copy_it() -> None:
    pool = BlockPool(6, 4)
    filled(pool, 4, keys_of(4))
    kv = pool.attach(5, keys_of(4), position_max=100)
    assert (kv.length, len(kv.blocks), kv.copies) == (0, 5, [])
    with pytest.raises(CacheFull):
        pool.attach(2, keys_of(4), position_max=100)
    pool.detach(kv)
    assert pool.free_count == 6


def test_a_stage_that_holds_more_than_was_agreed_gives_it_up() -> None:
    pool = BlockPool(256, 16)
    tile_blocks = TILE_TOKENS // 16
    filled(pool, 3 * tile_blocks, keys_of(3 * tile_blocks))
    kv = pool.attach(100, keys_of(100), position_max=10_000)
    assert kv.length == 3 * TILE_TOKENS
    pool.start_at(kv, TILE_TOKENS + 20)
    assert (kv.length, kv.shared_count, len(kv.copies)) == (TILE_TOKENS + 20, tile_blocks, 2)
    assert [target for _, target in kv.copies] == kv.blocks[tile_blocks : tile_blocks + 2]
    assert len(set(kv.blocks)) == 100
    pool.start_at(kv, 0)
    assert (kv.length, kv.shared_count, kv.copies) == (0, 0, [])
    pool.detach(kv)
    assert pool.used_count == 0


def test_giving_up_shared_blocks_needs_room_and_changes_nothing_without() -> None:
    pool = BlockPool(3 * (TILE_TOKENS // 16) + 1, 16)
    keys = keys_of(3 * (TILE_TOKENS // 16))
    filled(pool, len(keys), keys)
    kv = pool.attach(len(keys) + 1, keys, position_max=10_000)
    before = (list(kv.blocks), kv.length, kv.shared_count, pool.free_count)
    with pytest.raises(CacheFull):
        pool.start_at(kv, 5)
    assert (list(kv.blocks), kv.length, kv.shared_count, pool.free_count) == before


def test_idle_blocks_are_given_away_oldest_first_and_ends_before_beginnings() -> None:
    pool = BlockPool(6, 4)
    filled(pool, 3, keys_of(3, "a"))
    filled(pool, 3, keys_of(3, "b"))
    pool.allocate(2)
    assert [len(pool.match(keys_of(3, name))) for name in "ab"] == [1, 3]
    assert pool.take_changes() == dict.fromkeys([b"a0", *keys_of(3, "b")], True)
    assert sorted(pool.remembered()) == [b"a0", *keys_of(3, "b")]


def test_changes_are_told_once_and_net() -> None:
    pool = BlockPool(2, 4)
    filled(pool, 2, keys_of(2, "a"))
    assert pool.take_changes() == dict.fromkeys(keys_of(2, "a"), True)
    assert pool.take_changes() == {}
    filled(pool, 2, keys_of(2, "b"))
    filled(pool, 1, keys_of(1, "c"))
    gone = dict.fromkeys(keys_of(2, "a"), False)
    assert pool.take_changes() == {**gone, b"b0": True, b"c0": True}


def test_using_a_prefix_makes_it_young_again() -> None:
    pool = BlockPool(6, 4)
    filled(pool, 3, keys_of(3, "a"))
    filled(pool, 3, keys_of(3, "b"))
    pool.retain(pool.match(keys_of(3, "a")))
    pool.release(reversed(pool.match(keys_of(3, "a"))))
    pool.allocate(3)
    assert [len(pool.match(keys_of(3, name))) for name in "ab"] == [3, 0]


def test_held_blocks_are_never_given_away() -> None:
    pool = BlockPool(4, 4)
    filled(pool, 3, keys_of(3))
    pool.retain(pool.match(keys_of(3)))
    with pytest.raises(CacheFull, match="2 blocks asked, 1 of 4 free"):
        pool.allocate(2)


def test_the_first_of_two_equal_blocks_is_remembered() -> None:
    pool = BlockPool(8, 4)
    first, second = pool.attach(1), pool.attach(1)
    for kv in (first, second):
        kv.length = 4
        pool.remember(kv, keys_of(1))
    assert pool.match(keys_of(1)) == first.blocks
    pool.detach(second)
    pool.detach(first)
    assert (pool.free_count, pool.remembered_count) == (8, 1)


def test_incomplete_blocks_are_not_remembered() -> None:
    pool = BlockPool(8, 4)
    kv = pool.attach(2)
    kv.length = 7
    pool.remember(kv, keys_of(2))
    assert pool.remembered() == keys_of(1)


def test_blocks_idle_for_too_long_are_forgotten() -> None:
    now = 0.0
    pool = BlockPool(8, 4, now=lambda: now)
    filled(pool, 2, keys_of(2, "a"))
    now = 500.0
    filled(pool, 2, keys_of(2, "b"))
    now = 700.0
    assert pool.forget_idle(600.0) == 2
    assert pool.remembered() == keys_of(2, "b")


def test_random_sharing_conserves_blocks() -> None:
    seed = 11
    rng = random.Random(seed)
    pool = BlockPool(100, 4)
    chains = [keys_of(rng.randint(1, 30), name) for name in "abcd"]
    live: list[tuple[SequenceKv, list[bytes]]] = []
    for _ in range(3000):
        keys = rng.choice(chains)
        try:
            if rng.random() < 0.5:
                kv = pool.attach(len(keys) + rng.randint(0, 2), keys, rng.randint(0, 120))
                pool.start_at(kv, rng.randint(0, kv.length))
                live.append((kv, keys))
            elif live:
                kv, keys = live.pop(rng.randrange(len(live)))
                if rng.random() < 0.7:
                    pool.copied(kv)
                    kv.length = 4 * rng.randint(kv.length // 4, len(keys))
                    pool.remember(kv, keys)
                pool.detach(kv, keys if rng.random() < 0.5 else ())
        except CacheFull:
            pass
        held = {b for kv, _ in live for b in kv.blocks} | {
            source for kv, _ in live for source, _ in kv.copies
        }
        assert pool.used_count == len(held), f"seed {seed}"
    for kv, _ in live:
        pool.detach(kv)
    assert pool.free_count == 100
