"""What runs for a data folder: its processes, and the workers and pipelines its router sees."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.table import Table

from shoal.router.v1 import router_pb2
from shoal.worker.v1 import pipeline_pb2
from shoal_cli import peers
from shoal_common.errors import DeadlineExceeded, Unavailable

log = logging.getLogger(__name__)

_MIB = 1 << 20


@dataclass(frozen=True)
class ServiceState:
    """One service of the fleet, as its ready file and the system describe it."""

    name: str
    pid: int
    is_alive: bool
    address: str
    memory_bytes: int


def read_services(run_dir: Path) -> list[ServiceState]:
    """Every service that wrote a ready file, by name."""
    found = []
    for path in sorted(run_dir.glob("*.ready.json")):
        try:
            ready = json.loads(path.read_bytes())
            pid = int(ready["pid"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # Being rewritten by a service that restarts.
        address = str(ready.get("http") or ready.get("grpc") or "")
        found.append(_state(path.name.removesuffix(".ready.json"), pid, address))
    return found


def _state(name: str, pid: int, address: str) -> ServiceState:
    try:
        memory_bytes = int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return ServiceState(name, pid, False, address, 0)
    return ServiceState(name, pid, True, address, memory_bytes)


async def tables(data_dir: Path) -> list[Table]:
    """Processes, and what the router sees when it answers."""
    run_dir = data_dir / "run"
    found = [service_table(read_services(run_dir))]
    try:
        router = json.loads((run_dir / "router.ready.json").read_bytes())["grpc"]
        token = (data_dir / "fleet_token").read_text().strip()
        found.append(fleet_table(await peers.get_fleet(router, token)))
    except (OSError, ValueError, KeyError, Unavailable, DeadlineExceeded) as err:
        log.info("router not reached", extra={"error": str(err)})
    return found


def service_table(services: list[ServiceState]) -> Table:
    """One row per process."""
    table = Table("service", "state", "process", "address", "memory MiB", title="Processes")
    for each in services:
        state = "[green]up[/]" if each.is_alive else "[red]down[/]"
        table.add_row(each.name, state, str(each.pid), each.address, str(each.memory_bytes // _MIB))
    return table


def fleet_table(fleet: router_pb2.GetFleetResponse) -> Table:
    """One row per engine of every worker."""
    table = Table("worker", "model", "layers", "state", "running", "KV blocks", title="Workers")
    for worker in fleet.workers:
        node_id = worker.beat.node_id + (
            "" if worker.is_alive else f" (silent {worker.silent_ms} ms)"
        )
        if not worker.beat.engines:
            table.add_row(node_id, "-", "-", "idle", "0", "-")
        for engine in worker.beat.engines:
            table.add_row(node_id, *_engine_cells(engine))
    return table


def _engine_cells(engine: pipeline_pb2.EngineStatus) -> tuple[str, ...]:
    name = pipeline_pb2.EngineState.Name(engine.state).removeprefix("ENGINE_STATE_").lower()
    if engine.state in (pipeline_pb2.ENGINE_STATE_FETCHING, pipeline_pb2.ENGINE_STATE_LOADING):
        name = f"{name} {engine.progress_percent} %"
    used = engine.kv_blocks_total - engine.kv_blocks_free
    return (
        engine.model,
        f"{engine.layer_start}:{engine.layer_stop}",
        f"{name} {engine.detail}".strip(),
        str(engine.running_count),
        f"{used} of {engine.kv_blocks_total}",
    )
