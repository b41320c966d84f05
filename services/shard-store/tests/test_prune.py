"""What may go, and what must stay."""

from __future__ import annotations

import itertools

import pytest

from shoal_shard_store.order import fair_share
from shoal_shard_store.prune import HeldGroup, PruneRules, decide

RULES = PruneRules(min_replicas=2, cooldown_s=300.0, holder_load_max=3)
NODES = frozenset({"n1", "n2", "n3", "n4", "n5"})


def who_keeps(group: str, nodes: frozenset[str], rules: PruneRules = RULES) -> set[str]:
    """Nodes that would keep a group if all decided at the same moment."""
    return {
        node
        for node in nodes
        if decide([HeldGroup("m", group, 10, nodes - {node})], node, rules, 0)[0].kept_because
    }


@pytest.mark.parametrize("count", range(1, 6))
def test_stores_that_prune_at_once_never_lose_the_last_copies(count: int) -> None:
    for nodes in itertools.combinations(sorted(NODES), count):
        for layer in range(20):
            kept = who_keeps(f"layer.{layer}", frozenset(nodes))
            assert len(kept) == min(count, RULES.min_replicas)


def one(holders: frozenset[str] = NODES, **fields: object) -> str:
    held = HeldGroup("m", "layer.0", 10, holders, **fields)  # type: ignore[arg-type]
    return decide([held], "zz-last", RULES, 0)[0].kept_because


def test_reasons_to_stay_are_said() -> None:
    assert one(is_pinned=True) == "pinned"
    assert one(is_downloading=True) == "its model is being downloaded"
    assert one(frozenset({"n1"})) == "1 other stores hold it, 2 must"
    assert one(frozenset()) == "0 other stores hold it, 2 must"


def test_a_model_is_left_alone_for_a_while() -> None:
    goes = next(
        n
        for n in range(50)
        if not decide([HeldGroup("m", f"layer.{n}", 10, NODES)], "zz", RULES, 0)[0].kept_because
    )
    held = HeldGroup("m", f"layer.{goes}", 10, NODES, pruned_ago_s=299.0)
    assert decide([held], "zz", RULES, 0)[0].kept_because == "its model was pruned 299 s ago"
    held = HeldGroup("m", f"layer.{goes}", 10, NODES, pruned_ago_s=300.0)
    assert not decide([held], "zz", RULES, 0)[0].kept_because


def test_no_more_goes_than_is_needed_and_the_best_replicated_first() -> None:
    rules = PruneRules(1, 0.0, 3)
    held = [
        HeldGroup("m", f"layer.{n}", 10, frozenset({"n1", "n2"} if n < 10 else NODES))
        for n in range(20)
    ]
    verdicts = decide(held, "zz", rules, 25)
    gone = [verdict.held for verdict in verdicts if not verdict.kept_because]
    assert len(gone) == 3
    assert {len(each.holders) for each in gone} == {5}


@pytest.mark.parametrize("layer_count", [1, 3, 32, 80])
@pytest.mark.parametrize("node_count", [1, 2, 3, 7])
def test_shares_cover_every_layer_once(layer_count: int, node_count: int) -> None:
    nodes = [f"node-{n}" for n in range(node_count)]
    shares = [fair_share("m", layer_count, node, nodes) for node in nodes]
    assert sorted(layer for share in shares for layer in share) == list(range(layer_count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
