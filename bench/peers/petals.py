"""Petals 2.2.0.post1: whether it can be installed here, and if not, why.

It would need a venv of its own: its last release pins transformers 4.33 and pydantic 1. What stands
in the way is its network library, whose source package predates today's setuptools and fetches a Go
program from GitHub while it is built. That package alone is tried, in seconds, before gigabytes are
fetched for the rest. No figure of Petals is taken: it has not installed anywhere this was run.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from bench.conditions import Conditions
from bench.figures import Report, Skipped

_TIMEOUT_S = 300.0
# The newest setuptools that still has pkg_resources, which the package's setup.py imports.
_TOOLS = ("setuptools<70", "wheel", "grpcio-tools")
_LIBRARY = "hivemind==1.1.10.post2"


async def measure(report: Report, conditions: Conditions) -> None:
    """Raises Skipped, always: with what pip said, or with what would have to be written."""
    with tempfile.TemporaryDirectory(prefix="shoal-petals-") as folder:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                reason = await _install(Path(folder))
        except TimeoutError:
            reason = f"not installed within {_TIMEOUT_S:.0f} s"
    if reason:
        raise Skipped(f"Petals does not install here: {reason}")
    raise Skipped(f"{_LIBRARY} builds here, but there is no measurement of Petals")


async def _install(folder: Path) -> str:
    """Build the library in a new venv; what went wrong, empty when nothing did."""
    commands = (
        (sys.executable, "-m", "venv", str(folder)),
        (str(folder / "bin" / "pip"), "install", "-q", *_TOOLS),
        (
            str(folder / "bin" / "pip"),
            "install",
            "-q",
            "--no-build-isolation",
            "--no-deps",
            _LIBRARY,
        ),
    )
    for command in commands:
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
            return said(output.decode(errors="replace"))
    return ""


def said(output: str) -> str:
    """The first error in pip's output that is not about pip, with the line before it."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("error: ") and "subprocess" not in line:
            return f"{before}: {line}" if before else line
    return lines[-1] if lines else "pip said nothing"
