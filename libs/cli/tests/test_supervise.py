"""Processes are started behind gates, restarted with growing pauses, and never left behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from shoal_cli.errors import StartFailed
from shoal_cli.supervise import Backoff, ChildState, ProcessSpec, Supervisor

READY = "import json,os,sys,time;json.dump({'pid':os.getpid()},open(sys.argv[1],'w'));"


class NoWaitClock:
    """Real time, but pauses are only noted; `paused` is set with each."""

    def __init__(self) -> None:
        self.pauses_s: list[float] = []
        self.paused = asyncio.Event()

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    async def sleep(self, delay_s: float) -> None:
        self.pauses_s.append(delay_s)
        self.paused.set()
        await asyncio.sleep(0)


class Lines:
    """A sink that can be waited on."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self._changed = asyncio.Event()

    def __call__(self, name: str, text: str) -> None:
        self.seen.append((name, text))
        self._changed.set()

    async def until(self, text: str, count: int = 1) -> None:
        while sum(text in line for _, line in self.seen) < count:
            self._changed.clear()
            await self._changed.wait()


def spec(code: str, folder: Path, name: str = "child", **changes: float) -> ProcessSpec:
    ready_file = folder / f"{name}.json"
    argv = (sys.executable, "-c", code, str(ready_file))
    return ProcessSpec(name, argv, ready_file=ready_file, **changes)  # type: ignore[arg-type]


def supervisor(lines: Lines, clock: NoWaitClock | None = None) -> Supervisor:
    return Supervisor(clock or NoWaitClock(), lines, os.environ)


@pytest.mark.parametrize(
    ("lives_s", "pauses_s"),
    [
        ([0, 0, 0, 0], [0.5, 1, 2, 4]),
        ([0, 0, 0, 0, 0, 0, 0, 0], [0.5, 1, 2, 4, 8, 16, 30, 30]),
        ([0, 0, 59.9, 60, 0], [0.5, 1, 2, 0.5, 1]),
    ],
)
def test_backoff_doubles_to_its_limit_and_starts_again_after_a_healthy_minute(
    lives_s: list[float], pauses_s: list[float]
) -> None:
    backoff = Backoff()
    assert [backoff.after(life_s) for life_s in lives_s] == pauses_s


async def test_start_returns_what_the_ready_file_says(tmp_path: Path) -> None:
    fleet = supervisor(Lines())
    ready = await fleet.start(spec(READY + "time.sleep(60)", tmp_path))
    assert ready == {"pid": fleet.children[0].pid}
    await fleet.stop()


async def test_stale_ready_file_does_not_pass_the_gate(tmp_path: Path) -> None:
    one = spec("import time;time.sleep(60)", tmp_path, ready_timeout_s=0.3)
    assert one.ready_file is not None
    one.ready_file.write_text("{}")
    with pytest.raises(StartFailed, match=r"not ready within 0\.3 s"):
        await supervisor(Lines()).start(one)


async def test_process_that_ends_before_it_is_ready_fails_with_its_last_words(
    tmp_path: Path,
) -> None:
    with pytest.raises(StartFailed, match=r"exit status 3.*\n.*no such model"):
        await supervisor(Lines()).start(spec("print('no such model');exit(3)", tmp_path))


async def test_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="/no/such/program: No such file"):
        await supervisor(Lines()).start(ProcessSpec("ghost", ("/no/such/program",)))


async def test_port_gate_opens_when_the_port_listens(unused_port: int) -> None:
    code = f"import socket,time;s=socket.create_server(('127.0.0.1',{unused_port}));time.sleep(60)"
    fleet = supervisor(Lines())
    one = ProcessSpec("listener", (sys.executable, "-c", code), ready_port=unused_port)
    assert await fleet.start(one) == {}
    await fleet.stop()


async def test_killed_process_comes_back_with_a_new_pid(tmp_path: Path) -> None:
    lines, clock = Lines(), NoWaitClock()
    fleet = supervisor(lines, clock)
    code = READY + "print('serving',flush=True);time.sleep(60)"
    first = (await fleet.start(spec(code, tmp_path)))["pid"]
    os.kill(first, signal.SIGKILL)
    await lines.until("serving", count=2)
    child = fleet.children[0]
    assert child.pid not in (None, first)
    assert clock.pauses_s == [0.5]
    assert child.restart_count == 1
    assert any("signal SIGKILL" in text for _, text in lines.seen)
    await fleet.stop()


async def test_each_failed_restart_waits_longer(tmp_path: Path) -> None:
    lines, clock = Lines(), NoWaitClock()
    fleet = supervisor(lines, clock)
    # Comes up once; every later start fails.
    code = f"import os,sys;m={str(tmp_path / 'mark')!r};os.path.exists(m) and sys.exit(5);"
    code += "open(m,'w');" + READY + "time.sleep(60)"
    os.kill((await fleet.start(spec(code, tmp_path)))["pid"], signal.SIGKILL)
    await lines.until("starts again", count=4)
    await fleet.stop()
    assert clock.pauses_s[:4] == [0.5, 1.0, 2.0, 4.0]


async def test_stop_goes_in_reverse_order_and_lets_processes_finish(tmp_path: Path) -> None:
    lines = Lines()
    fleet = supervisor(lines)
    code = "import signal;signal.signal(15,lambda *a:(print('bye',flush=True),sys.exit(0)));"
    for name in ("first", "second", "third"):
        await fleet.start(spec("import sys;" + code + READY + "time.sleep(60)", tmp_path, name))
    await fleet.stop()
    await fleet.stop()
    assert [name for name, text in lines.seen if text == "bye"] == ["third", "second", "first"]


async def test_processes_of_a_group_stop_together(tmp_path: Path) -> None:
    # Each of the pair ends only once the other has been told to end as well.
    code = """
import signal,sys,time,pathlib
own,other=(pathlib.Path(sys.argv[1]).with_suffix("."+n) for n in NAMES)
def end(*_):
    own.touch()
    while not other.exists(): time.sleep(0.01)
    print("bye",flush=True); sys.exit(0)
signal.signal(15,end)
"""
    lines = Lines()
    fleet = supervisor(lines)
    await fleet.start(spec("import sys;" + READY + "time.sleep(60)", tmp_path, "before"))
    for names in (("one", "two"), ("two", "one")):
        one = spec(f"NAMES={names!r}{code}{READY}time.sleep(60)", tmp_path, "pair")
        await fleet.start(replace(one, name=names[0], group="pair"))
    await fleet.stop()
    assert sorted(name for name, text in lines.seen if text == "bye") == ["one", "two"]
    assert fleet.children == ()


async def test_state_is_told_through_a_restart(tmp_path: Path) -> None:
    lines = Lines()
    states: list[str] = []

    def note() -> None:
        states.extend(child.state for child in fleet.children)

    fleet = Supervisor(NoWaitClock(), lines, os.environ, note)
    os.kill((await fleet.start(spec(READY + "time.sleep(60)", tmp_path)))["pid"], signal.SIGKILL)
    await lines.until("is up again (restart 1)")
    child = fleet.children[0]
    assert child.ready == {"pid": child.pid}
    await fleet.stop()
    down = [ChildState.WAITING, ChildState.STARTING, ChildState.UP, ChildState.STOPPED]
    assert states == [ChildState.STARTING, ChildState.UP, *down]


async def test_quiet_lines_are_shown_only_in_the_report_of_a_failure(tmp_path: Path) -> None:
    lines = Lines()
    one = spec("print('[INF] listening');print('[ERR] bad');exit(1)", tmp_path)
    with pytest.raises(StartFailed, match="listening"):
        await supervisor(lines).start(replace(one, quiet_mark="[INF]"))
    assert lines.seen == [("child", "[ERR] bad")]


async def test_process_deaf_to_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    code = (
        "import signal,subprocess,sys;signal.signal(15,signal.SIG_IGN);"
        "p=subprocess.Popen([sys.executable,'-c','import time;time.sleep(60)']);"
        "import json,os,time;ready={'pid':os.getpid(),'grandchild':p.pid};"
        "json.dump(ready,open(sys.argv[1],'w'));"
        "time.sleep(60)"
    )
    fleet = supervisor(Lines())
    ready = await fleet.start(spec(code, tmp_path, stop_timeout_s=0.2))
    watched = [psutil.Process(ready["pid"]), psutil.Process(ready["grandchild"])]
    await fleet.stop()
    assert_gone(watched)


async def test_kill_cuts_a_slow_stop_short(tmp_path: Path) -> None:
    lines = Lines()
    fleet = supervisor(lines)
    code = "import signal;signal.signal(15,lambda *a:print('not yet',flush=True));"
    await fleet.start(spec(READY + "time.sleep(60)", tmp_path, "before"))
    await fleet.start(
        spec(code + READY + "print('here',flush=True)\nwhile 1:time.sleep(60)", tmp_path)
    )
    await lines.until("here")
    assert fleet.last_lines("child", 3) == ("here",)
    assert fleet.last_lines("before", 3) == ()
    stopping = asyncio.create_task(fleet.stop())
    await lines.until("not yet")
    fleet.kill()
    await asyncio.wait_for(stopping, timeout=10)  # A stop without it may last 15 s.
    assert fleet.children == ()
    assert not any("starts again" in text for _, text in lines.seen)


async def test_lines_are_forwarded_whole_even_when_long_or_not_utf8(tmp_path: Path) -> None:
    lines = Lines()
    fleet = supervisor(lines)
    code = r"sys.stdout.buffer.write(b'\xff start\n'+b'x'*200000+b'\nlast\n');sys.stdout.flush();"
    await fleet.start(spec(READY + code + "time.sleep(60)", tmp_path))
    await lines.until("last")
    await fleet.stop()
    texts = [text for _, text in lines.seen]
    assert texts[0].endswith("start")
    assert max(len(text) for text in texts) <= 8192


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="parent-death signal is Linux's")
def test_kill_9_of_the_supervisor_leaves_no_process(tmp_path: Path) -> None:
    script = f"""
import asyncio, json, os, sys
from pathlib import Path
from shoal_common.clock import SystemClock
from shoal_cli.supervise import ProcessSpec, Supervisor
async def main():
    fleet = Supervisor(SystemClock(), lambda name, text: None, os.environ)
    pids = []
    for name in ("one", "two"):
        ready = Path({str(tmp_path)!r}) / name
        code = {(READY + "import signal;signal.signal(15,signal.SIG_IGN);time.sleep(60)")!r}
        argv = (sys.executable, "-c", code, str(ready))
        pids.append((await fleet.start(ProcessSpec(name, argv, ready_file=ready)))["pid"])
    print(json.dumps(pids), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        watched = [psutil.Process(pid) for pid in json.loads(process.stdout.readline())]
        process.kill()
    assert_gone(watched)


def assert_gone(watched: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(watched, timeout=10)
    # Orphans of a container without an init stay as zombies: dead, but not collected.
    alive = [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    for one in alive:
        one.kill()
    assert alive == []
