"""Orders reach workers, promise memory while they are open, and fail quietly."""

from __future__ import annotations

import asyncio

import pytest

from shoal.worker.v1 import worker_pb2, worker_pb2_grpc
from shoal_common.errors import Unavailable
from shoal_common.rpc import RpcServer
from shoal_common.testing import FakeClock
from shoal_common.testing.clock import settle
from shoal_router.orders import LoadOrder, Orders
from shoal_router.peers import GrpcAgents
from shoal_router.placement import PlacedRange
from shoal_router.testing import FakeAgents, status


def order(layers: str = "0:3", promised_bytes: int = 5) -> LoadOrder:
    start, stop = map(int, layers.split(":"))
    return LoadOrder("m", PlacedRange("a", start, stop), 6, promised_bytes)


@pytest.mark.parametrize(("layers", "sent"), [("0:3", (0, 3)), ("3:6", (3, 6)), ("0:6", (0, 0))])
async def test_a_whole_model_is_ordered_without_a_range(layers: str, sent: tuple[int, int]) -> None:
    agents, clock = FakeAgents(), FakeClock()
    orders = Orders(agents, clock)
    given = orders.load("grpc:a:2", order(layers))
    await settle()
    (request,) = agents.requests
    assert (request.layer_start, request.layer_stop) == sent
    assert given.accepted_at_s == clock.monotonic()
    await orders.stop()


async def test_memory_is_promised_until_the_order_is_closed() -> None:
    orders = Orders(FakeAgents(), FakeClock())
    first, second = orders.load("grpc:a:2", order()), orders.adopt(order("3:6", 7))
    assert orders.promised_bytes("a") == 12
    assert orders.of("m") == (first, second)
    orders.close(first)
    orders.close(first)
    assert orders.promised_bytes("a") == 7
    orders.keep(first)
    orders.keep(first)
    assert orders.promised_bytes("a") == 12
    await orders.stop()


@pytest.mark.parametrize(
    ("ordered", "said", "is_about"),
    [
        ("0:6", "0:0", True),
        ("0:6", "0:6", True),
        ("0:6", "0:3", False),
        ("0:3", "0:3", True),
        ("3:6", "3:0", True),
        ("3:6", "0:6", False),
    ],
)
def test_which_engine_an_order_is_about(ordered: str, said: str, is_about: bool) -> None:
    assert order(ordered).is_about(status("a", said, model="m")) == is_about
    assert not order(ordered).is_about(status("a", said, model="other"))


async def test_a_refusal_is_kept_with_the_order() -> None:
    agents = FakeAgents()
    agents.errors["grpc:a:2"] = Unavailable("gone")
    orders = Orders(agents, FakeClock())
    given = orders.load("grpc:a:2", order())
    orders.unload("grpc:a:2", "m", PlacedRange("a", 0, 3), 6, drain_s=1)
    await settle()
    assert isinstance(given.error, Unavailable)
    assert given.accepted_at_s is None
    assert len(agents.unloads) == 1
    await orders.stop()


async def test_calls_in_flight_end_with_the_router() -> None:
    agents = FakeAgents()
    agents.gate.clear()
    orders = Orders(agents, FakeClock())
    given = orders.load("grpc:a:2", order())
    await settle()
    await orders.stop()
    assert (given.accepted_at_s, given.error) == (None, None)


class RealAgent(worker_pb2_grpc.WorkerServiceServicer):
    def __init__(self) -> None:
        self.unloads: asyncio.Queue[worker_pb2.UnloadRequest] = asyncio.Queue()

    async def Unload(
        self, request: worker_pb2.UnloadRequest, context: object
    ) -> worker_pb2.UnloadResponse:
        self.unloads.put_nowait(request)
        return worker_pb2.UnloadResponse()


async def test_a_whole_model_is_unloaded_over_grpc_under_both_of_its_names() -> None:
    server, agent = RpcServer("127.0.0.1:0", drain_timeout_s=0), RealAgent()
    server.add(worker_pb2_grpc.add_WorkerServiceServicer_to_server, agent)
    address = await server.start()
    orders = Orders(GrpcAgents("", timeout_s=5), FakeClock())
    try:
        orders.unload(f"grpc:{address}", "m", PlacedRange("a", 0, 6), 6, drain_s=1.5)
        async with asyncio.timeout(5):
            asked = [await agent.unloads.get() for _ in range(2)]
        assert [(r.layer_start, r.layer_stop) for r in asked] == [(0, 0), (0, 6)]
        assert {(r.model, r.drain_ms) for r in asked} == {("m", 1500)}
        assert len({r.request_id for r in asked}) == 2
    finally:
        await orders.stop()
        await server.stop()
