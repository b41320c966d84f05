"""What an agent tells an engine child: its assignment and its settings.

Torch-free, so that the agent starts at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal_worker_gpu.assignment import Assignment
from shoal_worker_gpu.settings import Settings


@dataclass(frozen=True)
class Order:
    """What the agent wants.

    token: the fleet's. agent_pid: the child's parent. memory_max_bytes: what the child may take;
    None: what is free.
    """

    node_id: str
    assignment: Assignment
    threads: int
    ready_file: Path
    settings: Settings
    token: str
    agent_pid: int
    memory_max_bytes: int | None = None

    def dump(self) -> str:
        """As JSON. Holds the token: write it to a file of mode 0600."""
        data: dict[str, Any] = {
            "node_id": self.node_id,
            "assignment": [
                self.assignment.model,
                self.assignment.layer_start,
                self.assignment.layer_stop,
            ],
            "threads": self.threads,
            "ready_file": str(self.ready_file),
            "settings": self.settings.model_dump(mode="json", exclude={"fleet": {"token"}}),
            "token": self.token,
            "agent_pid": self.agent_pid,
            "memory_max_bytes": self.memory_max_bytes,
        }
        return json.dumps(data)

    @classmethod
    def parse(cls, text: str) -> Order:
        data = json.loads(text)
        return cls(
            node_id=data["node_id"],
            assignment=Assignment(*data["assignment"]),
            threads=data["threads"],
            ready_file=Path(data["ready_file"]),
            settings=Settings(**data["settings"]),
            token=data["token"],
            agent_pid=data["agent_pid"],
            memory_max_bytes=data["memory_max_bytes"],
        )
