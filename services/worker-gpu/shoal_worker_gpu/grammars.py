"""The grammars of this engine: judged, compiled off the event loop, and kept for the next request.

Owns the deadline on what strangers write, the process that judges it, and the bound on how much is
kept. The vocabulary is read at the first request with a grammar. Does not know sequences.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from shoal.common.v1 import chat_pb2
from shoal.worker.v1 import stage_pb2
from shoal_common.errors import InvalidGrammar, Overloaded
from shoal_engine.grammar import CompiledGrammar, GrammarSpec, TokenTable, compile_grammar
from shoal_worker_gpu.backends.base import Backend
from shoal_worker_gpu.grammar_checker import GrammarChecker

log = logging.getLogger(__name__)

CHECK_TIMEOUT_S = 1.0
_KEPT_MAX = 64
_WAITING_MAX = 32

T = TypeVar("T")


def grammar_from_wire(wire: chat_pb2.GrammarSpec) -> GrammarSpec:
    """Raises InvalidGrammar for a message that names none."""
    kind = wire.WhichOneof("kind")
    if kind == "json_schema":
        return GrammarSpec("json_schema", wire.json_schema)
    if kind == "regex":
        return GrammarSpec("regex", wire.regex)
    if kind == "lark":
        return GrammarSpec("lark", wire.lark)
    if kind == "choice":
        return GrammarSpec("choice", choices=tuple(wire.choice.texts))
    if kind == "json_object" and wire.json_object:
        return GrammarSpec("json_object")
    raise InvalidGrammar("it is empty")


class Grammars:
    """Serves any number of requests; what is asked again is answered at once."""

    def __init__(self, backend: Backend, check_timeout_s: float = CHECK_TIMEOUT_S) -> None:
        self._backend = backend
        self._checker = GrammarChecker(check_timeout_s)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._table: TokenTable | None = None
        self._problems: OrderedDict[GrammarSpec, str] = OrderedDict()
        self._compiled: OrderedDict[GrammarSpec, CompiledGrammar] = OrderedDict()
        self._lock = asyncio.Lock()
        self._waiting_count = 0

    async def check(self, spec: GrammarSpec) -> None:
        """Judge a grammar that another stage will compile. Raises InvalidGrammar, Overloaded."""
        problem = self._problems.get(spec)
        if problem is None:
            async with self._turn():
                problem = await self._judge(spec)
        if problem:
            raise InvalidGrammar(problem)

    async def compiled(self, spec: GrammarSpec) -> CompiledGrammar:
        """The grammar over this model's vocabulary.

        Raises InvalidGrammar, also for a tokeniser whose tokens have no known bytes, Overloaded.
        """
        kept = self._compiled.get(spec)
        if kept is not None and not kept.is_worn:
            self._compiled.move_to_end(spec)
            return kept
        await self.check(spec)
        async with self._turn():
            loop = asyncio.get_running_loop()
            compiled = await loop.run_in_executor(self._executor, self._compile, spec)
        _keep(self._compiled, spec, compiled)
        return compiled

    async def prepared(self, request: stage_pb2.GenerateRequest) -> CompiledGrammar | None:
        """What the head needs before it admits a request: the grammar compiled where this engine
        also samples, judged where another one does; None without one. Raises as `compiled`."""
        if not request.HasField("grammar"):
            return None
        spec = grammar_from_wire(request.grammar)
        if len(request.pipeline.stages) == 1:
            return await self.compiled(spec)
        await self.check(spec)
        return None

    async def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        await self._checker.stop()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One grammar at a time; a bounded number waits."""
        if self._waiting_count >= _WAITING_MAX:
            raise Overloaded(f"{_WAITING_MAX} grammars wait to be compiled; try again shortly")
        self._waiting_count += 1
        try:
            async with self._lock:
                yield
        finally:
            self._waiting_count -= 1

    async def _judge(self, spec: GrammarSpec) -> str:
        problem = self._problems.get(spec)
        if problem is None:
            try:
                source = await asyncio.to_thread(spec.source)
                problem = await self._checker.problem_of(source)
            except InvalidGrammar as err:
                problem = err.problem
            _keep(self._problems, spec, problem)
        return problem

    def _compile(self, spec: GrammarSpec) -> CompiledGrammar:
        """Runs in the executor's only thread."""
        if self._table is None:
            backend = self._backend
            if backend.model_folder is None:
                raise InvalidGrammar("this backend has no vocabulary to hold a reply to it")
            self._table = TokenTable.from_folder(
                backend.model_folder, backend.vocab_size, sorted(backend.eos_token_ids)
            )
            log.info("vocabulary read", extra={"token_count": backend.vocab_size})
        return compile_grammar(spec, self._table)


def _keep(kept: OrderedDict[GrammarSpec, T], spec: GrammarSpec, value: T) -> None:
    kept[spec] = value
    kept.move_to_end(spec)
    while len(kept) > _KEPT_MAX:
        kept.popitem(last=False)
