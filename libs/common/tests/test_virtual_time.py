"""Virtual time and simulated weather: what a simulated fleet relies on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from shoal.worker.v1 import stage_pb2, stage_pb2_grpc
from shoal_common.errors import DeadlineExceeded, ShoalError, Unavailable
from shoal_common.rpc import translated
from shoal_common.testing import MemoryBus, MemoryHub, MemoryRpc
from shoal_common.testing.bus import BUS_HOST, Mischief
from shoal_common.testing.virtual_time import (
    LoopClock,
    Stalled,
    VirtualExecutor,
    VirtualLoop,
    in_process,
    run_virtual,
    tasks_of,
)
from shoal_common.testing.weather import KEEPALIVE_S, Lane, Weather


def loop_now() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


run = run_virtual
# Virtual seconds, none of which is waited for.
sleep = LoopClock().sleep


def test_an_hour_passes_for_sleeps_timeouts_and_clocks_alike() -> None:
    async def main() -> None:
        clock = LoopClock()
        begun = clock.monotonic()
        await sleep(3600)
        assert clock.monotonic() - begun == pytest.approx(3600)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1800):
                await asyncio.Event().wait()
        await clock.sleep(60)
        assert clock.time() - 1_700_000_000 - begun == pytest.approx(5460)

    run(main)


def test_timers_run_in_the_order_of_their_moments() -> None:
    async def main() -> None:
        seen: list[int] = []
        for delay in (3, 1, 2):
            asyncio.get_running_loop().call_later(delay, seen.append, delay)
        await sleep(4)
        assert seen == [1, 2, 3]

    run(main)


def test_a_frozen_process_runs_nothing_until_it_thaws() -> None:
    async def main() -> None:
        seen: list[float] = []

        async def tick() -> None:
            while True:
                await sleep(1)
                seen.append(loop_now().time())

        with in_process("a/tick"):
            loop_now().create_task(tick())
        await sleep(2.5)
        loop_now().freeze("a/tick")
        await sleep(10)
        assert len(seen) == 2
        assert loop_now().is_frozen("a/tick")
        loop_now().thaw("a/tick")
        await sleep(1.1)
        assert [round(at - 1000, 3) for at in seen] == [1, 2, 12.5, 13.5]

    run(main)


def test_tasks_belong_to_the_process_that_made_them() -> None:
    async def main() -> None:
        async def parent() -> None:
            await asyncio.gather(sleep(9), sleep(9))

        with in_process("a/x"):
            loop_now().create_task(parent())
        await sleep(1)
        assert [task.process for task in tasks_of(loop_now(), "a/x")] == ["a/x"] * 3
        await sleep(9)
        assert not tasks_of(loop_now(), "a/x")

    run(main)


def test_when_nothing_will_ever_come_it_says_so() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stalled, match="everybody waits"):
        run_virtual(forever)


def test_who_never_sleeps_is_found() -> None:
    async def spin() -> None:
        while True:
            await sleep(0)

    with pytest.raises(Stalled, match="never sleeps"):
        run_virtual(spin)


@pytest.mark.parametrize("seed", range(4))
def test_a_virtual_thread_takes_its_time_and_touches_once(seed: int) -> None:
    async def main() -> None:
        touched: list[int] = []
        executor = VirtualExecutor(lambda item: 0.5 * item, random.Random(seed))
        loop = loop_now()
        begun = loop.time()
        await loop.run_in_executor(executor, touched.append, 3)
        assert touched == [3]
        assert loop.time() - begun == pytest.approx(1.5)
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(executor, lambda item: item // 0, 1)
        # Other threads are none: their work is done at once.
        assert await loop.run_in_executor(ThreadPoolExecutor(1), sum, [1, 2]) == 3

    run(main)


def test_what_is_left_running_is_ended() -> None:
    ended: list[str] = []

    async def main() -> None:
        async def lasting() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("lasting")

        with in_process("a/frozen"):
            task = loop_now().create_task(lasting())
        await sleep(1)
        loop_now().freeze("a/frozen")
        assert not task.done()

    run(main)
    assert ended == ["lasting"]


class Stage(stage_pb2_grpc.StageServiceServicer):
    """Answers, and streams a number every second."""

    def __init__(self) -> None:
        self.ended_at_s: float | None = None

    async def GetEngine(self, request: Any, context: Any) -> Any:
        return stage_pb2.GetEngineResponse()

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            for position in range(1000):
                yield stage_pb2.GenerateResponse(
                    tokens=stage_pb2.TokensDelta(first_position=position)
                )
                await sleep(1)
        finally:
            self.ended_at_s = loop_now().time()


class Network:
    """A server on host b, a client on host a, and the weather between."""

    def __init__(self) -> None:
        self.weather = Weather(random.Random(1), 0.01)
        self.rpc = MemoryRpc(LoopClock(), self.weather)
        self.stage = Stage()
        self.seen: list[tuple[float, int]] = []

    async def serve(self, process: str = "b/server") -> str:
        with in_process(process):
            server = self.rpc.server("b:0")
        server.add(stage_pb2_grpc.add_StageServiceServicer_to_server, self.stage)
        return await server.start()

    def stub(self, address: str) -> Any:
        return stage_pb2_grpc.StageServiceStub(self.rpc.channel(address).channel)

    async def read(self, address: str) -> None:
        with translated():
            async for response in self.stub(address).Generate(stage_pb2.GenerateRequest()):
                self.seen.append((loop_now().time(), response.tokens.first_position))

    def reading(self, address: str) -> asyncio.Task[None]:
        with in_process("a/client"):
            return loop_now().create_task(self.read(address))


def simulated(story: Callable[[Network], Coroutine[Any, Any, None]]) -> None:
    run(lambda: story(Network()))


def test_a_killed_server_breaks_its_streams_and_says_nothing() -> None:
    async def story(net: Network) -> None:
        reading = net.reading(await net.serve())
        await sleep(3.5)
        loop_now().freeze("b/server")
        net.rpc.kill("b/server")
        with pytest.raises(Unavailable):
            await reading
        assert loop_now().time() < 1003.6
        assert net.stage.ended_at_s is None
        with pytest.raises(Unavailable):
            await net.read("b:40000")

    simulated(story)


def test_a_killed_client_ends_its_calls_at_the_server() -> None:
    async def story(net: Network) -> None:
        net.reading(await net.serve())
        await sleep(3.5)
        loop_now().freeze("a/client")
        net.rpc.kill("a/client")
        await sleep(0.1)
        assert net.stage.ended_at_s is not None
        # The dead know nothing of it: their end stays as it was.
        assert not [call for call in net.rpc.open_calls if call.served.done() is False]

    simulated(story)


def test_a_short_cut_delays_and_loses_nothing() -> None:
    async def story(net: Network) -> None:
        reading = net.reading(await net.serve())
        await sleep(2.5)
        net.weather.block("b", "a")
        await sleep(10)
        assert len(net.seen) == 3
        net.weather.unblock("b", "a")
        await sleep(1)
        assert [number for _, number in net.seen] == list(range(len(net.seen)))
        assert len(net.seen) > 12
        reading.cancel()

    simulated(story)


def test_a_long_cut_breaks_the_connection_at_both_ends() -> None:
    async def story(net: Network) -> None:
        reading = net.reading(await net.serve())
        await sleep(2.5)
        net.weather.block("b", "a")
        with pytest.raises(Unavailable, match="keepalive"):
            await reading
        assert loop_now().time() == pytest.approx(1002.5 + KEEPALIVE_S)
        await sleep(0.1)
        assert net.stage.ended_at_s is not None
        assert not net.rpc.open_calls

    simulated(story)


def test_nobody_connects_through_a_cut_and_deadlines_still_run() -> None:
    async def story(net: Network) -> None:
        address = await net.serve()
        net.weather.block("a", "b")
        with in_process("a/client"):
            stub = net.stub(address)
            for error, timeout_s in ((DeadlineExceeded, 5), (Unavailable, 100)):
                with pytest.raises(error), translated():
                    await stub.GetEngine(stage_pb2.GetEngineRequest(), timeout=timeout_s)
            net.weather.clear()
            await stub.GetEngine(stage_pb2.GetEngineRequest(), timeout=1)

    simulated(story)


def test_one_lane_keeps_its_order_in_any_weather() -> None:
    async def main() -> None:
        weather = Weather(random.Random(2), 0.1)
        seen: list[int] = []
        lane = Lane()
        for number in range(200):
            weather.carry("a/x", "b/y", lambda number=number: seen.append(number), lane)
            if number == 50:
                weather.block("a", "b")
            if number == 150:
                weather.unblock("a", "b")
        await sleep(10)
        assert seen == list(range(200))

    run(main)


def test_a_bus_under_weather_delivers_late_twice_and_not_through_cuts() -> None:
    async def main() -> None:
        weather = Weather(random.Random(3), 0.01)
        mischief = Mischief(random.Random(4), late_share=0.5, late_s_max=2.0, twice_share=0.5)
        hub = MemoryHub(weather, mischief)
        seen: list[bytes] = []

        async def hear(subject: str, payload: bytes) -> None:
            seen.append(payload)

        with in_process("b/listener"):
            await MemoryBus(hub).subscribe("news", hear)
        with in_process("a/teller"):
            bus = MemoryBus(hub)
        for number in range(50):
            await bus.publish("news", b"%d" % number)
        await sleep(5)
        assert {*seen} == {b"%d" % number for number in range(50)}
        assert len(seen) > 60
        assert seen != sorted(seen, key=int)
        count = len(seen)
        weather.block("a", BUS_HOST)
        await bus.publish("news", b"lost")
        await sleep(KEEPALIVE_S + 1)
        weather.clear()
        await sleep(5)
        assert len(seen) == count

    run(main)


def test_one_seed_gives_one_history() -> None:
    def history() -> tuple[list[tuple[float, int]], int]:
        net: list[Network] = []

        async def main() -> None:
            net.append(Network())
            reading = net[0].reading(await net[0].serve())
            await sleep(30)
            reading.cancel()
            net[0].seen.append((loop_now().turn_count, -1))

        run(main)
        return net[0].seen, len(net[0].seen)

    assert history() == history()


def test_a_hung_server_is_given_up() -> None:
    async def story(net: Network) -> None:
        reading = net.reading(await net.serve())
        await sleep(2.5)
        loop_now().freeze("b/server")
        loop_now().call_later(KEEPALIVE_S, net.rpc.give_up, "b/server")
        with pytest.raises(ShoalError):
            await reading
        loop_now().thaw("b/server")
        await sleep(0.1)
        assert net.stage.ended_at_s is not None

    simulated(story)
