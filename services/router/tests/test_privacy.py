from __future__ import annotations

import pytest

from shoal.common.v1 import chat_pb2
from shoal.worker.v1 import pipeline_pb2 as pb
from shoal_router.flow import Fleet, FlowOptions, pipelines_of
from shoal_router.pipeline import Engine, Pipeline
from shoal_router.privacy import Demand
from shoal_router.testing import engine

HERE = "host-of-the-driver"
LOCAL, POOL = chat_pb2.PRIVACY_LABEL_LOCAL, chat_pb2.PRIVACY_LABEL_POOL
LAN, PUBLIC = chat_pb2.PRIVACY_LABEL_LAN, chat_pb2.PRIVACY_LABEL_PUBLIC
UNSPECIFIED = chat_pb2.PRIVACY_LABEL_UNSPECIFIED


def at(node_id: str, layers: str = "0:6", **more: object) -> Engine:
    return engine(node_id, layers, **{"host_id": f"host-{node_id}", **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("label", "admitted"),
    [
        (LOCAL, {"here"}),
        (POOL, {"here", "pool", "unset"}),
        (LAN, {"here", "pool", "unset", "lan"}),
        (PUBLIC, {"here", "pool", "unset", "lan", "public"}),
        (UNSPECIFIED, {"here", "pool", "unset", "lan", "public"}),
        (99, {"here"}),
    ],
)
def test_labels_admit_machines(label: chat_pb2.PrivacyLabel, admitted: set[str]) -> None:
    engines = [
        at("here", host_id=HERE, reach=pb.REACH_PUBLIC),
        at("pool", reach=pb.REACH_POOL),
        at("unset"),
        at("lan", reach=pb.REACH_LAN),
        at("public", reach=pb.REACH_PUBLIC),
    ]
    demand = Demand(label, host_id=HERE)
    assert {e.node_id for e in engines if demand.admits(e)} == admitted
    for each in engines:
        allowed = demand.allows(Pipeline((each,), 1))
        assert allowed is (each.node_id in admitted)


def test_a_driver_that_does_not_say_where_it_is_has_nothing_local() -> None:
    nowhere = engine("a", host_id="")
    assert not Demand(LOCAL, host_id="").admits(nowhere)
    assert "does not say" in Demand(LOCAL).lack([nowhere])


def test_a_boomerang_begins_and_ends_with_the_driver() -> None:
    engines = [
        at("first", "0:2", host_id=HERE),
        at("middle", "1:6"),
        at("last", "5:6", host_id=HERE),
        at("all", layer_time_us=1),
    ]
    demand = Demand(is_boomerang=True, host_id=HERE)
    fleet = Fleet(engines, ends=demand.ends)
    found = pipelines_of(fleet, FlowOptions())
    assert found
    for pipeline in found:
        assert demand.allows(pipeline)
        assert [s.node_id for s in (pipeline.stages[0], pipeline.stages[-1])] == ["first", "last"]


@pytest.mark.parametrize(
    ("engines", "demand", "lack"),
    [
        pytest.param(
            [at("a", "0:3", host_id=HERE), at("b", "3:6")],
            Demand(LOCAL, host_id=HERE),
            "layers 3:6 are held only by workers beyond 'local'",
            id="layers",
        ),
        pytest.param(
            [at("a"), at("b", "3:6", host_id=HERE)],
            Demand(is_boomerang=True, host_id=HERE),
            "holds the first layer",
            id="first",
        ),
        pytest.param(
            [at("a"), at("b", "0:3", host_id=HERE)],
            Demand(is_boomerang=True, host_id=HERE),
            "holds the last layer",
            id="last",
        ),
    ],
)
def test_what_lacks_is_named(engines: list[Engine], demand: Demand, lack: str) -> None:
    assert lack in demand.lack(engines)


def test_the_proof_tells_of_every_stage_in_order() -> None:
    pipeline = Pipeline((at("a", "0:3"), at("b", "3:6", reach=pb.REACH_LAN)), 1)
    proof = Demand(LAN, host_id=HERE).proof(pipeline)
    assert proof is not None
    assert (proof.label, proof.is_boomerang) == (LAN, False)
    assert [(s.node_id, s.host_id, s.reach) for s in proof.stages] == [
        ("a", "host-a", pb.REACH_UNSPECIFIED),
        ("b", "host-b", pb.REACH_LAN),
    ]
    assert Demand(PUBLIC, host_id=HERE).proof(pipeline) is None


def test_standbys_of_an_end_are_local_too() -> None:
    demand = Demand(is_boomerang=True, host_id=HERE)
    held = [at("a"), at("b", host_id=HERE)]
    assert [e.node_id for e in demand.standbys(0, 3, held)] == ["b"]
    assert [e.node_id for e in demand.standbys(1, 3, held)] == ["a", "b"]
