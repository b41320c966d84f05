"""What the command line can fail with; `main` prints the message and exits with `exit_status`.

CliError
├── PortBusy            another program listens where the gateway should
├── AlreadyRunning      the data folder has a fleet already
├── NotRunning          `down`, `status` or `plan` without a fleet
├── RouterSilent        the fleet's router does not answer
├── NoPlan              a request for the model would be refused now
├── ModelMissing        no folder with a model there, no GGUF file either
├── ModelRefused        the shard-store does not take the model in
├── BadOptions          options that contradict each other
├── DataDirUnusable     the data folder cannot be made or written
├── ProgramMissing      an executable that should have been installed
├── StartFailed         a process of the fleet did not become ready
└── GatewayFailed       the gateway answered with an error, or not at all
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shoal_common.errors import ShoalError


class CliError(ShoalError):
    """Base of what a person at the terminal has to act on."""

    reason = "CLI"
    exit_status = 1
    """1 when something failed, 2 when the command was asked the wrong way."""


class PortBusy(CliError):
    """Something else listens on the port."""

    reason = "PORT_BUSY"

    def __init__(self, host: str, port: int) -> None:
        super().__init__(
            f"port {port} on {host} is in use by another program: "
            f"stop that program (`ss -ltnp 'sport = :{port}'` names it) "
            "or choose another port with --port"
        )


class AlreadyRunning(CliError):
    """The data folder's pid file names a living supervisor."""

    reason = "ALREADY_RUNNING"

    def __init__(self, pid: int, url: str, data_dir: Path) -> None:
        super().__init__(
            f"a fleet is already running on {data_dir} (process {pid}, {url}): "
            "stop it with `shoal down`, or give another --data-dir and --port"
        )


class NotRunning(CliError):
    """No living supervisor in the data folder."""

    reason = "NOT_RUNNING"

    def __init__(self, data_dir: Path) -> None:
        super().__init__(f"no fleet is running on {data_dir}: start one with `shoal up`")


class RouterSilent(CliError):
    """The fleet is there, and its router is not, or not yet."""

    reason = "ROUTER_SILENT"

    def __init__(self, detail: str) -> None:
        super().__init__(
            f"the fleet's router does not answer ({detail}): try again in a few seconds; "
            "`shoal status` shows whether its process runs"
        )


class NoPlan(CliError):
    """Nothing could serve a request; the router's words say what is missing."""

    reason = "NO_PLAN"

    def __init__(self, model: str, problem: str) -> None:
        super().__init__(f"a request for '{model}' would be refused now: {problem}")


class ModelMissing(CliError):
    """Neither a Hugging Face folder nor a GGUF file at the path."""

    reason = "MODEL_MISSING"
    exit_status = 2

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} holds no model (no config.json, no .gguf): "
            "give a local Hugging Face folder or a GGUF file with --model PATH"
        )


class ModelRefused(CliError):
    """The shard-store does not take the model in; its words say why and what to do."""

    reason = "MODEL_REFUSED"

    def __init__(self, path: Path, detail: str) -> None:
        super().__init__(f"{path} cannot be served: {detail}")


class BadOptions(CliError):
    """Options that contradict each other."""

    reason = "BAD_OPTIONS"
    exit_status = 2


class DataDirUnusable(CliError):
    """Keys and state cannot be kept where they should be."""

    reason = "DATA_DIR_UNUSABLE"

    def __init__(self, data_dir: Path, detail: str) -> None:
        super().__init__(
            f"the data folder {data_dir} cannot be used ({detail}): "
            "choose another with --data-dir or SHOAL_DATA_DIR"
        )


class ProgramMissing(CliError):
    """An executable that a dependency should have installed."""

    reason = "PROGRAM_MISSING"

    def __init__(self, program: str, package: str) -> None:
        super().__init__(f"{program} was not found: install it with `pip install {package}`")


class StartFailed(CliError):
    """A process did not pass its health gate."""

    reason = "START_FAILED"

    def __init__(self, name: str, detail: str, last_lines: Sequence[str] = ()) -> None:
        said = "".join(f"\n  {line}" for line in last_lines)
        super().__init__(
            f"{name} did not start: {detail}" + (f"; it said last:{said}" if said else "")
        )
        self.name = name


class GatewayFailed(CliError):
    """The gateway cannot be reached or answered with an error.

    status: of the HTTP answer; 0 where there was none, or where it came to nothing afterwards.
    retry_after_s: what the gateway asked to wait; 0 where it did not.
    """

    reason = "GATEWAY_FAILED"

    def __init__(self, detail: str, status: int = 0, retry_after_s: float = 0.0) -> None:
        super().__init__(detail)
        self.status = status
        self.retry_after_s = retry_after_s
