"""Heartbeats, on a thread of their own, so that a busy agent is not taken for a dead one.

The thread has the worker's only connection to NATS; other news of the worker travels with it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping

from shoal.worker.v1 import pipeline_pb2
from shoal_common.bus import NatsBus
from shoal_common.errors import ShoalError
from shoal_worker_gpu.metrics import AgentMetrics

log = logging.getLogger(__name__)

_JOIN_TIMEOUT_S = 5.0
_OUTBOX_MAX = 256


class BeatThread:
    """Publishes `snapshot()` every `interval_s` and at once after `beat_now`.

    `snapshot` is called on this thread and must only read, as must `answers`: by subject, what is
    replied to whoever asks there. `listeners`, by subject too, are told on this thread what others
    publish.
    """

    def __init__(
        self,
        nats_url: str,
        token: str,
        node_id: str,
        interval_s: float,
        snapshot: Callable[[], pipeline_pb2.WorkerBeat],
        metrics: AgentMetrics,
        answers: Mapping[str, Callable[[], bytes]] | None = None,
        listeners: Mapping[str, Callable[[bytes], None]] | None = None,
    ) -> None:
        self._listeners = dict(listeners or {})
        self._answers = dict(answers or {})
        self._outbox: deque[tuple[str, bytes]] = deque(maxlen=_OUTBOX_MAX)
        self._nats_url = nats_url
        self._token = token
        self._subject = f"shoal.worker.{node_id}.beat"
        self._interval_s = interval_s
        self._snapshot = snapshot
        self._metrics = metrics
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._is_leaving = False
        self._thread = threading.Thread(target=self._main, name="beat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def beat_now(self) -> None:
        """Something changed: the router should not learn it a second later. From any thread."""
        if self._loop is not None and self._wake is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    def post(self, subject: str, payload: bytes) -> None:
        """Publish something soon, after what was posted before; too much pushes out the oldest.

        From any thread.
        """
        self._outbox.append((subject, payload))
        self.beat_now()

    def stop(self) -> None:
        """Send a last beat that says goodbye, then end the thread."""
        self._is_leaving = True
        self.beat_now()
        self._thread.join(_JOIN_TIMEOUT_S)

    def _main(self) -> None:
        asyncio.run(self._beat_forever())

    async def _beat_forever(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        bus = await self._connect()
        if bus is None:
            return
        await self._answer(bus)
        await self._listen(bus)
        sequence = 0
        while True:
            is_last = self._is_leaving
            self._wake.clear()
            sequence += 1
            beat = self._snapshot()
            beat.sequence = sequence
            beat.is_leaving = is_last
            try:
                await bus.publish(self._subject, beat.SerializeToString())
                self._metrics.beats.labels("sent").inc()
                while self._outbox:
                    await bus.publish(*self._outbox.popleft())
            except (ShoalError, OSError, TimeoutError) as err:
                self._metrics.beats.labels("failed").inc()
                log.warning("beat failed", extra={"error": type(err).__name__})
            if is_last:
                await bus.close()
                return
            await self._pause()

    async def _answer(self, bus: NatsBus) -> None:
        for subject, answer in self._answers.items():

            async def reply(_: bytes, answer: Callable[[], bytes] = answer) -> bytes:
                return answer()

            await bus.reply(subject, reply)

    async def _listen(self, bus: NatsBus) -> None:
        for subject, listener in self._listeners.items():

            async def hear(
                _: str, payload: bytes, listener: Callable[[bytes], None] = listener
            ) -> None:
                listener(payload)

            await bus.subscribe(subject, hear)

    async def _connect(self) -> NatsBus | None:
        """The bus, waited for as long as it takes; None when told to leave meanwhile."""
        while not self._is_leaving:
            try:
                return await NatsBus.connect(self._nats_url, token=self._token, name=self._subject)
            except Exception as err:
                # Whatever keeps NATS away, a worker without it only waits.
                self._metrics.beats.labels("failed").inc()
                log.warning("bus unreachable", extra={"error": type(err).__name__})
                await self._pause()
        return None

    async def _pause(self) -> None:
        assert self._wake is not None
        try:
            async with asyncio.timeout(self._interval_s):
                await self._wake.wait()
        except TimeoutError:
            pass
