"""The calls that `shoal models` makes to a shard-store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from shoal.shard_store.v1 import shard_store_pb2, shard_store_pb2_grpc
from shoal_cli.errors import NotRunning, StartFailed
from shoal_common.errors import ShoalError
from shoal_common.rpc import RpcChannel, translated

_CALL_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Wanted:
    """What to fetch. Layers are half-open; None means all."""

    repo: str = ""
    file: str = ""
    revision: str = ""
    model: str = ""
    layers: tuple[int, int] | None = None
    is_share: bool = False

    @classmethod
    def named(
        cls,
        what: str,
        file: str,
        revision: str,
        model: str,
        layers: tuple[int, int] | None,
        is_share: bool,
    ) -> Wanted:
        """From what a person typed: a URL, a GGUF file here, owner/repo, or a model's name."""
        if what.startswith(("http://", "https://")):
            return cls(what, file, revision, model or _last(what), layers, is_share)
        path = Path(what).expanduser()
        if what.endswith(".gguf") and path.is_file():
            # Made absolute without following links: the shard-store refuses those itself.
            return cls("", str(path.absolute()), "", model or path.stem, layers, is_share)
        if "/" not in what:
            return cls("", file, revision, model or what, layers, is_share)
        name = model or (Path(file).stem if file else _last(what))
        return cls(what, file, revision, name, layers, is_share)

    @property
    def label(self) -> str:
        """For the progress bar."""
        span = f" {self.layers[0]}:{self.layers[1]}" if self.layers else ""
        return f"{self.model}{span}"

    def message(self) -> shard_store_pb2.AcquireModelRequest:
        """As the shard-store is asked."""
        request = shard_store_pb2.AcquireModelRequest(
            request_id=uuid.uuid4().hex,
            repo=self.repo,
            file=self.file,
            repo_revision=self.revision,
            model=self.model,
            is_fair_share=self.is_share,
        )
        if self.layers is not None:
            request.layers.layer_start, request.layers.layer_stop = self.layers
        return request


def _last(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1]


class ModelStore:
    """A connection to one shard-store. Every call raises ShoalError."""

    def __init__(self, address: str, token: str) -> None:
        self._channel = RpcChannel(address, token=token)
        self._stub: Any = shard_store_pb2_grpc.ShardStoreServiceStub(self._channel.channel)

    @classmethod
    def find(cls, data_dir: Path, address: str | None) -> ModelStore:
        """The store at `address`, else that of the fleet of a data folder. Raises NotRunning."""
        token = ""
        with contextlib.suppress(OSError):
            token = (data_dir / "fleet_token").read_text().strip()
        if address is None:
            try:
                ready = data_dir / "run" / "shard-store.ready.json"
                address = str(json.loads(ready.read_bytes())["grpc"])
            except (OSError, ValueError, KeyError, TypeError) as err:
                raise NotRunning(data_dir) from err
        return cls(address, token)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._channel.close()

    async def acquire(
        self, wanted: Wanted, show: Callable[[shard_store_pb2.Download], None]
    ) -> shard_store_pb2.Download:
        """Fetch to the end, showing every step. Being cancelled stops the download, too."""
        last: shard_store_pb2.Download | None = None
        try:
            with translated():
                async for step in self._stub.AcquireModel(wanted.message()):
                    last = step.download
                    show(last)
        except asyncio.CancelledError:
            with contextlib.suppress(ShoalError, TimeoutError):
                async with asyncio.timeout(_CALL_TIMEOUT_S):
                    await self.cancel(wanted.model)
            raise
        if last is None or last.state != shard_store_pb2.DOWNLOAD_STATE_COMPLETE:
            raise StartFailed("download", f"the shard-store ended the download of {wanted.label}")
        return last

    async def models(self) -> Sequence[shard_store_pb2.StoredModel]:
        request = shard_store_pb2.ListModelsRequest()
        with translated():
            answer = await self._stub.ListModels(request, timeout=_CALL_TIMEOUT_S)
        return list(answer.models)

    async def downloads(self) -> Sequence[shard_store_pb2.Download]:
        request = shard_store_pb2.ListDownloadsRequest()
        with translated():
            answer = await self._stub.ListDownloads(request, timeout=_CALL_TIMEOUT_S)
        return list(answer.downloads)

    async def cancel(self, model: str) -> bool:
        request = shard_store_pb2.CancelDownloadRequest(request_id=uuid.uuid4().hex, model=model)
        with translated():
            answer = await self._stub.CancelDownload(request, timeout=_CALL_TIMEOUT_S)
        return bool(answer.was_cancelled)

    async def pin(self, model: str, groups: Sequence[str]) -> None:
        request = shard_store_pb2.PinModelRequest(
            request_id=uuid.uuid4().hex, model=model, groups=groups
        )
        with translated():
            await self._stub.PinModel(request, timeout=_CALL_TIMEOUT_S)

    async def unpin(self, model: str, groups: Sequence[str]) -> None:
        request = shard_store_pb2.UnpinModelRequest(
            request_id=uuid.uuid4().hex, model=model, groups=groups
        )
        with translated():
            await self._stub.UnpinModel(request, timeout=_CALL_TIMEOUT_S)

    async def remove(self, model: str, layers: tuple[int, int] | None) -> int:
        """Returns the bytes freed."""
        request = shard_store_pb2.RemoveModelRequest(request_id=uuid.uuid4().hex, model=model)
        if layers is not None:
            request.layers.layer_start, request.layers.layer_stop = layers
        with translated():
            answer = await self._stub.RemoveModel(request, timeout=_CALL_TIMEOUT_S)
        return int(answer.freed_bytes)

    async def prune(self, model: str, is_dry_run: bool) -> shard_store_pb2.PruneResponse:
        request = shard_store_pb2.PruneRequest(
            request_id=uuid.uuid4().hex, model=model, is_dry_run=is_dry_run
        )
        with translated():
            answer: shard_store_pb2.PruneResponse = await self._stub.Prune(
                request, timeout=_CALL_TIMEOUT_S
            )
        return answer
