"""The process that judges strangers' grammars, and the deadline that ends it.

Owns one `shoal_engine.grammar_check` process, started at the first question. Used by one task at a
time.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress

from shoal_common.errors import Unavailable

log = logging.getLogger(__name__)

_START_TIMEOUT_S = 20.0


class GrammarChecker:
    """Asks a warm process; a late or dead one is replaced at the next question."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._process: Process | None = None

    async def problem_of(self, source: str) -> str:
        """Why a grammar cannot be used; empty when it can. Raises Unavailable."""
        process = await self._started()
        is_clean = False
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await _ask(process, source)
            is_clean = bool(answer)
        except TimeoutError:
            return (
                f"it takes longer than {self._timeout_s:g} s to understand; simplify its patterns"
            )
        except ConnectionError:
            answer = b""
        finally:
            if not is_clean:
                log.warning("grammar checker ended")
                await self.stop()
        if not answer:
            return "it needs more memory than it may have; simplify it"
        return str(json.loads(answer))

    async def stop(self) -> None:
        """End the process, if there is one. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        # Reads what is left and closes the pipes.
        with suppress(ConnectionError):
            await process.communicate()

    async def _started(self) -> Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        await self.stop()
        module = "shoal_engine.grammar_check"
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, str(self._timeout_s)), stdin=PIPE, stdout=PIPE
        )
        assert process.stdout is not None
        is_ready = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(_START_TIMEOUT_S):
                is_ready = await process.stdout.readline()
        if not is_ready:
            await self.stop()
            raise Unavailable("the process that judges grammars does not start; try again")
        return process


async def _ask(process: Process, source: str) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(source).encode() + b"\n")
    await process.stdin.drain()
    return await process.stdout.readline()
