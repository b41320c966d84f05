"""The edges of a process: signals, the ready file, and dying with one's parent."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop

from shoal_common.app import die_with_parent, run_service, until_signal, write_ready_file

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's prctl")

# A parent that starts a child which holds the write end of our pipe, then waits for ever.
_PARENT = """
import os, subprocess, sys
from shoal_common.app import die_with_parent
fd = int(sys.argv[1])
code = {child!r}
child = subprocess.Popen(
    [sys.executable, "-c", code, str(fd), str(os.getpid())], pass_fds=[fd], {options}
)
os.close(fd)
child.wait()
"""
_WAITING_CHILD = """
import os, sys, signal
os.write(int(sys.argv[1]), b"up")
signal.pause()
"""
_CALLING_CHILD = """
import os, sys, signal
from shoal_common.app import die_with_parent
die_with_parent(int(sys.argv[2]))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(int(sys.argv[1]), b"up")
signal.pause()
"""


def test_service_runs_on_uvloop_and_returns() -> None:
    async def main() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert run_service(main) == uvloop.Loop.__module__


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_and_is_named(number: signal.Signals) -> None:
    async def main() -> str:
        waiting = asyncio.create_task(until_signal())
        await asyncio.sleep(0)
        os.kill(os.getpid(), number)
        return await waiting

    assert run_service(main) == number.name
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_a_cancelled_wait_gives_the_signals_back() -> None:
    waiting = asyncio.create_task(until_signal())
    await asyncio.sleep(0)
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_ready_file_says_pid_and_addresses(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ready.json"
    write_ready_file(path, grpc="127.0.0.1:1", side="")
    write_ready_file(path, grpc="127.0.0.1:2", side="")
    content = json.loads(path.read_text())
    assert content == {"pid": os.getpid(), "grpc": "127.0.0.1:2", "side": ""}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_no_ready_file_is_written_without_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_ready_file(None, grpc="127.0.0.1:1")
    assert not list(tmp_path.iterdir())


def _killed_parent_takes_child_along(child: str, options: str) -> bool:
    """Whether the child's end of a pipe closes once its parent got SIGKILL."""
    reading, writing = os.pipe()
    script = _PARENT.format(child=child, options=options)
    parent = subprocess.Popen([sys.executable, "-c", script, str(writing)], pass_fds=[writing])
    os.close(writing)
    try:
        assert os.read(reading, 2) == b"up"
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        readable, _, _ = select.select([reading], [], [], 10)
        return bool(readable) and os.read(reading, 1) == b""
    finally:
        parent.kill()
        parent.wait()
        os.close(reading)


@linux_only
def test_a_child_that_asks_for_it_dies_with_its_killed_parent() -> None:
    assert _killed_parent_takes_child_along(_CALLING_CHILD, "")


@linux_only
def test_a_program_started_with_it_as_preexec_dies_with_its_killed_parent() -> None:
    assert _killed_parent_takes_child_along(_WAITING_CHILD, "preexec_fn=die_with_parent")


@linux_only
def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    code = "from shoal_common.app import die_with_parent as d; d(2**22 + 1); print('alive')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == b""


@pytest.mark.skipif(sys.platform.startswith("linux"), reason="Linux has it")
def test_elsewhere_it_does_nothing() -> None:
    die_with_parent()
