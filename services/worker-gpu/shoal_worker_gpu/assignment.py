"""What an agent asks an engine child to be."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shoal_common.errors import InvalidRequest

_ASSIGNMENT = re.compile(r"(?P<model>[^@\s]{1,256})(@(?P<start>\d+):(?P<stop>\d*))?")


@dataclass(frozen=True)
class Assignment:
    """Layers [layer_start, layer_stop) of a model; layer_stop 0 means to the last layer."""

    model: str
    layer_start: int = 0
    layer_stop: int = 0

    @property
    def is_part(self) -> bool:
        """Layers are named."""
        return self.layer_start > 0 or self.layer_stop > 0

    def __str__(self) -> str:
        if not self.is_part:
            return self.model
        return f"{self.model}@{self.layer_start}:{self.layer_stop or ''}"


def parse_assignments(text: str) -> tuple[Assignment, ...]:
    """`heavyweight@0:3, drafter` to assignments. Raises InvalidRequest naming the bad part."""
    found: list[Assignment] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = _ASSIGNMENT.fullmatch(part)
        start = int(match["start"] or 0) if match else 0
        stop = int(match["stop"] or 0) if match else 0
        if match is None or (stop and stop <= start):
            raise InvalidRequest(
                f"'{part}' is not an assignment; write model@start:stop with half-open layers, "
                "for example heavyweight@0:3, or the model's name alone",
                param="load",
            )
        found.append(Assignment(match["model"], start, stop))
    return tuple(dict.fromkeys(found))
