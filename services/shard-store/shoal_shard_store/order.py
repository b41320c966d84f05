"""What somebody asked to have here, kept until it is done.

Owns `<downloads>/<model>/order.json` and `journal.jsonl` (digests of shards that arrived), so that
a download goes on after a restart. Blocking: call it from a thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from blake3 import blake3

from shoal_common.errors import InvalidRequest
from shoal_shard_store.blob_store import folder_bytes
from shoal_shard_store.catalog import check_model_name

log = logging.getLogger(__name__)

_JOURNAL_SIZE_BYTES_MAX = 64 << 20


@dataclass(frozen=True)
class Order:
    """A model, or some layers of it (half-open), from somewhere."""

    model: str
    repo: str = ""
    repo_revision: str = ""
    file: str = ""
    layers: tuple[int, int] | None = None
    is_fair_share: bool = False

    def wanted_layers(self, layer_count: int, node_id: str, node_ids: list[str]) -> range | None:
        """Which layers to fetch; None for all. Raises InvalidRequest for those beyond the model."""
        if self.layers is not None:
            start, stop = self.layers
            if not 0 <= start < stop <= layer_count:
                raise InvalidRequest(
                    f"layers {start}:{stop} are not in '{self.model}', which has {layer_count}; "
                    f"ranges are half-open, such as 0:{layer_count}",
                    param="layers",
                )
            return range(start, stop)
        return (
            fair_share(self.model, layer_count, node_id, node_ids) if self.is_fair_share else None
        )


def fair_share(model: str, layer_count: int, node_id: str, node_ids: list[str]) -> range:
    """This node's layers when all nodes divide them evenly, in the order of BLAKE3(node, model).

    Nodes that know the same nodes agree, and together have every layer once.
    """
    nodes = sorted(
        {*node_ids, node_id}, key=lambda node: blake3(f"{node}\0{model}".encode()).digest()
    )
    place = nodes.index(node_id)
    return range(place * layer_count // len(nodes), (place + 1) * layer_count // len(nodes))


class OrderBook:
    """The folder of unfinished downloads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def sweep(self) -> int:
        """Delete half-written and quarantined files of an earlier process; returns how many."""
        stale = [*self.folder.glob("*/*.tmp"), *self.folder.glob("*/*.quarantine")]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def put(self, order: Order) -> None:
        """Keep an order until `close`."""
        folder = self._folder_of(order.model)
        folder.mkdir(mode=0o700, exist_ok=True)
        unfinished = folder / "order.tmp"
        unfinished.write_text(json.dumps(asdict(order)))
        os.replace(unfinished, folder / "order.json")

    def orders(self) -> Iterator[Order]:
        """What a process that died, or was stopped, had not finished."""
        for path in sorted(self.folder.glob("*/order.json")):
            try:
                fields = json.loads(path.read_bytes())
                layers = fields.pop("layers")
                yield Order(layers=tuple(layers) if layers else None, **fields)
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                log.warning("order cannot be read", extra={"model": path.parent.name})

    def withdraw(self, model: str) -> None:
        """Forget an order; what has arrived stays for the next one."""
        (self._folder_of(model) / "order.json").unlink(missing_ok=True)

    def close(self, model: str) -> None:
        """Forget an order that is done, and its journal."""
        folder = self._folder_of(model)
        self.withdraw(model)
        (folder / "journal.jsonl").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # Something else of the model is on its way.
            folder.rmdir()

    def discard(self, model: str) -> int:
        """Delete all that is unfinished of a model; returns the bytes freed."""
        folder = self._folder_of(model)
        size_bytes = folder_bytes(folder)
        shutil.rmtree(folder, ignore_errors=True)
        return size_bytes

    def unfinished_bytes(self, model: str) -> int:
        """Bytes of shards that are on their way and will not be fetched again."""
        parts = self._folder_of(model).glob("*.part")
        return sum(path.lstat().st_size for path in parts)

    def knows(self, model: str) -> bool:
        """Whether anything unfinished of a model is here."""
        return self._folder_of(model).is_dir()

    def note(self, model: str, key: str, digest: str) -> None:
        """Write down that a shard is a blob now."""
        with (self._folder_of(model) / "journal.jsonl").open("a") as file:
            file.write(json.dumps({"key": key, "digest": digest}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def journal(self, model: str) -> dict[str, str]:
        """Digests by shard key; a line that was cut short counts nothing."""
        found: dict[str, str] = {}
        try:
            path = self._folder_of(model) / "journal.jsonl"
            if path.stat().st_size > _JOURNAL_SIZE_BYTES_MAX:
                return found
            lines = path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return found
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                found[entry["key"]] = entry["digest"]
        return found

    def _folder_of(self, model: str) -> Path:
        check_model_name(model)
        return self.folder / model
