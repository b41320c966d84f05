"""What runs for a data folder: its processes, and the fleet that its router sees.

Owns one look at it and looking again; `fleet_rows` and `fleet_tables` know what is shown.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from shoal_cli import peers, pids
from shoal_cli.errors import NotRunning
from shoal_cli.fleet import PROCESSES_FILE
from shoal_cli.fleet_rows import FleetRows, fleet_rows
from shoal_cli.fleet_tables import tables
from shoal_common.errors import ShoalError

_MIB = 1 << 20
_STATE_COLOURS = {"up": "green", "down": "red"}


@dataclass(frozen=True)
class ServiceState:
    """One process of the fleet, as its supervisor and the system describe it.

    `pid` is None while it is down. `memory_bytes` counts the processes it started as well.
    """

    name: str
    state: str
    pid: int | None
    address: str
    restart_count: int
    memory_bytes: int


def read_services(processes_file: Path) -> list[ServiceState]:
    """Every process the supervisor noted, in the order of start; none before the first."""
    try:
        noted = json.loads(processes_file.read_bytes())
    except (OSError, ValueError):
        return []
    return [
        ServiceState(
            each["name"],
            each["state"],
            each["pid"],
            each["address"],
            each["restart_count"],
            _memory_bytes(each["pid"]),
        )
        for each in noted
    ]


def _memory_bytes(pid: int | None) -> int:
    """Resident memory of a process and of what it started; 0 when it is gone."""
    if pid is None:
        return 0
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += int(each.memory_info().rss)
    return total


@dataclass(frozen=True)
class Snapshot:
    """One look. `fleet` is None where the router does not answer; `problem` then says why."""

    url: str
    pid: int
    services: tuple[ServiceState, ...]
    fleet: FleetRows | None
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def look(data_dir: Path) -> Snapshot:
    """What there is now. Raises NotRunning where no fleet is."""
    owner = pids.read_owner(data_dir)
    if owner is None:
        raise NotRunning(data_dir)
    services = tuple(read_services(data_dir / "run" / PROCESSES_FILE))
    fleet, problem = None, ""
    try:
        router = peers.router_of(data_dir)
        fleet = fleet_rows(await peers.get_fleet(*router), await peers.list_models(*router))
    except ShoalError as err:
        problem = f"nothing is known of workers and models: {err}"
    return Snapshot(owner.url, owner.pid, services, fleet, problem)


def rendered(snapshot: Snapshot) -> RenderableType:
    """The whole look, for a terminal or a file."""
    parts: list[RenderableType] = [
        Text(f"{snapshot.url} (supervisor: process {snapshot.pid})"),
        service_table(snapshot.services),
    ]
    if snapshot.fleet is not None:
        parts += tables(snapshot.fleet)
    if snapshot.problem:
        parts.append(Text(snapshot.problem, style="red"))
    return Group(*parts)


async def watch(
    look_again: Callable[[], Awaitable[Snapshot]],
    console: Console,
    pause: Callable[[], Awaitable[None]],
) -> None:
    """Shows what `look_again` brings until it raises or is cancelled: in place on a terminal, one
    look below the other elsewhere."""
    if not console.is_terminal:
        while True:
            console.print(rendered(await look_again()))
            await pause()
    first = rendered(await look_again())
    with Live(first, console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            await pause()
            now = time.strftime("%H:%M:%S")
            told = Text(f"{now}; Ctrl-C ends", style="dim")
            live.update(Group(rendered(await look_again()), told), refresh=True)


def service_table(services: Sequence[ServiceState]) -> Table:
    """One row per process."""
    table = Table("service", "state", "process", "address", "MiB", "restarts", title="Processes")
    for each in services:
        colour = _STATE_COLOURS.get(each.state, "yellow")
        table.add_row(
            escape(each.name),
            f"[{colour}]{each.state}[/]",
            "-" if each.pid is None else str(each.pid),
            each.address,
            str(each.memory_bytes // _MIB),
            str(each.restart_count),
        )
    return table
