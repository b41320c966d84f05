from __future__ import annotations

from itertools import combinations

from shoal_common.prefix import KEY_BYTES, PrefixKeys, prefix_root

ROOT = prefix_root("r1", "f32", "", "tenant")


def test_a_key_stands_for_all_tokens_before_it() -> None:
    ids = list(range(12))
    keys = PrefixKeys(ROOT, 4).of(ids)
    assert [len(key) for key in keys] == [KEY_BYTES] * 3
    other = PrefixKeys(ROOT, 4).of([9, *ids[1:]])
    assert all(mine != theirs for mine, theirs in zip(keys, other, strict=True))
    assert PrefixKeys(ROOT, 4).of([*ids[:8], 9, 9, 9, 9])[:2] == keys[:2]


def test_only_whole_blocks_have_keys_and_a_chain_grows() -> None:
    chain = PrefixKeys(ROOT, 4)
    assert chain.of([1, 2, 3]) == []
    first = chain.of([1, 2, 3, 4, 5])
    assert chain.of([1, 2, 3, 4, 5, 6, 7, 8])[:1] == first


def test_whatever_numbers_in_kv_depend_on_keeps_keys_apart() -> None:
    roots = [
        prefix_root("r1", "f32", "a", "b"),
        prefix_root("r2", "f32", "a", "b"),
        prefix_root("r1", "int8", "a", "b"),
        prefix_root("r1", "f32", "ab", ""),
        prefix_root("r1", "f32", "", "ab"),
    ]
    assert all(one != other for one, other in combinations(roots, 2))
