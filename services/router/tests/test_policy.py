from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from shoal.worker.v1 import kv_pb2
from shoal_common.testing import FakeClock
from shoal_router.pipeline import Costs, Engine, Pipeline, Times
from shoal_router.policy import Policy, PolicyOptions
from shoal_router.prefix_index import PrefixIndex
from shoal_router.request import Request
from shoal_router.sessions import NoStore, Sessions
from shoal_router.testing import MODEL, engine

COSTS = Costs(layer_time_us=1000, link_us=100)


class Site:
    """A policy over pipelines of given engines; `loads` are plans in flight by node."""

    def __init__(self, *chains: list[Engine], **options: Any) -> None:
        engines = [e for chain in chains for e in chain]
        self.times = Times.of(engines, COSTS)
        self.pipelines = [Pipeline(tuple(chain), self.times.step_us(chain)) for chain in chains]
        self.loads: Counter[str] = Counter()
        self.index = PrefixIndex(1000)
        self.clock = FakeClock()
        self.sessions = Sessions(self.clock, NoStore(), ttl_s=60.0, count_max=8)
        by_incarnation = {e.incarnation: e.node_id for e in engines}
        self.policy = Policy(
            self.index,
            self.sessions,
            lambda incarnation: self.loads[by_incarnation[incarnation]],
            lambda _: self.times,
            PolicyOptions(**options),
        )

    def chosen(self, **asked: Any) -> list[str]:
        """Nodes that a request goes to; it counts as in flight there from now on."""
        request = Request("req", MODEL, **asked)
        choice = self.policy.choose(request, self.pipelines)
        assert choice is not None
        self.policy.went(request, choice)
        nodes = [s.node_id for s in choice.pipeline.stages]
        self.loads.update(nodes)
        return nodes

    def holds(self, stage: Engine, blocks: list[bytes]) -> None:
        self.index.hear(
            kv_pb2.KvChanges(
                node_id=stage.node_id,
                incarnation=stage.incarnation,
                layer_start=stage.layer_start,
                layer_stop=stage.layer_stop,
                sequence=1,
                stored=blocks,
            )
        )


def test_idle_machines_are_taken_by_their_time() -> None:
    site = Site([engine("slow", layer_time_us=300)], [engine("fast", layer_time_us=100)])
    assert site.chosen() == ["fast"]


def test_load_spreads_by_speed() -> None:
    site = Site([engine("slow", layer_time_us=250)], [engine("fast", layer_time_us=100)])
    went = Counter(site.chosen()[0] for _ in range(60))
    # The fast one fills until a step on it takes as long as on the slow one.
    assert went["fast"] > 1.5 * went["slow"] > 0


def test_a_stage_that_is_shared_counts_for_all_pipelines_through_it() -> None:
    shared = engine("shared", "0:3")
    site = Site(
        [shared, engine("left", "3:6")],
        [engine("other", "0:3"), engine("right", "3:6", layer_time_us=120)],
    )
    site.loads["shared"] = 4
    assert site.chosen() == ["other", "right"]


def test_held_prefixes_outweigh_a_faster_machine_when_the_prompt_is_long() -> None:
    slow, fast = engine("slow", layer_time_us=150), engine("fast", layer_time_us=100)
    site = Site([slow], [fast])
    blocks = [bytes([n]) for n in range(100)]
    site.holds(slow, blocks)
    asked = {"prompt_token_count": 1601, "max_tokens": 8, "prefix_block_hashes": tuple(blocks)}
    assert site.chosen(**asked) == ["slow"]
    assert site.chosen(**asked | {"prefix_block_hashes": ()}) == ["fast"]
    # A short answer to a short prompt saves little.
    short = {"prompt_token_count": 17, "max_tokens": 256, "prefix_block_hashes": (blocks[0],)}
    site.loads.clear()
    assert site.chosen(**short) == ["fast"]


def test_a_prefix_that_one_stage_lacks_saves_nothing() -> None:
    front, back = engine("front", "0:3"), engine("back", "3:6")
    site = Site([front, back])
    site.holds(front, [b"x"])
    request = Request("req", MODEL, prompt_token_count=32, prefix_block_hashes=(b"x",))
    (candidate,) = site.policy.candidates(request, site.pipelines)
    assert candidate.held_token_count == 0
    site.holds(back, [b"x"])
    (candidate,) = site.policy.candidates(request, site.pipelines)
    assert candidate.held_token_count == 16


def test_a_hot_prefix_does_not_pile_up_on_one_machine() -> None:
    holder = engine("holder")
    site = Site([holder], [engine("b")], [engine("c")], spread_count=4, spread_factor=1.5)
    blocks = [bytes([n]) for n in range(200)]
    site.holds(holder, blocks)
    asked = {"prompt_token_count": 3201, "max_tokens": 1, "prefix_block_hashes": tuple(blocks)}
    went = [site.chosen(**asked)[0] for _ in range(60)]
    assert went[0] == "holder"
    assert site.loads["holder"] <= 1.5 * 20 + 4
    assert min(site.loads.values()) >= 10


@pytest.mark.parametrize("tenant", ["one", "two"])
def test_a_session_goes_where_it_was(tenant: str) -> None:
    site = Site([engine("a")], [engine("b")])
    asked = {"session_id": "talk", "tenant": tenant}
    site.loads["a"] = 1
    assert site.chosen(**asked) == ["b"]
    site.loads.update(b=3)
    assert site.chosen(**asked) == ["b"]
    assert site.chosen() == ["a"]


def test_sessions_of_two_tenants_do_not_meet() -> None:
    site = Site([engine("a")], [engine("b")])
    site.loads["a"] = 1
    assert site.chosen(session_id="talk", tenant="one") == ["b"]
    site.loads.update(b=3)
    assert site.chosen(session_id="talk", tenant="two") == ["a"]


def test_a_session_leaves_a_machine_far_above_its_share() -> None:
    site = Site([engine("a")], [engine("b")], spread_count=4)
    assert site.chosen(session_id="talk") == ["a"]
    site.loads["a"] = 20
    assert site.chosen(session_id="talk") == ["b"]
    site.loads["a"] = 0
    assert site.chosen(session_id="talk") == ["b"]


def test_a_session_whose_pipeline_is_gone_goes_anywhere() -> None:
    site = Site([engine("a")], [engine("b")])
    assert site.chosen(session_id="talk") == ["a"]
    site.pipelines = site.pipelines[1:]
    assert site.chosen(session_id="talk") == ["b"]


def test_choosing_alone_is_not_remembered() -> None:
    site = Site([engine("a")], [engine("b")])
    site.policy.choose(Request("req", MODEL, session_id="talk"), site.pipelines)
    assert len(site.sessions) == 0


def test_no_pipelines_no_choice() -> None:
    assert Site([engine("a")]).policy.choose(Request("req", MODEL), []) is None
