"""Several processes on one port: real ones, and how their metrics become one text."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import aiohttp
import psutil
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shoal_common.settings import FleetSettings
from shoal_common.testing.waiting import eventually
from shoal_gateway.errors import ProcessNotStarted
from shoal_gateway.parent import parent_running
from shoal_gateway.processes import Processes, joined_metrics, reserved_port
from shoal_gateway.settings import Settings


def counted(amount: int) -> str:
    registry = CollectorRegistry()
    Counter("requests", "By route {and} more.", ("route",), registry=registry).labels(
        'a "b" {c} d'
    ).inc(amount)
    Gauge("in_flight", "Now.", registry=registry).set(amount)
    return generate_latest(registry).decode()


def test_metrics_of_processes_are_one_text_with_families_together() -> None:
    text = joined_metrics([counted(1), "", counted(3)])
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["requests"].type == "counter"
    totals = [s for s in families["requests"].samples if s.name == "requests_total"]
    assert [(s.labels["process"], s.labels["route"], s.value) for s in totals] == [
        ("0", 'a "b" {c} d', 1.0),
        ("2", 'a "b" {c} d', 3.0),
    ]
    assert [s.value for s in families["in_flight"].samples] == [1.0, 3.0]
    assert text.count("# TYPE in_flight gauge") == 1


def test_a_reserved_port_can_be_shared_but_takes_no_connection() -> None:
    with reserved_port("127.0.0.1", 0) as port:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1)
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", port))


async def test_processes_that_never_come_up_end_it(tmp_path: Path) -> None:
    processes = Processes(2, ["--no-such-flag"], 0.1, tmp_path)
    with pytest.raises(ProcessNotStarted, match="ended with 2"):
        async with processes.running():
            pass
    assert processes.pids == []


@pytest.mark.e2e
async def test_two_processes_serve_one_port_and_one_that_dies_comes_back(tmp_path: Path) -> None:
    settings = Settings(
        listen_port=0, processes=2, drain_timeout_s=1.0, fleet=FleetSettings(data_dir=tmp_path)
    )
    flags = ["--data-dir", str(tmp_path), "--template-workers", "1", "--drain-timeout-s", "1"]
    flags += ["--router-address", "127.0.0.1:1", "--log-level", "error"]
    async with parent_running(settings, flags) as (address, side_address, processes):
        assert processes.are_up
        first, second = processes.pids
        async with aiohttp.ClientSession() as session:
            text = await read(session, f"http://{address}/metrics")
            assert 'process="0"' in text
            assert 'process="1"' in text
            assert await read(session, f"http://{side_address}/readyz") == "ready\n"
            os.kill(first, signal.SIGKILL)
            await eventually(lambda: first not in processes.pids and processes.are_up)
            assert second in processes.pids
            assert await read(session, f"http://{address}/health") == '{"status": "ok"}'
        left = [psutil.Process(pid) for pid in processes.pids]
        assert len(left) == 2
    assert not any(process.is_running() for process in left)


async def read(session: aiohttp.ClientSession, url: str) -> str:
    async with asyncio.timeout(10), session.get(url) as response:
        assert response.status == 200
        return await response.text()
