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
from functools import cached_property
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


@dataclass(frozen=True)
class ServiceOptions:
    """What the services of a data folder are told, seen from outside.

    Looks where a service will look: in the config file, in `.env` of the working and the data
    folder, in variables, each stronger than the one before. What is wrong is for the service to
    refuse.
    """

    environment: Mapping[str, str]
    config: Path | None
    data_dir: Path

    def named(self, service: str, option: str, also: str = "") -> str | None:
        """The text of an option (`gateway`, `redis_url`); None where nothing is said of it.

        also: the variable of wider use that the option reads.
        """
        value = self._in_file(service, option)
        for name in (also, f"SHOAL_{service}_{option}".upper()):
            said = self._variables.get(name)
            value = value if said is None else said
        return value

    @cached_property
    def _variables(self) -> Mapping[str, str | None]:
        found: dict[str, str | None] = {}
        for folder in (Path.cwd(), self.data_dir):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                found |= dotenv_values(folder / ".env", interpolate=False)
        return found | dict(self.environment)

    @cached_property
    def _sections(self) -> Mapping[str, object]:
        named = self.environment.get("SHOAL_CONFIG") or self.data_dir / "config.toml"
        try:
            content = tomllib.loads((self.config or Path(named)).expanduser().read_text())
        except (OSError, ValueError):
            return {}
        return {name.replace("-", "_"): section for name, section in content.items()}

    def _in_file(self, service: str, option: str) -> str | None:
        section = self._sections.get(service)
        value = section.get(option) if isinstance(section, dict) else None
        return value if isinstance(value, str) else None


def core_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_key(data_dir: Path) -> str:
    """The key that `up` wrote; empty when there is none."""
    try:
        return (data_dir / "api_key").read_text().strip()
    except OSError:
        return ""
