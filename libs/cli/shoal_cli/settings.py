"""The command's view of the environment; the only module of the package that reads it.

The services read their own variables; what `up` decides for them is written over the inherited
environment in `supervise`.
"""

from __future__ import annotations

import contextlib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

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


def named_redis(
    service: str, environment: Mapping[str, str], config: Path | None, data_dir: Path
) -> str:
    """The Redis that a service (`router`, `gateway`) is told of; empty where it is none.

    Looks where the service will look: in the config file, in `.env` of the working and the data
    folder, in variables, each stronger than the one before. What is wrong is for the service to
    refuse.
    """
    named = config or Path(environment.get("SHOAL_CONFIG") or data_dir / "config.toml")
    url = _redis_in_file(named.expanduser(), service)
    variables: dict[str, str | None] = {}
    for folder in (Path.cwd(), data_dir):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            variables |= dotenv_values(folder / ".env", interpolate=False)
    variables |= environment
    for name in ("REDIS_URL", f"SHOAL_{service.upper()}_REDIS_URL"):
        said = variables.get(name)
        url = url if said is None else said
    return url


def _redis_in_file(path: Path, service: str) -> str:
    try:
        section = tomllib.loads(path.read_text()).get(service)
    except (OSError, ValueError):
        return ""
    url = section.get("redis_url") if isinstance(section, dict) else None
    return url if isinstance(url, str) else ""


def core_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_key(data_dir: Path) -> str:
    """The key that `up` wrote; empty when there is none."""
    try:
        return (data_dir / "api_key").read_text().strip()
    except OSError:
        return ""
