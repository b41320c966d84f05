"""Other gateways' own virtual environments, made once and kept."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

from bench.figures import Skipped
from bench.peers.petals import said

_TIMEOUT_S = 900.0
_DONE_MARK = "installed"


async def ensure(name: str, requirements: tuple[str, ...], folder: Path) -> Path:
    """The `bin` folder of an environment under `folder` that has `requirements`.

    Made anew when they changed. Raises Skipped, with what pip said.
    """
    home = folder / name
    wanted = hashlib.sha256("\n".join(requirements).encode()).hexdigest()
    mark = home / _DONE_MARK
    if mark.exists() and mark.read_text() == wanted:
        return home / "bin"
    print(f"installing {name} into {home} ...", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await _run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(home))
            pip = (sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"))
            await _run(*pip, "install", "-q", *requirements)
    except TimeoutError as err:
        raise Skipped(f"{name} was not installed within {_TIMEOUT_S:.0f} s") from err
    mark.write_text(wanted)
    return home / "bin"


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise Skipped(said(output.decode(errors="replace")))
