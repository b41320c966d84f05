"""The agent's wiring, in order of life: settings, logs, engines, beats, servers, drain."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from shoal.worker.v1 import worker_pb2_grpc
from shoal_common.app import run_service, until_signal, write_ready_file
from shoal_common.clock import SystemClock
from shoal_common.ids import NodeId, new_incarnation, new_node_id
from shoal_common.log import setup
from shoal_common.metrics import new_registry
from shoal_common.rpc import RpcServer
from shoal_common.settings import load
from shoal_common.side import SideServer
from shoal_worker_gpu import stock
from shoal_worker_gpu.agent import Agent
from shoal_worker_gpu.agent_rpc import WorkerRpc
from shoal_worker_gpu.assignment import parse_assignments
from shoal_worker_gpu.beat import BeatThread
from shoal_worker_gpu.metrics import AgentMetrics
from shoal_worker_gpu.settings import Settings


def main(argv: Sequence[str] | None = None) -> None:
    """Run a worker until SIGTERM."""
    settings = load(Settings, argv)
    setup("worker-gpu", settings.fleet.log_level, settings.fleet.log_format)
    settings.log_ignored()
    run_service(lambda: run(settings))


async def run(settings: Settings) -> None:
    registry = new_registry()
    metrics = AgentMetrics(registry)
    node_id = stable_node_id(settings)
    token = settings.fleet.secret_token()
    run_dir = settings.fleet.data_dir / "worker" / node_id
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    agent = Agent(node_id, new_incarnation(), settings, SystemClock(), metrics, run_dir)
    kv_subject = f"shoal.worker.{node_id}.kv"
    beats = BeatThread(
        settings.fleet.nats_url,
        token,
        node_id,
        settings.beat_interval_s,
        agent.beat,
        metrics,
        answers={f"{kv_subject}.snapshot": lambda: agent.kv.snapshot().SerializeToString()},
        listeners={stock.SUBJECT: agent.stock.hear},
    )
    server = RpcServer(
        settings.listen_address, token=token, drain_timeout_s=settings.drain_timeout_s
    )
    server.add(worker_pb2_grpc.add_WorkerServiceServicer_to_server, WorkerRpc(agent, metrics))
    side = SideServer(settings.side_address, registry, lambda: bool(agent.locator))
    assignments = parse_assignments(settings.load)
    side_address = await side.start()
    address = await server.start()
    agent.locator = f"grpc:{address}"
    agent.on_change = beats.beat_now
    agent.on_kv = lambda message: beats.post(kv_subject, message)
    beats.start()
    agent.load_configured(assignments)
    idle_watch = asyncio.create_task(agent.watch_idle())
    write_ready_file(settings.ready_file, grpc=address, side=side_address)
    try:
        await until_signal()
    finally:
        idle_watch.cancel()
        await asyncio.gather(idle_watch, return_exceptions=True)
        await asyncio.to_thread(beats.stop)
        await agent.close()
        await server.stop()
        await side.stop()


def stable_node_id(settings: Settings) -> NodeId:
    """The configured name, else the one kept in the data folder, made on the first start."""
    if settings.node_id:
        return NodeId(settings.node_id)
    path: Path = settings.fleet.data_dir / "worker" / "node_id"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return NodeId(path.read_text().strip())
    with os.fdopen(handle, "w") as file:
        node_id = new_node_id()
        file.write(node_id)
    return node_id
