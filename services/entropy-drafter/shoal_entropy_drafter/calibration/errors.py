"""What a calibration can fail with, as leaves of `shoal_common.errors`.

ShoalError
├── PromptsBroken       a file of labelled prompts cannot be read, or one of its lines
└── NotCalibratable     the answers cannot say where a threshold should be
"""

from __future__ import annotations

from pathlib import Path

from shoal_common.errors import ShoalError


class PromptsBroken(ShoalError):
    """`line` counts from 1; 0 where it is the file as a whole."""

    reason = "PROMPTS_BROKEN"
    exit_status = 2

    def __init__(self, path: Path, line: int, problem: str) -> None:
        where = f"{path}:{line}" if line else str(path)
        super().__init__(f"{where}: {problem}")
        self.line = line


class NotCalibratable(ShoalError):
    """Too few prompts, or a drafter that is always right or always wrong on them."""

    reason = "NOT_CALIBRATABLE"
    exit_status = 1
