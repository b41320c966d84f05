"""What every `app.py` needs around its wiring: the loop, the signals, the ready file, the parent.

Owns the process's edges. Does not know what runs between them.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run_service(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `main` on uvloop, on asyncio's own loop where uvloop does not exist; returns its result.

    Everything that `main` left running is cancelled before this returns.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # not to be had on Windows

    return uvloop.new_event_loop


def settle_memory() -> None:
    """Take what the start has made out of the garbage collector's sight, as it will stay.

    A full collection walks every module otherwise: a tenth of a second in which nothing is served.
    """
    gc.collect()
    gc.freeze()


async def until_signal() -> str:
    """Wait for SIGTERM or SIGINT and name it.

    Afterwards the signals have their default effect again: a second one ends a drain that hangs.
    """
    loop = asyncio.get_running_loop()
    received: asyncio.Future[str] = loop.create_future()

    def on_signal(name: str) -> None:
        if not received.done():
            received.set_result(name)

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, on_signal, number.name)
    try:
        return await received
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def write_ready_file(path: Path | None, **addresses: str) -> None:
    """Say on disk that this process is up: `{"pid": ..., **addresses}`, whole or not at all.

    Does nothing without a path. The file is readable by its owner only.
    """
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"pid": os.getpid(), **addresses}, file)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def die_with_parent(parent_pid: int = 0) -> None:
    """Let the kernel kill this process the moment its parent is gone, by SIGKILL even.

    Call it in the child: first thing in its `main`, or as `preexec_fn` (it survives exec).
    parent_pid: whom the child expects to be its parent; where it already has another one, the
    child ends here. Linux only; elsewhere it does nothing. The parent *thread* that started the
    child counts as the parent, so start children from a thread that lives as long as the process.
    """
    if not sys.platform.startswith("linux"):
        return
    expected = parent_pid or os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_PDEATHSIG): {os.strerror(code)}")
    # The parent may have died before the kernel knew whom to watch.
    if os.getppid() != expected:
        os.kill(os.getpid(), signal.SIGKILL)
