from __future__ import annotations

import pytest

from shoal_router.flow import Fleet, FlowOptions, pipelines_of
from shoal_router.pipeline import Costs, Engine, Pipeline, missing_ranges
from shoal_router.testing import engine

COSTS = Costs(layer_time_us=1000, link_us=100, local_link_us=10)
ONE = FlowOptions(1, costs=COSTS)


def found(
    *engines: Engine,
    count_max: int = 4,
    running: tuple[Pipeline, ...] = (),
    uses_parts: bool = True,
) -> list[list[str]]:
    options = FlowOptions(count_max, uses_parts=uses_parts, costs=COSTS)
    pipelines = pipelines_of(Fleet(engines), options, running)
    return [[stage.node_id for stage in p.stages] for p in pipelines]


@pytest.mark.parametrize(
    ("held", "missing"),
    [
        ([], ["0:6"]),
        (["0:6"], []),
        (["0:3"], ["3:6"]),
        (["3:6"], ["0:3"]),
        (["0:2", "4:5"], ["2:4", "5:6"]),
        (["0:4", "1:2", "2:6"], []),
    ],
)
def test_missing_ranges_are_the_gaps(held: list[str], missing: list[str]) -> None:
    ranges = [range(*map(int, text.split(":"))) for text in held]
    assert [f"{r.start}:{r.stop}" for r in missing_ranges(ranges, 6)] == missing


@pytest.mark.parametrize(
    ("engines", "expected"),
    [
        pytest.param([], [], id="nobody"),
        pytest.param([engine("a")], [["a"]], id="one machine"),
        pytest.param([engine("a", "0:3"), engine("b", "3:6")], [["a", "b"]], id="two stages"),
        pytest.param([engine("b", "3:6"), engine("a", "0:3")], [["a", "b"]], id="any order"),
        pytest.param([engine("a", "0:3"), engine("b", "4:6")], [], id="gap"),
        pytest.param([engine("a", "0:4"), engine("b", "3:6")], [["a", "b"]], id="overlap joins"),
        pytest.param(
            [engine("a", layer_time_us=900), engine("b", "0:3"), engine("c", "3:6")],
            [["a"], ["b", "c"]],
            id="single machine first, even if slower",
        ),
        pytest.param(
            [engine("a", "0:3"), engine("b", "3:6", layer_time_us=300), engine("c", "3:6")],
            [["a", "c"]],
            id="faster layers win",
        ),
        pytest.param(
            [engine("a", "0:2"), engine("b", "2:6"), engine("c", "2:4"), engine("d", "4:6")],
            [["a", "b"], ["a", "c", "d"]],
            id="fewer hops come first, and what is left carries more",
        ),
        pytest.param(
            [engine("a", "0:3"), engine("a", "3:6"), engine("b", "3:6")],
            [["a", "a"]],
            id="a hop within a node is cheaper",
        ),
        pytest.param(
            [engine("a", "0:3"), engine("b", "3:6", revision="r2")], [], id="revisions do not mix"
        ),
        pytest.param(
            [engine("a", "0:3"), engine("b", "3:6", block_size_tokens=32)],
            [],
            id="block sizes do not mix",
        ),
        pytest.param(
            [engine("a", "0:3"), engine("b", "0:3"), engine("c", "3:6"), engine("d", "3:6")],
            [["a", "c"], ["b", "d"]],
            id="pipelines share no engine",
        ),
        pytest.param(
            [
                engine("a", "0:3"),
                engine("b", "3:6", block_size_tokens=32),
                engine("c", revision="r0"),
            ],
            [["c"]],
            id="a revision that joins beats one that only covers",
        ),
        pytest.param(
            [engine("a", "0:3", layer_time_us=0), engine("b", "0:3"), engine("c", "3:6")],
            [["a", "c"]],
            id="unmeasured counts as typical of the model",
        ),
    ],
)
def test_pipelines_of(engines: list[Engine], expected: list[list[str]]) -> None:
    assert found(*engines) == expected


def test_predicted_time_adds_layers_and_hops() -> None:
    engines = [engine("a", "0:2", layer_time_us=50), engine("b", "2:6", layer_time_us=200)]
    there_and_back_us = 2 * 100
    visits_us = 2 * Costs().visit_us
    layers_us = 2 * 50 + 4 * 200
    assert pipelines_of(Fleet(engines), ONE)[0].time_us == (
        layers_us + there_and_back_us + visits_us
    )


def test_unmeasured_fleet_uses_the_assumed_layer_time() -> None:
    assert pipelines_of(Fleet([engine("a", layer_time_us=0)]), ONE)[0].time_us == 6000


def test_number_of_pipelines_is_bounded() -> None:
    assert len(found(*[engine(f"n{i}") for i in range(9)], count_max=3)) == 3


def test_order_of_engines_changes_nothing() -> None:
    engines = [engine(f"n{i}", layers) for i in range(4) for layers in ("0:2", "2:6", "0:6")]
    assert found(*engines) == found(*reversed(engines))


def test_running_pipeline_stays_while_a_new_one_is_barely_faster() -> None:
    running = pipelines_of(Fleet([engine("a", "0:3"), engine("b", "3:6")]), ONE)
    now = [engine("a", "0:3"), engine("b", "3:6"), engine("c", "3:6", layer_time_us=90)]
    assert found(*now, running=running) == [["a", "b"]]


def test_running_pipeline_gives_way_to_a_much_faster_one() -> None:
    running = pipelines_of(Fleet([engine("a", "0:3"), engine("b", "3:6")]), ONE)
    now = [engine("a", "0:3"), engine("b", "3:6", layer_time_us=500), engine("c", "3:6")]
    assert found(*now, running=running) == [["a", "c"]]


def test_running_chain_gives_way_to_a_single_machine() -> None:
    running = pipelines_of(Fleet([engine("a", "0:3"), engine("b", "3:6")]), ONE)
    now = [engine("a", "0:3"), engine("b", "3:6"), engine("c", layer_time_us=100)]
    assert found(*now, running=running) == [["c"], ["a", "b"]]


def test_running_pipeline_that_lost_a_stage_is_not_kept() -> None:
    running = pipelines_of(Fleet([engine("a", "0:3"), engine("b", "3:6")]), ONE)
    assert found(engine("a", "0:3"), running=running) == []


def test_pipeline_id_names_nodes_and_ranges_not_processes() -> None:
    def only(*engines: Engine) -> str:
        return pipelines_of(Fleet(engines), ONE)[0].pipeline_id

    first = only(engine("a", "0:3"), engine("b", "3:6"))
    assert first == only(engine("a", "0:3", incarnation="restarted"), engine("b", "3:6"))
    assert first != only(engine("a", "0:4"), engine("b", "4:6"))
    assert first != only(engine("c", "0:3"), engine("b", "3:6"))


def test_context_is_the_shortest_of_the_stages() -> None:
    engines = [engine("a", "0:3", context_length=512), engine("b", "3:6", context_length=256)]
    assert pipelines_of(Fleet(engines), ONE)[0].context_length == 256
