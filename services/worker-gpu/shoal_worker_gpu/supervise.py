"""One engine child under supervision: started, watched, started again with back-off, stopped.

Owns the process and what is known of it. Does not know NATS or the other children.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from shoal.worker.v1 import pipeline_pb2, stage_pb2, stage_pb2_grpc
from shoal_common.clock import Clock
from shoal_common.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    Overloaded,
    ShoalError,
    Unavailable,
    UnknownModel,
)
from shoal_common.rpc import RpcChannel, translated
from shoal_worker_gpu.kv_journal import KvMirror
from shoal_worker_gpu.metrics import AgentMetrics
from shoal_worker_gpu.order import Order
from shoal_worker_gpu.progress import HANGS, STEP_HANGS
from shoal_worker_gpu.settings import engine_environment

log = logging.getLogger(__name__)

_POLL_INTERVAL_S = 0.5
_POLL_TIMEOUT_S = 2.0
_START_POLL_S = 0.05
_SILENT_POLLS_MAX = 15
# How often an engine may say that it hangs: it may go on, and then nothing has to be loaded.
_HUNG_POLLS_MAX = 20
_BACKOFF_FIRST_S = 0.5
_KILL_AFTER_S = 5.0
# Reasons that may be gone the next time; with any other, an engine is refused for what it is.
_PASSING = frozenset(
    error.reason
    for error in (Cancelled, DeadlineExceeded, Internal, Overloaded, Unavailable, UnknownModel)
) | {HANGS}


async def _no_relief(reason: str) -> bool:
    return False


class SupervisedEngine:
    """Keeps one engine child alive until stopped.

    `status` is always current enough to be beaten: FAILED the moment the process is gone.
    program: what is run, with the order's file as its last argument. kv: hears which prefixes the
    child holds. memory_left: asked, before each start, for the bytes the child may take; None: what
    is free. relieve: asked with the reason of a refusal; True when another try may do better.
    """

    def __init__(
        self,
        order: Order,
        clock: Clock,
        metrics: AgentMetrics,
        on_change: Callable[[], None],
        program: Sequence[str] = (sys.executable, "-m", "shoal_worker_gpu.engine_child"),
        kv: KvMirror | None = None,
        relieve: Callable[[str], Awaitable[bool]] = _no_relief,
        memory_left: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.order = order
        self.pid = 0
        self.links: list[pipeline_pb2.LinkTime] = []
        self._clock = clock
        self._metrics = metrics
        self._on_change = on_change
        self._program = program
        self._kv = kv
        self._process: asyncio.subprocess.Process | None = None
        self._relieve = relieve
        self._memory_left = memory_left
        self._stopping = asyncio.Event()
        self._asked_again = asyncio.Event()
        self._last_words = ""
        self._hung_polls = 0
        self.last_used_s = clock.monotonic()
        self.refused_at_s: float | None = None
        """When it was first refused for what it is, since it was last ready or asked for."""
        self.status = self._empty(pipeline_pb2.ENGINE_STATE_LOADING)

    async def run(self) -> None:
        """Start the child again whenever it dies, until `stop`."""
        backoff_s = _BACKOFF_FIRST_S
        while not self._stopping.is_set():
            started = self._clock.monotonic()
            await self._live_once()
            if self._stopping.is_set():
                return
            backoff_max_s = self.order.settings.restart_backoff_max_s
            if self._clock.monotonic() - started > 2 * backoff_max_s:
                backoff_s = _BACKOFF_FIRST_S
            reason = _reason(self._last_words)
            if self._last_words and reason not in _PASSING:
                if await self._relieve(reason):
                    continue
                # Nothing changes by itself within seconds, and every try costs computing time.
                backoff_s = backoff_max_s
            self._metrics.restarts.inc()
            self._warn("engine died", restart_in_s=backoff_s, detail=self.status.detail)
            await self._pause(backoff_s)
            backoff_s = min(2 * backoff_s, backoff_max_s)

    def retry(self) -> None:
        """Somebody asks for an engine that failed: do not wait for the end of the pause."""
        has_given_up = self._has_ended or bool(self._last_words)
        if self.status.state == pipeline_pb2.ENGINE_STATE_FAILED and has_given_up:
            self.status = self._empty(pipeline_pb2.ENGINE_STATE_LOADING)
            self.refused_at_s = None
            self._asked_again.set()

    @property
    def is_idle(self) -> bool:
        """Loaded, with nothing to do as far as is known."""
        status = self.status
        is_busy = status.running_count or status.waiting_count
        return status.state == pipeline_pb2.ENGINE_STATE_READY and not is_busy

    async def stop(self, drain_s: float) -> None:
        """SIGTERM, wait for the drain, SIGKILL. Idempotent."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(drain_s + _KILL_AFTER_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _pause(self, delay_s: float) -> None:
        """Let `delay_s` pass, or less when told to stop or asked again."""
        waits: list[asyncio.Task[object]] = [
            asyncio.create_task(self._clock.sleep(delay_s)),
            asyncio.create_task(self._stopping.wait()),
            asyncio.create_task(self._asked_again.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _live_once(self) -> None:
        """One life of the child, from its start to its end."""
        ready_file = self.order.ready_file
        ready_file.unlink(missing_ok=True)
        self._asked_again.clear()
        self._last_words = ""
        self._hung_polls = 0
        process = await self._spawn()
        self._process, self.pid = process, process.pid
        if self._stopping.is_set():
            # `stop` came while there was no process yet to be told.
            process.kill()
        watcher = asyncio.create_task(self._watch(ready_file))
        try:
            await process.wait()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
            if self._kv is not None:
                self._kv.forget(self.status.incarnation)
            self._note_end(process.returncode)

    def _note_end(self, code: int | None) -> None:
        """What the engine itself said last counts more than how its process ended."""
        if self._asked_again.is_set():
            self.status = self._empty(pipeline_pb2.ENGINE_STATE_LOADING)
        else:
            self.status = self._empty(pipeline_pb2.ENGINE_STATE_FAILED)
            self.status.detail = self._last_words or f"the engine process ended with code {code}"
        self._on_change()

    async def _spawn(self) -> asyncio.subprocess.Process:
        order_file = self.order.ready_file.with_suffix(".order")
        order_file.parent.mkdir(parents=True, exist_ok=True)
        order_file.unlink(missing_ok=True)
        handle = os.open(order_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(replace(self.order, memory_max_bytes=self._memory_left()).dump())
        return await asyncio.create_subprocess_exec(
            *self._program, str(order_file), env=engine_environment()
        )

    async def _watch(self, ready_file: Path) -> None:
        """Keep `status` current; kill a child that has stopped answering."""
        while not ready_file.exists():
            await self._clock.sleep(_START_POLL_S)
        channel = RpcChannel(json.loads(ready_file.read_text())["grpc"], token=self.order.token)
        stub = stage_pb2_grpc.StageServiceStub(channel.channel)
        silent_polls = kv_seen = 0
        try:
            while True:
                request = stage_pb2.GetEngineRequest(kv_sequence_seen=kv_seen)
                try:
                    with translated():
                        response = await stub.GetEngine(request, timeout=_POLL_TIMEOUT_S)
                except ShoalError as err:
                    silent_polls += 1
                    self._heard_nothing(silent_polls, err)
                else:
                    silent_polls = 0
                    self.links = list(response.links)
                    self._heard(response.engine)
                    kv_seen = self._heard_kv(response)
                await self._clock.sleep(_POLL_INTERVAL_S)
        finally:
            await channel.close()

    def _heard(self, status: pipeline_pb2.EngineStatus) -> None:
        changed = status.state != self.status.state
        now_s = self._clock.monotonic()
        if changed and status.state == pipeline_pb2.ENGINE_STATE_READY:
            self.last_used_s, self.refused_at_s = now_s, None
        self.last_used_s = max(self.last_used_s, now_s - status.idle_ms / 1000)
        self.status = status
        if changed:
            self._on_change()
        self._hung_polls = self._hung_polls + 1 if status.detail == STEP_HANGS else 0
        if 0 < self._hung_polls < _HUNG_POLLS_MAX:
            return
        if status.state == pipeline_pb2.ENGINE_STATE_FAILED and self._process is not None:
            self._last_words = status.detail or "the engine gave up"
            if self.refused_at_s is None and _reason(self._last_words) not in _PASSING:
                self.refused_at_s = now_s
            self._process.kill()

    def _heard_kv(self, response: stage_pb2.GetEngineResponse) -> int:
        """Pass on what is new in the child's KV; the sequence seen by now."""
        if self._kv is not None:
            for changes in response.kv_ranges:
                self._kv.hear(changes)
        return response.kv_sequence

    def _heard_nothing(self, silent_polls: int, error: ShoalError) -> None:
        if self._stopping.is_set() or self._last_words:
            return
        # One that is still starting may be deaf for seconds: importing holds up its event loop.
        if silent_polls == 1 and not self.is_starting:
            self._warn("engine silent", reason=error.reason)
            self.status = self._empty(pipeline_pb2.ENGINE_STATE_FAILED)
            self.status.detail = "the engine process does not answer"
            self._on_change()
        if silent_polls >= _SILENT_POLLS_MAX and self._process is not None:
            self._process.kill()

    @property
    def is_starting(self) -> bool:
        """On its way to be loaded."""
        return self.status.state in (
            pipeline_pb2.ENGINE_STATE_FETCHING,
            pipeline_pb2.ENGINE_STATE_LOADING,
        )

    @property
    def memory_bytes(self) -> int:
        """What the process has of its own and would give back; 0 without one. From any thread."""
        if self._has_ended:
            return 0
        try:
            memory = psutil.Process(self.pid).memory_info()
        except psutil.Error:
            return 0
        return int(memory.rss - getattr(memory, "shared", 0))

    def _warn(self, event: str, **more: object) -> None:
        assignment = self.order.assignment
        layers = f"{assignment.layer_start}:{assignment.layer_stop or ''}"
        log.warning(event, extra={"model": assignment.model, "layers": layers, **more})

    @property
    def _has_ended(self) -> bool:
        return self._process is None or self._process.returncode is not None

    def _empty(self, state: pipeline_pb2.EngineState) -> pipeline_pb2.EngineStatus:
        assignment = self.order.assignment
        return pipeline_pb2.EngineStatus(
            model=assignment.model,
            layer_start=assignment.layer_start,
            layer_stop=assignment.layer_stop,
            state=state,
        )


def _reason(detail: str) -> str:
    """REASON of `REASON: text`, as engines report; without one it is a fault of ours."""
    reason, colon, _ = detail.partition(":")
    return reason if colon and reason.isupper() else Internal.reason
