"""The command's view of the environment; the only module of the package that reads it.

The services read their own variables; what `up` decides for them is written over the inherited
environment in `supervise`.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_PORT = 8800
FOREIGN_PREFIXES = ("RELAY_", "SWARMLLM_")

# gRPC's C core reports every fork at its default level, and our children fork only to exec.
_CHILD_DEFAULTS = {"GRPC_VERBOSITY": "ERROR", "GRPC_ENABLE_FORK_SUPPORT": "0"}


@dataclass(frozen=True)
class CliSettings:
    """What the environment says to the command line.

    `data_dir` holds keys, pid files and stored models ($SHOAL_DATA_DIR); `api_key` replaces the
    key file ($SHOAL_API_KEY); `environment` is everything, for child processes,
    with gRPC kept quiet unless it says otherwise.
    """

    data_dir: Path
    api_key: str
    environment: Mapping[str, str]

    @property
    def foreign_names(self) -> list[str]:
        """Names of variables meant for other systems, sorted."""
        return sorted(name for name in self.environment if name.startswith(FOREIGN_PREFIXES))


def load(data_dir: Path | None = None, environment: Mapping[str, str] | None = None) -> CliSettings:
    """Read the environment (or the one given); `data_dir` from an option wins."""
    variables = dict(os.environ) if environment is None else dict(environment)
    # Services refuse SHOAL_ variables they do not know, and this one is ours alone.
    api_key = variables.pop("SHOAL_API_KEY", "")
    named = variables.get("SHOAL_DATA_DIR", "")
    for name, value in _CHILD_DEFAULTS.items():
        variables.setdefault(name, value)
    folder = data_dir or (Path(named) if named else Path.home() / ".local/share/shoal")
    return CliSettings(folder.expanduser().absolute(), api_key, variables)


def names_redis(environment: Mapping[str, str], config: Path | None, data_dir: Path) -> bool:
    """Whether the gateway is told of a Redis, by variables or by the services' config file."""
    if any(environment.get(name) for name in ("REDIS_URL", "SHOAL_GATEWAY_REDIS_URL")):
        return True
    try:
        named = config or Path(environment.get("SHOAL_CONFIG") or data_dir / "config.toml")
        sections = tomllib.loads(named.read_text())
    except (OSError, ValueError):  # A file that is wrong is the services' to refuse.
        return False
    gateway = sections.get("gateway")
    return isinstance(gateway, dict) and bool(gateway.get("redis_url"))


def core_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_key(data_dir: Path) -> str:
    """The key that `up` wrote; empty when there is none."""
    try:
        return (data_dir / "api_key").read_text().strip()
    except OSError:
        return ""
