"""Renders chat templates in warm worker processes, with limits on size and time."""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from typing import Any

from shoal_common.errors import Unavailable
from shoal_common.tokens.errors import TemplateFailed

log = logging.getLogger(__name__)

LENGTH = struct.Struct("<I")
SOURCE_SIZE_BYTES_MAX = 256 * 1024
OUTPUT_SIZE_CHARS_MAX = 16 * 1024 * 1024
START_TIMEOUT_S = 20.0


class TemplateRenderer:
    """A few processes that render one template each at a time.

    A worker that is late, or whose request was given up, is killed; the next request starts
    another one. `start` warms one up; `close` ends all.
    """

    def __init__(self, worker_count: int = 2, time_limit_s: float = 2.0) -> None:
        assert worker_count > 0
        self._time_limit_s = time_limit_s
        # Last in, first out: a lone request finds the warm worker with the compiled template.
        self._idle: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        self._workers = tuple(_Worker(time_limit_s) for _ in range(worker_count))
        for worker in self._workers:
            self._idle.put_nowait(worker)

    async def start(self) -> None:
        worker = await self._idle.get()
        try:
            await worker.ensure_started()
        finally:
            self._idle.put_nowait(worker)

    async def close(self) -> None:
        for worker in self._workers:
            await worker.stop()

    async def render(self, source: str, variables: dict[str, Any]) -> str:
        """Returns the prompt. Raises TemplateFailed for every fault of the template."""
        source_size_bytes = len(source.encode())
        if source_size_bytes > SOURCE_SIZE_BYTES_MAX:
            raise TemplateFailed(
                f"it has {source_size_bytes} bytes, the limit is {SOURCE_SIZE_BYTES_MAX}"
            )
        request = {
            "source": source,
            "variables": variables,
            "output_size_max": OUTPUT_SIZE_CHARS_MAX,
        }
        answer = await self._ask(json.dumps(request).encode())
        if "error" in answer:
            raise TemplateFailed(answer["error"])
        return str(answer["text"])

    async def _ask(self, request: bytes) -> dict[str, str]:
        worker = await self._idle.get()
        is_clean = False
        try:
            await worker.ensure_started()
            async with asyncio.timeout(self._time_limit_s):
                answer = await worker.ask(request)
            is_clean = True
            return answer
        except TimeoutError as err:
            raise TemplateFailed(f"it ran longer than {self._time_limit_s:g} s") from err
        except (asyncio.IncompleteReadError, ConnectionError) as err:
            raise TemplateFailed("it ended the process that renders it") from err
        finally:
            if not is_clean:
                worker.kill()
            self._idle.put_nowait(worker)


class _Worker:
    """One process, or none yet. Used by one task at a time."""

    def __init__(self, time_limit_s: float) -> None:
        self._time_limit_s = time_limit_s
        self._process: Process | None = None
        self._is_killed = False

    async def ensure_started(self) -> None:
        is_running = self._process is not None and self._process.returncode is None
        if is_running and not self._is_killed:
            return
        await self.stop()
        module = "shoal_common.tokens.template_worker"
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, str(self._time_limit_s)), stdin=PIPE, stdout=PIPE
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._read()
        except (TimeoutError, asyncio.IncompleteReadError) as err:
            raise Unavailable("the process that renders chat templates does not start") from err

    async def ask(self, request: bytes) -> dict[str, str]:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(LENGTH.pack(len(request)) + request)
        await self._process.stdin.drain()
        return await self._read()

    def kill(self) -> None:
        """Ends the process, whose return code arrives later."""
        self._is_killed = True
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            log.warning("template worker killed")

    async def stop(self) -> None:
        process, self._process = self._process, None
        self._is_killed = False
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        # Reads what is left and closes the pipes.
        with suppress(ConnectionError):
            await process.communicate()

    async def _read(self) -> dict[str, str]:
        assert self._process is not None
        assert self._process.stdout is not None
        header = await self._process.stdout.readexactly(LENGTH.size)
        body = await self._process.stdout.readexactly(LENGTH.unpack(header)[0])
        answer: dict[str, str] = json.loads(body)
        return answer
