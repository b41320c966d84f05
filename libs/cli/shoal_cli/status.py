"""What runs for a data folder: its processes, and the workers and pipelines its router sees."""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.markup import escape
from rich.table import Table

from shoal.router.v1 import router_pb2
from shoal.worker.v1 import pipeline_pb2
from shoal_cli import peers
from shoal_cli.fleet import PROCESSES_FILE
from shoal_common.errors import DeadlineExceeded, Unavailable

log = logging.getLogger(__name__)

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


async def tables(data_dir: Path) -> list[Table]:
    """Processes, and what the router sees when it answers."""
    run_dir = data_dir / "run"
    found = [service_table(read_services(run_dir / PROCESSES_FILE))]
    try:
        router = json.loads((run_dir / "router.ready.json").read_bytes())["grpc"]
        token = (data_dir / "fleet_token").read_text().strip()
        found.append(fleet_table(await peers.get_fleet(router, token)))
        found.append(model_table(await peers.list_models(router, token)))
    except (OSError, ValueError, KeyError, Unavailable, DeadlineExceeded) as err:
        log.info("router not reached", extra={"error": str(err)})
    return found


def service_table(services: list[ServiceState]) -> Table:
    """One row per process."""
    table = Table("service", "state", "process", "address", "MiB", "restarts", title="Processes")
    for each in services:
        colour = _STATE_COLOURS.get(each.state, "yellow")
        table.add_row(
            each.name,
            f"[{colour}]{each.state}[/]",
            "-" if each.pid is None else str(each.pid),
            each.address,
            str(each.memory_bytes // _MIB),
            str(each.restart_count),
        )
    return table


def model_table(models: router_pb2.ListModelsResponse) -> Table:
    """One row per model: whether every layer is held, and by how many pipelines."""
    table = Table("model", "state", "layers", "context", "pipelines", title="Models")
    for model in models.models:
        missing = ", ".join(
            f"{each.layer_start}:{each.layer_stop}" for each in model.layers_missing
        )
        if model.is_ready:
            state = "[green]ready[/]"
        elif model.readiness == router_pb2.MODEL_READINESS_LOADING:
            state = f"[yellow]loading, {model.loading_percent}%[/]"
        elif model.readiness == router_pb2.MODEL_READINESS_LOADABLE:
            state = "loaded on demand"
        else:
            state = f"[red]nobody holds {missing or 'it'}[/]"
        table.add_row(
            escape(model.model),
            state,
            str(model.layer_count),
            str(model.context_length),
            str(model.pipeline_count),
        )
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
    layers = f"{engine.layer_start}:{engine.layer_stop}" if engine.layer_stop else "-"
    return (
        escape(engine.model),
        layers,
        escape(f"{name} {engine.detail}".strip()),
        str(engine.running_count),
        f"{used} of {engine.kv_blocks_total}",
    )
