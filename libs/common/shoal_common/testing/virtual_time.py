"""An event loop whose time is virtual: it jumps to the next timer when nothing else is left to do.

`asyncio.sleep`, `asyncio.timeout` and a `LoopClock` run on the same time, so that hours of waiting
pass in the time that the work between them takes, and one seed gives one history. A loop is shared
by several processes of a simulated fleet: whoever runs `in_process(name)` can be frozen, as by
SIGSTOP, and is then frozen with every task, timer and callback that it has made.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import random
from asyncio import base_events, events
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

PROCESS: contextvars.ContextVar[str] = contextvars.ContextVar("simulated_process", default="")
# Turns of the loop without time passing after which somebody is taken to spin.
_SPIN_MAX = 50_000
_RESOLUTION_S = 1e-9


class Stalled(Exception):
    """Nobody will ever wake again, or somebody never sleeps."""


@contextmanager
def in_process(name: str) -> Iterator[None]:
    """Tasks, timers and callbacks made inside belong to the process of that name."""
    token = PROCESS.set(name)
    try:
        yield
    finally:
        PROCESS.reset(token)


class LoopClock:
    """A Clock that reads the running loop."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def time(self) -> float:
        return 1_700_000_000.0 + self.monotonic()

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)


class VirtualTask(asyncio.Task[Any]):
    """A task whose place in a set depends on when it was made, not on where it lies in memory.

    process: the one that it belongs to.
    """

    _numbers = itertools.count(1)

    def __new__(cls, *_: Any, **__: Any) -> VirtualTask:
        task = super().__new__(cls)
        task.number = next(cls._numbers)
        return task

    number: int

    def __init__(self, coro: Any, **options: Any) -> None:
        context = options.get("context")
        self.process = PROCESS.get() if context is None else context.get(PROCESS, "")
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return self is other


class VirtualLoop(base_events.BaseEventLoop):
    """Time begins at 1000 s. There are no sockets, threads or child processes here.

    Work given to threads (`asyncio.to_thread`) is done at once, on the loop.
    """

    # From BaseEventLoop: callbacks that are due, and timers as a heap.
    _ready: deque[events.Handle]
    _scheduled: list[events.TimerHandle]

    def __init__(self, start_s: float = 1000.0) -> None:
        super().__init__()
        self._now_s = start_s
        self._clock_resolution = _RESOLUTION_S
        self.turn_count = 0
        """Turns of the loop so far: two runs of one history have the same."""
        self._frozen: dict[str, list[events.Handle]] = {}
        self._spin_count = 0
        VirtualTask._numbers = itertools.count(1)
        self.set_task_factory(_make_task)

    def time(self) -> float:
        return self._now_s

    def freeze(self, process: str) -> None:
        """Nothing of this process runs until `thaw`. Time goes on."""
        self._frozen.setdefault(process, [])

    def thaw(self, process: str) -> None:
        """What was due meanwhile runs now, in the order in which it became due."""
        self._ready.extend(self._frozen.pop(process, ()))

    def is_frozen(self, process: str) -> bool:
        return process in self._frozen

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> Any:
        if isinstance(executor, VirtualExecutor):
            return asyncio.wrap_future(executor.submit(func, *args), loop=self)
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as err:
            done.set_exception(err)
        return done

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        return self.call_soon(callback, *args, context=context)

    def _run_once(self) -> None:
        """One turn, in the place of the one that waits for sockets."""
        if not self._ready:
            self._jump()
        for _ in range(len(self._ready)):
            handle = self._ready.popleft()
            if handle.cancelled():
                continue
            if self._frozen and (waiting := self._waiting_with(handle)) is not None:
                waiting.append(handle)
                continue
            handle._run()
        self._spin_count += 1
        self.turn_count += 1
        if self._spin_count > _SPIN_MAX:
            raise Stalled(f"time stands still at {self._now_s:.3f} s: somebody never sleeps")

    def _jump(self) -> None:
        """To the next timer."""
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)
        if self._stopping:  # type: ignore[attr-defined]
            return
        if not self._scheduled:
            raise Stalled(f"at {self._now_s:.3f} s everybody waits, and nothing will come")
        self._now_s = max(self._now_s, self._scheduled[0].when())
        self._spin_count = 0
        while self._scheduled and self._scheduled[0].when() <= self._now_s:
            self._ready.append(heapq.heappop(self._scheduled))

    def _waiting_with(self, handle: events.Handle) -> list[events.Handle] | None:
        context: contextvars.Context = handle._context  # type: ignore[attr-defined]
        return self._frozen.get(context.get(PROCESS, ""))

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        """A cancelled timer is dropped when its time comes."""

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps in the system."""


class VirtualExecutor(Executor):
    """A compute thread that needs virtual time for its work.

    duration_s: asked for each piece of work. What the work reads and writes it touches at its
    beginning or at its end, at random: memory that is given away meanwhile shows up either way.
    """

    def __init__(self, duration_s: Callable[..., float], random: random.Random) -> None:
        self._duration_s = duration_s
        self._random = random
        self._timers: set[asyncio.TimerHandle] = set()
        self._futures: dict[Future[Any], None] = {}

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        loop = asyncio.get_running_loop()
        duration_s = self._duration_s(*args, **kwargs)
        touches_first = self._random.random() < 0.5
        outcome = _outcome(fn, *args, **kwargs) if touches_first else None

        def end() -> None:
            self._futures.pop(future, None)
            result, error = outcome or _outcome(fn, *args, **kwargs)
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._futures[future] = None
        loop.call_later(duration_s, end)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nobody waits here for work that has begun."""
        if cancel_futures:
            for future in list(self._futures):
                future.cancel()


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `main()` on a loop of its own, to its end; whatever else runs then is cancelled."""
    loop = VirtualLoop()
    events.set_event_loop(loop)
    try:
        return loop.run_until_complete(main())
    finally:
        try:
            _end(loop)
        finally:
            events.set_event_loop(None)
            loop.close()


def tasks_of(loop: asyncio.AbstractEventLoop, process: str) -> list[VirtualTask]:
    """Tasks of a process that have not ended, in the order in which they were made."""
    found = [
        task
        for task in asyncio.all_tasks(loop)
        if isinstance(task, VirtualTask) and task.process == process
    ]
    return sorted(found, key=lambda task: task.number)


def _end(loop: VirtualLoop) -> None:
    """Let everybody go. What they still have to say interests nobody."""
    loop.set_exception_handler(lambda *_: None)
    for process in list(loop._frozen):
        loop.thaw(process)
    for _ in range(20):
        tasks = asyncio.all_tasks(loop)
        if not tasks:
            break
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks, timeout=30))
    loop.run_until_complete(loop.shutdown_asyncgens())


def _make_task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Future[Any]:
    return VirtualTask(coro, loop=loop, **options)


def _outcome(fn: Callable[..., T], *args: Any, **kwargs: Any) -> tuple[Any, Exception | None]:
    try:
        return fn(*args, **kwargs), None
    except Exception as err:
        return None, err
