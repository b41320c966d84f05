"""Carries a scenario's faults out, each from its moment to its end."""

from __future__ import annotations

from collections.abc import Callable

from shoal_common.testing.bus import BUS_HOST
from tests.sim.fleet import Fleet, Process
from tests.sim.scenario import Fault, What

_FLAP_S = 0.7
_EPOCH_S = 1000.0


class Faults:
    """What goes wrong in a fleet. tell: hears of every beginning and end."""

    def __init__(self, fleet: Fleet, tell: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._tell = tell
        # Several faults may hold one host or way: it heals with the last of them.
        self._holds: dict[object, int] = {}

    def start(self) -> None:
        for fault in self._fleet.scenario.faults:
            self._fleet.loop.call_at(_EPOCH_S + fault.at_s, self._begin, fault)

    def _begin(self, fault: Fault) -> None:
        self._tell(f"fault: {fault}")
        begin: dict[What, Callable[[Fault], Callable[[], None]]] = {
            What.KILL_ENGINE: self._kill_engine,
            What.KILL_HOST: self._kill_host,
            What.VANISH: self._vanish,
            What.HANG_ENGINE: self._hang_engine,
            What.HANG_HOST: self._hang_host,
            What.STALL: self._stall,
            What.SLOW_STEPS: self._slow_steps,
            What.SLOW_LINK: self._slow_link,
            What.CUT: lambda f: self._cut([(f.target, f.other), (f.other, f.target)]),
            What.CUT_ONE_WAY: lambda f: self._cut([(f.target, f.other)]),
            What.BUS_CUT: lambda f: self._cut([(f.target, BUS_HOST), (BUS_HOST, f.target)]),
            What.FLAP: self._flap,
            What.RESTART_ROUTER: self._restart_router,
            What.HANG_ROUTER: self._hang_router,
            What.RESTART_GATEWAY: self._restart_gateway,
        }
        heal = begin[fault.what](fault)

        def end() -> None:
            self._tell(f"healed: {fault}")
            heal()

        self._fleet.loop.call_at(_EPOCH_S + fault.ends_at_s, end)

    def _kill_engine(self, fault: Fault) -> Callable[[], None]:
        agent = self._fleet.agents[fault.target]
        if agent.engine is None:
            return _nothing
        agent.engine.kill()
        agent.engine_died()
        return lambda: self._start_engine(fault.target)

    def _start_engine(self, name: str) -> None:
        agent = self._fleet.agents[name]
        if agent.engine is None and not agent.is_dead:
            self._fleet.start_engine(name)

    def _kill_host(self, fault: Fault) -> Callable[[], None]:
        agent = self._fleet.agents[fault.target]
        if agent.is_dead:
            return _nothing
        if agent.engine is not None:
            agent.engine.kill()
        agent.kill()
        return lambda: self._fleet.start_worker(fault.target)

    def _vanish(self, fault: Fault) -> Callable[[], None]:
        """The machine loses its power: nobody is told. It comes back as another process."""
        agent = self._fleet.agents[fault.target]
        if agent.is_dead:
            return _nothing
        agent.is_dead = True
        processes = [agent, *([agent.engine] if agent.engine is not None else [])]
        for process in processes:
            process.hang()
        heal_ways = self._cut(self._ways_of(fault.target))

        def come_back() -> None:
            for process in processes:
                process.kill()
            heal_ways()
            self._fleet.start_worker(fault.target)

        return come_back

    def _hang_engine(self, fault: Fault) -> Callable[[], None]:
        engine = self._fleet.engine_of(fault.target)
        return self._hang([engine] if engine is not None else [])

    def _hang_host(self, fault: Fault) -> Callable[[], None]:
        engine = self._fleet.engine_of(fault.target)
        agent = self._fleet.agents[fault.target]
        return self._hang([agent, *([engine] if engine is not None else [])])

    def _hang(self, processes: list[Process]) -> Callable[[], None]:
        for process in processes:
            self._holds[process] = self._holds.get(process, 0) + 1
            process.hang()

        def resume() -> None:
            for process in processes:
                self._holds[process] -= 1
                if not self._holds[process]:
                    process.resume()

        return resume

    def _stall(self, fault: Fault) -> Callable[[], None]:
        """The next step does not end before the fault does; the process itself goes on."""
        engine = self._fleet.engine_of(fault.target)
        if engine is not None:
            engine.stalled_until_s = _EPOCH_S + fault.ends_at_s
        return _nothing

    def _slow_steps(self, fault: Fault) -> Callable[[], None]:
        engine = self._fleet.engine_of(fault.target)
        if engine is None:
            return _nothing
        engine.step_factor = 30.0

        def heal() -> None:
            engine.step_factor = 1.0

        return heal

    def _slow_link(self, fault: Fault) -> Callable[[], None]:
        weather = self._fleet.weather
        latency_s = self._fleet.scenario.random.choice((0.05, 0.2, 0.6))
        ways = [(fault.target, fault.other), (fault.other, fault.target)]
        for way in ways:
            weather.slow(*way, latency_s)

        def heal() -> None:
            for way in ways:
                weather.slow(*way, 0.0)

        return heal

    def _cut(self, ways: list[tuple[str, str]]) -> Callable[[], None]:
        for way in ways:
            self._holds[way] = self._holds.get(way, 0) + 1
            self._fleet.weather.block(*way)

        def heal() -> None:
            for way in ways:
                self._holds[way] -= 1
                if not self._holds[way]:
                    self._fleet.weather.unblock(*way)

        return heal

    def _flap(self, fault: Fault) -> Callable[[], None]:
        """Down and up again and again."""
        ways = [(fault.target, fault.other), (fault.other, fault.target)]
        state: dict[str, Callable[[], None] | None] = {"heal": None}
        ends_at_s = _EPOCH_S + fault.ends_at_s
        loop = self._fleet.loop

        def turn() -> None:
            heal, state["heal"] = state["heal"], None
            if heal is not None:
                heal()
            elif loop.time() < ends_at_s:
                state["heal"] = self._cut(ways)
            if loop.time() < ends_at_s:
                pause_s = _FLAP_S * 2 * self._fleet.scenario.random.random()
                loop.call_later(pause_s, turn)

        def end() -> None:
            heal, state["heal"] = state["heal"], None
            if heal is not None:
                heal()

        turn()
        return end

    def _restart_router(self, fault: Fault) -> Callable[[], None]:
        router = self._fleet.router
        if router is None or router.is_dead:
            return _nothing
        router.kill()
        return self._fleet.start_router

    def _hang_router(self, fault: Fault) -> Callable[[], None]:
        router = self._fleet.router
        return self._hang([router] if router is not None and not router.is_dead else [])

    def _restart_gateway(self, fault: Fault) -> Callable[[], None]:
        gateway = self._fleet.gateways[fault.target]
        if gateway.is_dead:
            return _nothing
        gateway.kill()
        return lambda: self._fleet.start_gateway(fault.target)

    def _ways_of(self, host: str) -> list[tuple[str, str]]:
        hosts = {worker.name for worker in self._fleet.scenario.workers}
        hosts |= {"router", BUS_HOST, *self._fleet.gateways}
        others = sorted(hosts - {host})
        return [(host, other) for other in others] + [(other, host) for other in others]


def _nothing() -> None:
    """What was to be hurt is gone already."""
